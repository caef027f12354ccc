"""The page that shows how far an attack that claims to match all others is below the best of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.analysis.adaptive_check import universal_attacks
from bench.analysis.claim_table import ClaimRun
from bench.analysis.held_out_rival import HeldOut
from bench.analysis.interval_text import in_table, in_text, joined, number
from bench.analysis.shortfall import (
    MEAN_LIMIT,
    PLACE_LIMIT,
    Place,
    Places,
    Shortfall,
    shortfall,
)
from bench.analysis.threat_models import attackers
from bench.errors import UsageError
from bench.files import write_atomically
from bench.metrics.intervals import Interval
from bench.plan.shipped_matrices import shipped
from bench.report.attacks import read_as
from bench.report.markdown import code, markdown, plain
from bench.report.stored_runs import source_line
from bench.report.templates import rendered

PAGE = "auto.md"
SHOWN = 10
"""How many places the page lists."""


def shortfall_of(runs: Sequence[ClaimRun]) -> Shortfall:
    """Return the shortfall over runs; raises UsageError where no attack can be compared."""
    found = shortfall([(run.name, run.findings) for run in runs])
    if not found.attacks:
        raise UsageError("no run has an attack that claims to match all others; run a matrix with auto")
    if not found.every.tested:
        reasons = "; ".join(f"{count} × {reason}" for reason, count in found.left_out.items())
        why = reasons or "no rival of the same training configuration was run"
        raise UsageError(f"nothing to compare {', '.join(found.attacks)} with: {why}")
    return found


def write_shortfall(found: Shortfall, runs: Sequence[ClaimRun], folder: Path) -> Path:
    """Write the page to ``folder``; return its path."""
    path = folder / PAGE
    write_atomically(path, shortfall_page(found, runs) + "\n")
    return path


def shortfall_page(found: Shortfall, runs: Sequence[ClaimRun]) -> str:
    """Return the page."""
    claimed = found.claimed
    names = attackers({place.threat for place in claimed.places})
    worst = sorted(claimed.tested, key=lambda place: -_value(place.same))[:SHOWN]
    # A place that is shown to be beyond the limit is never cut off.
    worst += [place for place in claimed.beyond if place not in worst]
    return rendered(
        "shortfall",
        attack=" and ".join(code(name) for name in found.attacks),
        verdict=[
            *_verdict(claimed, " with enough queries" if found.small.tested else ""),
            *_with_small(found),
        ],
        worst=markdown(
            ["place", "fidelity (%)", "shortfall (pp)", "any training (pp)", "answers read as"],
            [_row(place, claimed, names[place.threat]) for place in worst],
        ),
        runs=markdown(
            ["run", "places", "mean shortfall (pp)", "any training (pp)", "beyond / not excluded"],
            list(_run_rows(found)),
        ),
        mean_limit=number(100 * MEAN_LIMIT, 0),
        limit=number(100 * PLACE_LIMIT, 0),
        left_out=[f"{count}: {reason}" for reason, count in found.left_out.items()],
        absent=[code(name) for name in _absent(found, runs)],
        without_place=list(_without_place(found, runs)),
        sources=[source_line(run.source()) for run in runs],
    )


def _without_place(found: Shortfall, runs: Sequence[ClaimRun]) -> Iterator[str]:
    """Give the runs of which no place is among those that are compared."""
    used = {place.run for place in found.every.places}
    for run in runs:
        if run.name not in used:
            has_attack = universal_attacks(run.findings)
            without = "" if has_attack else f" (without {' and '.join(map(code, found.attacks))})"
            yield f"{code(run.name)}{without}"


def _absent(found: Shortfall, runs: Sequence[ClaimRun]) -> list[str]:
    """Return the shipped matrices with such an attack of which no run is here."""
    here = {run.name for run in runs}
    texts = {name: entry.read_text(encoding="utf-8") for name, entry in shipped().items()}
    return [
        name
        for name, text in texts.items()
        if name.rpartition("/")[2] not in here and any(f'"{attack}"' in text for attack in found.attacks)
    ]


def _verdict(claimed: Places, which: str) -> list[str]:
    """Return the answers in sentences: on the mean, and on single places; ``which``: what sets them apart."""
    if not claimed.tested:
        return ["**At every place it reports that it has too few queries.**"]
    mean, places = claimed.mean(), _counted(claimed.tested)
    limit, most = number(100 * MEAN_LIMIT, 0), number(100 * PLACE_LIMIT, 0)
    if mean.high <= MEAN_LIMIT:
        kept = f"It keeps the limit of {limit} pp"
    elif mean.low > MEAN_LIMIT:
        kept = f"It does not keep the limit of {limit} pp"
    else:
        kept = f"Whether it keeps the limit of {limit} pp is inconclusive"
    beyond, others = len(claimed.beyond), len(claimed.not_excluded)
    many = "At no place is it" if not beyond else f"At {_counted(claimed.beyond)} it is"
    rest = "the others" if beyond else "all of them"
    return [
        f"**{kept}: on average it is {_side(mean)} the best other attack**, over {places}{which}.",
        f"**{many} shown to be more than {most} pp below** (Holm's correction over {places}).",
        f"At {others} {'more' if beyond else 'of them'}, that much is not excluded."
        if others
        else f"At {rest} that much is excluded, each by its own 95 % interval.",
    ]


def _with_small(found: Shortfall) -> list[str]:
    """Return what holds where the attack reports too few queries, in sentences; none without such places."""
    if not found.small.tested:
        return []
    where, budgets = _counted(found.small.tested), [f"{budget:,}" for budget in _budgets(found.small)]
    queries = joined(budgets)
    level = _side(found.small.mean())
    first = (
        f"At {where} more, with {queries} queries, it reports that these are too few: there it is {level}."
    )
    sentences = [first]
    if found.claimed.tested:
        every = found.every
        sentences.append(f"With these, over {_counted(every.tested)}, it is {_side(every.mean())}.")
    return sentences


def _side(mean: Interval) -> str:
    """Return ``0.4 pp (95 % CI 0.1 to 0.7) below``; for a negative shortfall ``above``, with signs turned."""
    if mean.value >= 0:
        return f"{in_text(mean)} below"
    return f"{in_text(Interval(-mean.value, -mean.high, -mean.low))} above"


def _budgets(places: Places) -> list[int]:
    return sorted({place.budget for place in places.tested})


def _counted(places: Sequence[Place]) -> str:
    return "1 place" if len(places) == 1 else f"{len(places)} places"


def _row(place: Place, claimed: Places, attacker: str) -> list[str]:
    same = place.same
    if same is None:
        return []
    defense = " + ".join(code(text) for text in place.defense) or "none"
    where = f"{plain(place.threat.victim)}: {plain(attacker)}; {defense}; {place.budget:,} queries"
    training = f", {plain(place.own.name)}" if place.own.training else ""
    mark = " (beyond)" if place in claimed.beyond else ""
    level, rival = (number(100 * float(each.mean()), 1) for each in (same.own, same.rival))
    return [
        f"{where}{training} ({code(place.run)})",
        f"{level}, {rival}: {plain(same.favourite)}",
        in_table(same.interval) + mark,
        in_table(place.every.interval),
        plain(read_as(place.own.result)),
    ]


def _run_rows(found: Shortfall) -> Iterator[list[str]]:
    """Give a row for each run, for all of them, and for the places with too few queries."""
    claimed = found.claimed.places
    names = list(dict.fromkeys(place.run for place in claimed))
    for name in names:
        yield _run_row(code(name), Places(tuple(p for p in claimed if p.run == name)), found.claimed)
    if len(names) > 1:
        yield _run_row("all", found.claimed, found.claimed)
    for budget in _budgets(found.small):
        few = Places(tuple(place for place in found.small.places if place.budget == budget))
        yield _run_row(f"too few queries: {budget:,}", few, found.small)


def _run_row(name: str, places: Places, tested_with: Places) -> list[str]:
    """Return a row; ``tested_with``: the places among which Holm's procedure corrects."""
    beyond, others = (
        sum(place in group for place in places.places)
        for group in (tested_with.beyond, tested_with.not_excluded)
    )
    return [
        name,
        str(len(places.tested)),
        in_table(places.mean()),
        in_table(places.mean(any_training=True)),
        f"{beyond} / {others}",
    ]


def _value(compared: HeldOut | None) -> float:
    return compared.shortfall if compared is not None else -math.inf
