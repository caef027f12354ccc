"""The promises of a plugin, checked while it runs: a broken one fails the cell, in one sentence.

The contract tests check the shipped plugins at length; these checks are for everybody's. They cost next to
nothing on batches; single queries are checked together, 256 at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attacks.base import Restoration, TransferSet
from bench.errors import BrokenClaimError, PluginError
from bench.inputs import InputSpace
from defenses.base import Answers, Array, Batch, Calibration, Claims, Mask

Images = NDArray[np.float32]

TOLERANCE = 1e-5
"""Error of a sum, and below zero and above one, that rounding to single precision explains."""
SAME = 1e-6
"""Entries of answers that differ by less are equal: a model's last bits may depend on the batch."""


def require(kept: object, who: str, broken: str, claim: str = "") -> None:
    """Raise PluginError, saying that ``who`` has ``broken`` a promise, unless it was ``kept``.

    ``claim``: the defense's claim that was broken, if the promise was one; then it is a BrokenClaimError.
    """
    if not kept:
        raise BrokenClaimError(f"{who} {broken}", claim) if claim else PluginError(f"{who} {broken}")


# --- defenses


def own_answers(who: str, given: Any, shape: tuple[int, ...]) -> Answers:
    """Return a copy of what a defense answered; raises PluginError for other types and shapes.

    ``shape``: (n, classes) of the answers that it got.
    """
    require(isinstance(given, Answers), who, f"must return Answers, but returned {type(given).__name__}")
    p = given.probabilities
    if not (isinstance(p, np.ndarray) and p.shape == shape and p.dtype == np.float64):
        found = f"{p.dtype} {p.shape}" if isinstance(p, np.ndarray) else type(p).__name__
        raise PluginError(
            f"{who} must answer with a float64 array of shape {shape}, but answered with {found}"
        )
    masks = []
    for name in ("refused", "flagged"):
        mask = getattr(given, name)
        if not (isinstance(mask, np.ndarray) and mask.shape == shape[:1] and mask.dtype == np.bool_):
            found = f"{mask.dtype} {mask.shape}" if isinstance(mask, np.ndarray) else type(mask).__name__
            raise PluginError(
                f"{who} must return {name} as a bool array of shape {shape[:1]}, but returned {found}"
            )
        masks.append(np.array(mask))
    return Answers(np.array(p), *masks)


def check_answers(
    who: str, claims: Claims, before: Array, raw: Array, given: Answers, *, regular: bool
) -> None:
    """Raise PluginError if answers break a claim of the defense ``who``.

    ``before``: (n, classes) what the defense got, NaN where one before it rejected the query. ``raw``: the
    victim's answers. ``regular``: whether the defenses before it claim that ``before`` are distributions.
    """
    n, refused, flagged = len(raw), given.refused, given.flagged
    if not claims.may_refuse and refused.any():
        raise BrokenClaimError(
            f"{who} claims may_refuse=False, but rejected {refused.sum()} of {n} queries", "may_refuse"
        )
    if not claims.may_flag and flagged.any():
        raise BrokenClaimError(
            f"{who} claims may_flag=False, but flagged {flagged.sum()} of {n} queries", "may_flag"
        )
    live = ~(refused | np.isnan(before).any(axis=1))
    if live.all():
        rows, got, truth = given.probabilities, before, raw
    else:
        rows, got, truth = given.probabilities[live], before[live], raw[live]
    if not len(rows):
        return
    low, high = rows.min(), rows.max()
    if not (math.isfinite(low) and math.isfinite(high)):
        bad = int((~np.isfinite(rows)).any(axis=1).sum())
        raise PluginError(
            f"{who} answered {bad} of {n} queries with NaN or infinity, and did not mark them as refused"
        )
    if regular or claims.normalises:
        _check_range(who, claims, got, float(low), float(high))
    if (claims.distribution and regular) or claims.normalises:
        _check_sums(who, claims, got, rows)
    _check_tops(who, claims, got, rows, truth, n)


def _check_tops(who: str, claims: Claims, got: Array, rows: Array, truth: Array, n: int) -> None:
    if claims.one_hot:
        more = ((rows != 0) & (rows != 1)).any(axis=1) | (rows.sum(axis=1) != 1)
        require(
            not more.any(),
            who,
            f"claims one_hot=True, but {more.sum()} of {n} answers say more than a label",
            "one_hot",
        )
    if claims.keeps_label:
        _check_labels(who, got, rows, truth, n)
    if not claims.ties:
        _check_ties(who, got, rows, n)


def _check_range(who: str, claims: Claims, got: Array, low: float, high: float) -> None:
    # A victim's own answers may be off by a rounding error, which a defense may hand on.
    if low < -TOLERANCE and (claims.normalises or low < got.min() - TOLERANCE):
        raise BrokenClaimError(
            f"{who} answered with an entry of {low:.4g}; answers are probabilities in [0, 1]", "range"
        )
    if high > 1 + TOLERANCE and (claims.normalises or high > got.max() + TOLERANCE):
        raise BrokenClaimError(
            f"{who} answered with an entry of {high:.4g}; answers are probabilities in [0, 1]", "range"
        )


def _check_sums(who: str, claims: Claims, got: Array, rows: Array) -> None:
    error = np.abs(rows.sum(axis=1) - 1)
    if error.max() <= TOLERANCE:
        return
    if not claims.normalises:
        error -= np.abs(got.sum(axis=1) - 1)
    worst = int(error.argmax())
    if error[worst] > TOLERANCE:
        claim = "normalises" if claims.normalises else "distribution"
        raise BrokenClaimError(
            f"{who} claims {claim}=True, but answered with a row that sums to {rows[worst].sum():.4g}", claim
        )


def _check_labels(who: str, got: Array, rows: Array, truth: Array, n: int) -> None:
    top = truth.argmax(axis=1)
    lost = rows.argmax(axis=1) != top
    if lost.any():
        # What the defenses before this one have lost is not its fault.
        lost &= (got.argmax(axis=1) == top) & (got.min(axis=1) >= 0)
        require(
            not lost.any(),
            who,
            f"claims keeps_label=True, but changed the top-1 of {lost.sum()} of {n} answers",
            "keeps_label",
        )


def _maxima(rows: Array) -> NDArray[np.int64]:
    counts: NDArray[np.int64] = np.count_nonzero(rows == rows.max(axis=1, keepdims=True), axis=1)
    return counts


def _check_ties(who: str, got: Array, rows: Array, n: int) -> None:
    tied = _maxima(rows) > 1
    if tied.any():
        tied &= (_maxima(got) == 1) & (got.min(axis=1) >= 0)
        require(
            not tied.any(),
            who,
            f"claims ties=False, but in {tied.sum()} of {n} answers several entries share the maximum",
            "ties",
        )


def differs(one: Answers, other: Answers) -> bool:
    """Return whether answers (n, classes) or decisions differ by more than a model's last bits."""
    if not (np.array_equal(one.refused, other.refused) and np.array_equal(one.flagged, other.flagged)):
        return True
    apart = np.abs(one.probabilities - other.probabilities)[~one.refused]
    return not bool((apart <= SAME).all())


def probe(
    who: str, claims: Claims, calibration: Calibration, raw: Array, ask: Callable[[Batch], Answers]
) -> None:
    """Query a fitted defense in several ways with a few inputs; raises PluginError for a broken promise.

    ``calibration``: what it was fitted on, of which the first training inputs are used. ``raw``: (n, classes)
    the victim's answers to the first n of these. ``ask`` returns the defense's answers, in copies.
    """
    n = len(raw)
    inputs = calibration.train_inputs[:n]

    def batch(rows: slice, *, number: int = 5, seed: int = 0, before: Array | None = None) -> Batch:
        return Batch(
            inputs[rows].copy(),
            raw[rows].copy(),
            (raw if before is None else before)[rows].copy(),
            client="probe",
            number=number + (rows.start or 0),
            seed=calibration.seed + seed,
            read_features=calibration.read_features,
        )

    every = slice(0, n)
    whole = ask(batch(every))
    check_answers(who, claims, raw, raw, whole, regular=True)
    require(
        not differs(whole, ask(batch(every))),
        who,
        "answers the same queries differently when they are asked twice with the same seed and number",
    )
    for row in (0, n - 1):
        part = slice(row, row + 1)
        alone, among = (
            ask(batch(part)),
            Answers(whole.probabilities[part], whole.refused[part], whole.flagged[part]),
        )
        require(not differs(alone, among), who, "answers a query alone differently than in a batch")
    if not claims.stochastic:
        other = ask(batch(every, seed=1))
        broken = "claims stochastic=False, but its answers depend on the seed"
        require(not differs(whole, other), who, broken, "stochastic")
    if not claims.counts_queries and (claims.consistent_noise or not claims.stochastic):
        later = ask(batch(every, number=105))
        claim = "consistent_noise" if claims.stochastic else "counts_queries"
        broken = "but its answers depend on the running number of the query"
        require(not differs(whole, later), who, f"claims {claim}={claims.stochastic}, {broken}", claim)
    if claims.normalises:
        for before in (raw / 2, raw - raw.mean(), np.zeros_like(raw)):
            given = ask(batch(every, before=before))
            check_answers(
                who,
                Claims(
                    keeps_label=False,
                    ties=True,
                    normalises=True,
                    may_refuse=claims.may_refuse,
                    may_flag=claims.may_flag,
                ),
                before,
                raw,
                given,
                regular=False,
            )


# --- attacks


def own_transfer_set(who: str, given: Any, inputs: InputSpace, classes: int) -> TransferSet:
    """Return a copy of an attack's transfer set; raises PluginError for other types, shapes and values.

    ``inputs``: what a query may be. A missing value (NaN) is allowed in columns that may have some.
    """
    require(
        isinstance(given, TransferSet), who, f"must return a TransferSet, but returned {type(given).__name__}"
    )
    parts = []
    for name, part, row in (("x", given.x, inputs.shape), ("y", given.y, (classes,))):
        if not (isinstance(part, np.ndarray) and part.dtype == np.float32 and part.shape[1:] == row):
            found = f"{part.dtype} {part.shape}" if isinstance(part, np.ndarray) else type(part).__name__
            wanted = ", ".join(map(str, row))
            raise PluginError(
                f"{who} must return {name} as a float32 array of shape (n, {wanted}), but returned {found}"
            )
        unusable = ~np.isfinite(part)
        if name == "x" and inputs.columns:
            unusable &= ~(np.isnan(part) & inputs.missing)
        bad = int(unusable.any(axis=tuple(range(1, part.ndim))).sum())
        require(not bad, who, f"returned {bad} of {len(part)} rows of {name} with NaN or infinity")
        parts.append(np.array(part, order="C"))
    x, y = parts
    require(len(x) == len(y), who, f"returned {len(x)} inputs for {len(y)} answers in its transfer set")
    facts = given.facts
    require(
        isinstance(facts, Mapping),
        who,
        f"must return facts as a mapping, but returned {type(facts).__name__}",
    )
    own_facts = {name: _fact(who, name, value) for name, value in facts.items()}
    restoration = _own_restoration(who, given.restoration, inputs, classes)
    return TransferSet(x, y, given.surrogate, own_facts, restoration=restoration)


def _own_restoration(who: str, given: Any, inputs: InputSpace, classes: int) -> Restoration | None:
    """Return a copy of what an attack takes the undefended answers for; raises PluginError if it is none."""
    if given is None:
        return None
    require(isinstance(given, Restoration), who, "must return a Restoration as what it restored, or None")
    x, rows = np.array(given.x, np.float32), [np.array(given.answers, float), np.array(given.restored, float)]
    fits = x.shape[1:] == inputs.shape and all(each.shape == (len(x), classes) for each in rows)
    require(
        fits, who, f"returned a restoration that is no inputs with {classes} answered and restored entries"
    )
    require(all(np.isfinite(each).all() for each in rows), who, "returned a restoration with NaN or infinity")
    return Restoration(x, *rows)


def _fact(who: str, name: Any, value: Any) -> float | None:
    if isinstance(value, np.generic):
        value = value.item()
    number = value is None or (isinstance(value, Real) and math.isfinite(value))
    require(
        isinstance(name, str) and number,
        who,
        f"returned the fact {name}={value!r}, which is no finite number",
    )
    fact: float | None = value
    return fact


def check_rows(who: str, given: TransferSet, asked: Images, answers: Array) -> None:
    """Raise PluginError unless each row of the transfer set is a query with its answer or its top-1.

    ``asked``: (n, …) all queries, in order; ``answers``: (n, classes), NaN where rejected.
    """
    answered = ~np.isnan(answers).any(axis=1)
    x, y = asked[answered], answers[answered]
    tops = y == y.max(axis=1, keepdims=True) if len(y) else y.astype(bool)
    require(
        len(given.x) <= len(x),
        who,
        f"returned a transfer set of {len(given.x)} rows, but only {len(x)} queries were answered",
    )
    if np.array_equal(given.x, x, equal_nan=True) and _match(given.y, y, tops).all():
        return
    known: dict[bytes, list[int]] = {}
    for place, row in enumerate(x):
        known.setdefault(row.tobytes(), []).append(place)
    places = [known.get(row.tobytes(), []) for row in given.x]
    unasked = sum(not rows for rows in places)
    require(
        not unasked,
        who,
        f"returned {unasked} of {len(places)} inputs that it never got an answer for; if that is meant, "
        "declare row_by_row = False",
    )
    wrong = sum(
        not _match(np.broadcast_to(target, y[rows].shape), y[rows], tops[rows]).any()
        for target, rows in zip(given.y, places, strict=True)
    )
    require(
        not wrong,
        who,
        f"returned {wrong} of {len(places)} targets that are neither the answer nor its top-1; if that is "
        "meant, declare row_by_row = False",
    )


def _match(targets: NDArray[np.float32], answers: Array, tops: Mask) -> Mask:
    """Return (n,) True where a target is the answer, or the one-hot row of one of its maxima."""
    same = (targets == answers.astype(np.float32)).all(axis=1)
    one_hot = ((targets == 0) | (targets == 1)).all(axis=1) & (targets.sum(axis=1) == 1)
    matching: Mask = same | (one_hot & (tops & (targets == 1)).any(axis=1))
    return matching


def checked_probabilities(who: str, given: Any, n: int, classes: int) -> Array:
    """Return a copy of what an attack's surrogate answers; raises PluginError unless it is probabilities."""
    try:
        rows = np.array(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise PluginError(
            f"{who} has a surrogate that answers with {type(given).__name__}, not with rows"
        ) from error
    require(
        rows.shape == (n, classes),
        who,
        f"has a surrogate that must answer in shape ({n}, {classes}), but answered in {rows.shape}",
    )
    require(np.isfinite(rows).all(), who, "has a surrogate that answers with NaN or infinity")
    wrong = n and (rows.min() < -1e-3 or np.abs(rows.sum(axis=1) - 1).max() > 1e-3)
    require(
        not wrong,
        who,
        "has a surrogate whose answers are no probabilities: entries below 0 or sums that are not 1",
    )
    return rows


def checked_scores(who: str, given: Any, n: int) -> Array:
    """Return a copy of a membership attack's scores; raises PluginError unless they are (n,) in [0, 1]."""
    try:
        scores = np.array(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise PluginError(
            f"{who} must return ({n},) scores in [0, 1], but returned {type(given).__name__}"
        ) from error
    require(scores.shape == (n,), who, f"must return ({n},) scores, but returned shape {scores.shape}")
    wrong = int((~((scores >= 0) & (scores <= 1))).sum())
    require(not wrong, who, f"must return scores in [0, 1], but {wrong} of {n} are not")
    return scores


def checked_reason(who: str, given: Any) -> str:
    """Return what ``applicable`` returned; raises PluginError unless it is text."""
    require(isinstance(given, str), who, f"must return text from applicable, but returned {given!r}")
    reason: str = given
    return reason
