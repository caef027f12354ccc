"""After how many inputs a series like an attack's is noticed."""

from __future__ import annotations

import math

import numpy as np

from bench.remote.exchange import Inputs
from bench.remote.probing import limits
from bench.remote.probing.base import Bounds, CannotTestError, Probe, Verdict, fails, holds
from bench.remote.probing.context import Context
from bench.remote.probing.shots import Seen
from bench.remote.target import Target

UNSTATED, MOST = 200, 1_000
"""Inputs where the target file states no number, and at most."""
LATER = 1.10
"""A stated number holds up to this many times it."""
BENIGN = 3
"""Ordinary inputs before and after the series."""
NEAR = 1e-3
"""Standard deviation of the difference between two inputs of the series."""
SHARE = 0.8
"""Of the rate limit, that is used."""


def _most(target: Target) -> int:
    stated = target.detected_after
    return UNSTATED if stated is None else min(MOST, math.ceil(LATER * stated) + 1)


def bounds(target: Target) -> Bounds:
    """Return what the series needs, below the rate limit that is stated."""
    most, limit = _most(target) + 2 * BENIGN, limits.stated_limit(target)
    windows = 1 if limit is None else 2 + math.ceil(most / max(1, SHARE * limit.inputs))
    return limits.bounds(target, most, windows=windows)


def run(context: Context) -> Verdict:
    """Send unlikely inputs that are nearly equal, one by one, until the account is treated differently."""
    account, most = context.accounts.spare, _most(context.target)
    limit = limits.stated_limit(context.target)
    share = most if limit is None else max(1, math.floor(SHARE * limit.inputs))
    if limit is not None:
        limits.clear(context, limit, account)
    ordinary = [context.inputs(1, start=place) for place in range(BENIGN)]
    before = [context.ask(each, account=account) for each in ordinary]
    if not all(each.answered for each in before):
        raise CannotTestError(
            "the account gets no answers to ordinary inputs before the series; add another account to the "
            "target file, or name ordinary inputs by --data FILE"
        )
    series, noticed = _series(context, most), None
    sent = 0
    for place in range(most):
        if limit is not None and (place + BENIGN) % share == 0:
            limits.clear(context, limit, account)
        seen = context.ask(series.part(place, place + 1), account=account)
        sent += 1
        if seen.limited:
            advice = "a quota may be used up" if limit else "state that as stated_rate"
            raise CannotTestError(
                f"after {sent - 1} inputs the target answered {seen.status}, as for its rate; {advice}"
            )
        if seen.undecided:
            raise CannotTestError(
                f"input {sent} of the series was answered with {seen.status or 'nothing'}: perhaps a fault"
            )
        if not seen.answered or _withheld(context, seen):
            noticed = seen
            break
    stated = context.target.detected_after
    if noticed is None:
        claim = f", and the target file states {stated:,}" if stated else ""
        return fails(f"{sent:,} unlikely, nearly equal inputs were answered like any others{claim}.")
    after = [context.ask(each, account=account) for each in ordinary]
    still = sum(each.answered for each in after)
    said = (
        f"Input {sent:,} of the series was treated differently ({noticed.status}); of {BENIGN} ordinary "
        f"inputs afterwards {still} were answered."
    )
    if stated is not None and sent > LATER * stated:
        return fails(f"{said} The target file states {stated:,}.", requests=(noticed.id,))
    return holds(said, requests=(noticed.id,))


def _withheld(context: Context, seen: Seen) -> bool:
    """Return whether an answer with success has no answer in it."""
    table = context.table(seen)
    return table is None or bool(np.isnan(table).any())


def _series(context: Context, number: int) -> Inputs:
    """Return nearly equal inputs that nothing natural looks like; rows of texts are mixed by column."""
    random = np.random.default_rng(20_260_102)
    source = context.source
    if isinstance(source.rows, np.ndarray) and source.rows.dtype.kind == "f":
        low, high = float(source.rows.min()), float(source.rows.max())
        base = random.uniform(low, high, source.rows.shape[1:])
        rows = np.clip(base + random.normal(0, NEAR * (high - low), (number, *base.shape)), low, high)
        return Inputs(rows.astype(np.float32), rows, source.columns)
    rows_of = [list(row) for row in source.rows]
    columns = range(len(rows_of[0]))
    mixed = [[rows_of[random.integers(len(rows_of))][column] for column in columns]] * number
    return Inputs(np.zeros((number, 1), np.float32), mixed, source.columns)


PROBE = Probe(
    name="detection",
    asks="Is a series of unlikely, nearly equal inputs noticed, and after how many?",
    controls=(7,),
    atlas=("AML.M0024",),
    exchange=("#UNWANTED INPUT SERIES HANDLING", "#MONITOR USE"),
    bounds=bounds,
    paced=False,
    run=run,
    uses_up=True,
)
