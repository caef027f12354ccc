"""Predicates that defenses claim of their answers: what a boolean claim says of a row, and helpers for more.

Violations are in units of probability, or 1 for a property that an answer has or has not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from defenses.base import Answers, Array, Claims, Predicate

EXACT = 0.0
"""Tolerance where entries are copied or compared."""
ROUNDING = 1e-12
"""Tolerance where the arithmetic is in double precision."""
LAST_BIT = 2.5e-16
"""Tolerance where an entry can be off by its last bit."""
SINGLE = 1e-6
"""Tolerance of sums and of the largest entry, which a defense of a user may compute in single precision."""


def of_claims(claims: Claims) -> list[Predicate]:
    """Return what boolean claims say of every answer to queries whose answers before are distributions.

    Those on seeds and repeated queries, which need a second answer, are not among them.
    """
    found = []
    if claims.keeps_label:
        found.append(Predicate("the victim's top-1", _changed_top))
    if not claims.ties:
        found.append(Predicate("one entry has the maximum", _tied))
    if claims.distribution or claims.normalises:
        found += [
            Predicate("no entry below 0", _below_zero),
            Predicate("no entry above 1", _above_one, SINGLE),
            Predicate("entries sum to 1", _sum_error, SINGLE),
        ]
    if claims.one_hot:
        found.append(one_hot())
    if not claims.may_refuse:
        found.append(Predicate("no query rejected", lambda _, given: given.refused.astype(float)))
    if not claims.may_flag:
        found.append(Predicate("no query flagged", lambda _, given: given.flagged.astype(float)))
    return found


def _changed_top(before: Array, given: Answers) -> Array:
    rows = np.nan_to_num(given.probabilities, nan=-1)
    changed: Array = (rows.argmax(axis=1) != np.nan_to_num(before, nan=-1).argmax(axis=1)).astype(float)
    return _answered(changed, given)


def _tied(before: Array, given: Answers) -> Array:
    tied = (_maxima(given.probabilities) > 1) & ~(_maxima(before) > 1)
    return _answered(tied.astype(float), given)


def _maxima(rows: Array) -> Array:
    counts: Array = (rows == rows.max(axis=1, keepdims=True)).sum(axis=1)
    return counts


def _excess(rows: Array, before: Array, limit: float) -> Array:
    # A victim's own answers may be off by a rounding error, which a defense may hand on.
    own = np.maximum(np.nan_to_num(before.max(axis=1) - limit, nan=0), 0)
    excess: Array = np.maximum(rows.max(axis=1) - limit - own, 0)
    return excess


def _below_zero(before: Array, given: Answers) -> Array:
    return _excess(-given.probabilities, -before, 0)


def _above_one(before: Array, given: Answers) -> Array:
    return _excess(given.probabilities, before, 1)


def _sum_error(before: Array, given: Answers) -> Array:
    own = np.nan_to_num(np.abs(before.sum(axis=1) - 1), nan=0)
    error: Array = np.maximum(np.abs(given.probabilities.sum(axis=1) - 1) - own, 0)
    return error


def _answered(values: Array, given: Answers) -> Array:
    return np.where(given.refused, np.nan, values)


def one_hot(*, flagged: bool = False) -> Predicate:
    """Return the predicate that one entry is 1 and the others are 0; ``flagged``: of flagged answers only."""

    def violation(_: Array, given: Answers) -> Array:
        rows = np.sort(given.probabilities, axis=1)
        wanted = np.zeros(rows.shape[1])
        wanted[-1] = 1
        found = _largest(rows - wanted)
        return np.where(given.flagged, found, 0) if flagged else found

    return Predicate("one-hot where flagged" if flagged else "one-hot", violation)


def distinct() -> Predicate:
    """Return the predicate that there are at most as many distinct answers as classes."""

    def violation(before: Array, given: Answers) -> Array:
        found = np.full(len(before), np.nan)
        live = ~np.isnan(given.probabilities).any(axis=1)
        _, which = np.unique(given.probabilities[live], axis=0, return_inverse=True)
        # The commonest answers are those meant.
        counts = np.bincount(which.ravel(), minlength=1)
        rank = np.empty(len(counts), dtype=int)
        rank[np.argsort(-counts, kind="stable")] = np.arange(len(counts))
        found[live] = rank[which.ravel()] >= before.shape[1]
        return found

    return Predicate("at most as many distinct answers as classes", violation)


def formula(
    name: str, expected: Callable[[Array], Array], tolerance: float = ROUNDING, **parameters: Any
) -> Predicate:
    """Return the predicate that answers are what ``expected`` returns for the answers before, (n, classes).

    ``name`` may contain the ``parameters`` in braces.
    """

    def violation(before: Array, given: Answers) -> Array:
        return _largest(given.probabilities - expected(before))

    return Predicate(name, violation, tolerance, parameters)


def multiples(decimals: int) -> Predicate:
    """Return the predicate that entries are multiples of 10^-``decimals``, to the last bit."""

    def violation(_: Array, given: Answers) -> Array:
        rows = given.probabilities
        return _largest(rows - np.round(rows, decimals))

    return Predicate("multiples of 10^-{decimals}", violation, LAST_BIT, {"decimals": decimals})


def at_most(k: int) -> Predicate:
    """Return the predicate that at most ``k`` entries are not 0; the largest other one is the violation."""

    def violation(_: Array, given: Answers) -> Array:
        rows = np.sort(np.abs(given.probabilities), axis=1)[:, ::-1]
        found: Array = rows[:, k] if k < rows.shape[1] else np.where(np.isnan(rows[:, 0]), np.nan, 0)
        return found

    return Predicate("at most {k} entries that are not 0", violation, EXACT, {"k": k})


def largest_kept() -> Predicate:
    """Return the predicate that no entry that was set to 0 was larger than one that was not."""

    def violation(before: Array, given: Answers) -> Array:
        rows = given.probabilities
        dropped = np.where(rows == 0, before, -np.inf).max(axis=1)
        kept = np.where(rows != 0, before, np.inf).min(axis=1)
        return np.where(np.isnan(rows).any(axis=1), np.nan, np.maximum(np.minimum(dropped, 1) - kept, 0))

    return Predicate("no larger entry is left out", violation)


def at_least_or_zero(cutoff: float) -> Predicate:
    """Return the predicate that every entry is 0 or at least ``cutoff``."""

    def violation(_: Array, given: Answers) -> Array:
        rows = given.probabilities
        short: Array = np.where(rows == 0, 0, np.maximum(cutoff - rows, 0)).max(axis=1)
        return short

    return Predicate("entries of at least {cutoff} or 0", violation, EXACT, {"cutoff": f"{cutoff:g}"})


def within_l1(eps: float) -> Predicate:
    """Return the predicate that an answer is at most ``eps`` from the one before in L1."""

    def violation(before: Array, given: Answers) -> Array:
        excess: Array = np.maximum(np.abs(given.probabilities - before).sum(axis=1) - eps, 0)
        return excess

    return Predicate("L1 change of at most {eps}", violation, ROUNDING, {"eps": f"{eps:g}"})


def rejected_if_flagged() -> Predicate:
    """Return the predicate that the queries that are rejected are those that are flagged."""
    return Predicate(
        "rejected where flagged", lambda _, given: (given.refused != given.flagged).astype(np.float64)
    )


def unchanged_unless_flagged() -> Predicate:
    """Return the predicate that answers to queries that are not flagged are those before, to the bit."""

    def violation(before: Array, given: Answers) -> Array:
        return np.where(given.flagged, 0, _largest(given.probabilities - before))

    return Predicate("unchanged where not flagged", violation)


def unchanged_unless_rejected() -> Predicate:
    """Return the predicate that answers to queries that are not rejected are those before, to the bit."""
    return Predicate(
        "unchanged where not rejected", lambda before, given: _largest(given.probabilities - before)
    )


def kept_or_zero() -> Predicate:
    """Return the predicate that every entry is 0 or the entry before, to the bit."""

    def violation(before: Array, given: Answers) -> Array:
        rows = given.probabilities
        return _largest(np.where(rows == 0, 0, rows - before))

    return Predicate("entries unchanged or 0", violation)


def log_odds(factor: float, *, tolerance: float = 1e-4, least: float = 1e-6) -> Predicate:
    """Return the predicate that log-odds between entries are ``factor`` times those before.

    A softmax of temperature T has the factor 1/T. Entries are compared with the largest before, and with it
    alone where both are at least ``least``, so that the default ``tolerance`` (in nats) allows for entries
    in single precision.
    """

    def violation(before: Array, given: Answers) -> Array:
        rows, top = given.probabilities, np.nan_to_num(before).argmax(axis=1)[:, None]
        small = (before < least) | (rows < least)
        logs = [np.log(np.where(small, 1, each)) for each in (before, rows)]
        apart = [each - np.take_along_axis(each, top, axis=1) for each in logs]
        # Where the entry before is not small, one that has become small is measured at its bound.
        gone = (before >= least) & (rows < least) & ~np.isnan(rows)
        bound = np.log(least) - np.take_along_axis(logs[1], top, axis=1)
        wanted = factor * apart[0]
        error = np.where(small, 0, np.abs(apart[1] - wanted))
        error = np.where(gone, np.maximum(np.where(gone, factor * apart[0] - bound, 0), 0), error)
        found: Array = error.max(axis=1)
        return np.where(np.isnan(rows).any(axis=1), np.nan, found)

    return Predicate("log-odds {factor} times the victim's", violation, tolerance, {"factor": f"{factor:g}"})


def one_of(name: str, rows: Callable[[int], Array]) -> Predicate:
    """Return the predicate that an answer is the one before or one of ``rows(classes)``, (m, classes)."""

    def violation(before: Array, given: Answers) -> Array:
        found, others = _largest(given.probabilities - before), rows(before.shape[1])
        for place in np.flatnonzero(found > 0):
            found[place] = min(found[place], _largest(others - given.probabilities[place]).min())
        return found

    return Predicate(name, violation, ROUNDING)


def _largest(differences: Array) -> Array:
    largest: Array = np.abs(differences).max(axis=1)
    return largest
