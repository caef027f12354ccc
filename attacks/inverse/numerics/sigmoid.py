"""The reverse sigmoid perturbation and its inverse, for whole rows of probabilities.

The defense (Lee, Edwards, Molloy, Su 2018, arXiv 1806.00054, in ART's arithmetic) maps every
probability p to g(p) = clip(p - beta (sigmoid(gamma logit p) - 1/2), 0, 1) and divides the row by its
sum. The answer shows neither the sum nor, since g is not monotone, which preimage an entry had. But the
probabilities sum to 1: for each choice of preimages there are a few possible sums, mostly none.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
from numpy.typing import NDArray

from attacks.base import Array
from attacks.inverse.numerics.intervals import normalised, project

Numbers = NDArray[np.int64]

EDGE = 1e-9
"""Distance from 0 and 1 within which ART's perturbation no longer changes."""
STEP = 1e-13
POINTS = 20_000
"""Points of the table by which g is inverted, on either side of a half."""
GRID, HALVINGS = 300, 36
"""Row sums that are tried, and bisections between two of them where a solution lies."""
LIKELY, ABOVE = 10, 3
"""Entries of a row that may lie beyond the turning point, and the largest number of them at once."""
ESTIMATED = 7
"""The same two numbers where an estimate says which entries they are."""
SPREAD, WIDE, FLOOR = 3.0, 6.0, 1e-10
"""Standard deviation of a victim's log-odds around an estimate, and around 0; the smallest probability that
counts."""
EXACT = 1e-6
"""Error of an entry before the division up to which a row counts as explained."""
NEARLY, LOOSE = 1e-3, 0.02
"""The same where parameters were fitted, and where a later defense changed the answer."""
CHUNK = 128
"""Rows that are processed at once, to limit memory."""


@dataclass(frozen=True)
class SigmoidMap:
    """The map g of one entry, split at its turning points into monotone pieces.

    Pieces go from small probabilities to large.

    ``pieces``: for each (p, g) with g rising along the arrays, (m,) float64 both. ``turn``: the
    probability at which the first piece ends (the last one ends at one minus it); None if g is monotone.
    """

    beta: float
    gamma: float
    pieces: tuple[tuple[Array, Array], ...]
    turn: float | None

    @classmethod
    def of(cls, beta: float, gamma: float, points: int = POINTS) -> SigmoidMap:
        """Tabulate g at ``points`` on either side of a half; parameters as reverse_sigmoid takes them."""
        low = np.concatenate([[0.0], np.geomspace(EDGE / 1000, 0.5, points)])
        p = np.concatenate([low, 1 - low[-2::-1]])
        bare = p - beta * _shift(p, gamma)
        half = bare[: len(low)]
        # Below a half g has one extreme at most: first down, then up where gamma < 1, else the reverse.
        turn = int(half.argmin() if gamma < 1 else half.argmax())
        inside = np.abs(half[turn] - half[[0, -1]]).min() > 2 * EDGE
        cuts = [0, turn, len(p) - 1 - turn, len(p) - 1] if inside else [0, len(p) - 1]
        g = np.clip(bare, 0, 1)
        pieces = [_rising(p[a : b + 1], g[a : b + 1]) for a, b in pairwise(cuts)]
        return cls(beta, gamma, tuple(pieces), float(p[turn]) if inside else None)

    @property
    def top(self) -> float:
        """The largest value of g."""
        return float(max(g[-1] for _, g in self.pieces))

    def __call__(self, p: Array) -> Array:
        """Return g of every entry."""
        return perturbed_entries(p, self.beta, self.gamma)

    def elasticity(self, p: Array) -> Array:
        """Return d log g / d log p of every entry; 1 where g is clipped, at least EDGE in size."""
        inner = np.clip(p, EDGE, 1 - EDGE)
        s = _shift(inner, self.gamma) + 0.5
        bends = (p > EDGE) & (p < 1 - EDGE)
        slope = 1 - np.where(bends, self.beta * self.gamma * s * (1 - s) / (inner * (1 - inner)), 0)
        g = p - self.beta * (s - 0.5)
        size = slope * p / np.where(g == 0, 1, g)
        size = np.where(np.abs(size) < EDGE, np.where(size < 0, -EDGE, EDGE), size)
        return np.asarray(np.where((g <= 0) | (g >= 1), 1.0, size))

    def preimage(self, v: Array, piece: int) -> Array:
        """Return the probability on a piece for each value of g; the nearest end beyond its range."""
        p, g = self.pieces[piece]
        return np.interp(v, g, p)


def perturbed_entries(p: Array, beta: float, gamma: float) -> Array:
    """Return g of every entry, as ART computes it."""
    return np.asarray(np.clip(p - beta * _shift(p, gamma), 0, 1))


def perturbed_rows(rows: Array, beta: float, gamma: float) -> Array:
    """Return the defense's answers to rows (n, classes)."""
    return normalised(perturbed_entries(rows, beta, gamma))


def _shift(p: Array, gamma: float) -> Array:
    inner = np.clip(p, EDGE, 1 - EDGE)
    return np.asarray(1 / (1 + np.exp(gamma * np.log((1 - inner) / inner))) - 0.5)


def _rising(p: Array, g: Array) -> tuple[Array, Array]:
    """Return a monotone piece in the order in which g rises.

    Where g falls from p = 0 it first rises by EDGE (from ART's clip) or is constant (clipped); likewise
    towards p = 1. Either becomes a step, so that the value at the end has the end as its preimage.
    """
    if g[-1] > g[0]:
        return p, np.maximum.accumulate(g)
    first, last = g > g[0] - STEP, g < g[-1] + STEP
    steep = ~(first | last)
    p = np.concatenate([p[:1], [p[first].max()], p[steep], [p[last].min()], p[-1:]])[::-1]
    g = np.concatenate([g[:1], [g[0] - STEP], g[steep], [g[-1] + STEP], g[-1:]])[::-1]
    return np.ascontiguousarray(p), np.maximum.accumulate(g)


def invert(
    answers: Array, curve: SigmoidMap, estimate: Array | None = None, slack: float = EXACT
) -> tuple[Array, NDArray[np.bool_]]:
    """Return the rows (n, classes) that explain ``answers`` (n, classes), and (n,) which were explained.

    Where several rows explain an answer, their mean weighted by plausibility is returned: surrogates
    learn better from it than from the most plausible row. Where none does, the answer itself is returned.
    ``estimate``: (n, classes), approximately what the rows were. ``slack``: tolerated error of an entry
    before the division by the sum; answers that a later defense changed need more.
    """
    row, p = solutions(answers, curve, estimate, slack)
    score = plausibility(p, curve, None if estimate is None else estimate[row])
    best = np.full(len(answers), -np.inf)
    np.maximum.at(best, row, score)
    weight = np.exp(score - best[row])
    total = np.bincount(row, weight, minlength=len(answers))
    found = total > 0
    rows = np.where(found[:, None], 0.0, answers)
    np.add.at(rows, row, (weight / total[row])[:, None] * p)
    return rows, found


def plausibility(p: Array, curve: SigmoidMap, estimate: Array | None = None) -> Array:
    """Return (m,) log-densities of the answers of which rows (m, classes) are solutions.

    The log-odds of a row are assumed to be normal around those of ``estimate`` (m, classes), with standard
    deviation SPREAD (around 0, and WIDE, without one). The change of variables from log-odds to
    logarithms of the answer has the determinant prod m_i × sum p_i / m_i with m_i = d log g / d log p. It
    tells solutions from coincidences: one that only a narrow range of answers can have is denser.
    """
    odds, spread = np.log(np.clip(p, FLOOR, None)), WIDE
    if estimate is not None:
        odds, spread = odds - np.log(np.clip(estimate, FLOOR, None)), SPREAD
    odds = odds - odds.mean(axis=1, keepdims=True)
    slope = curve.elasticity(p)
    volume = np.log(np.abs(slope)).sum(axis=1) + np.log(np.abs((p / slope).sum(axis=1)) + 1e-300)
    return np.asarray(-(odds**2).sum(axis=1) / (2 * spread**2) - volume)


def solutions(
    answers: Array, curve: SigmoidMap, estimate: Array | None = None, slack: float = EXACT
) -> tuple[Numbers, Array]:
    """Return all rows that explain ``answers`` (n, classes): indices (m,) and rows (m, classes)."""
    rows: list[Numbers] = [np.zeros(0, dtype=np.int64)]
    all_p: list[Array] = [np.zeros((0, answers.shape[1]))]
    for start in range(0, len(answers), CHUNK):
        part = slice(start, start + CHUNK)
        row, p = _solutions(answers[part], curve, None if estimate is None else estimate[part], slack)
        rows.append(row + start)
        all_p.append(p)
    return np.concatenate(rows), np.concatenate(all_p)


def _solutions(
    answers: Array, curve: SigmoidMap, estimate: Array | None, slack: float
) -> tuple[Numbers, Array]:
    """Return all rows that explain ``answers``: the answer's index (m,), and the rows (m, classes)."""
    classes = answers.shape[1]
    likely = _likely(answers, estimate)
    choices = _choices(likely.shape[1], curve, ABOVE if estimate is None else ESTIMATED)
    largest = answers.max(axis=1, keepdims=True)
    sums = np.geomspace(0.5 / classes, curve.top, GRID) / largest
    step = sums[0, 1] / sums[0, 0] - 1
    v = answers[:, None, :] * sums[:, :, None]
    values = np.stack([curve.preimage(v, piece) for piece in range(len(curve.pieces))])
    # No preimage: beyond the range of a piece by more than a step of the sum can compensate.
    missing = np.stack(
        [(v * (1 + 2 * step) + slack < g[0]) | (v > g[-1] * (1 + 2 * step) + slack) for _, g in curve.pieces]
    )
    total = _chosen(values, likely, choices) - 1
    fits = _chosen(missing.astype(np.float64), likely, choices) == 0
    crossing = (total[:, :-1] <= 0) != (total[:, 1:] <= 0)
    row, place, choice = np.nonzero(crossing & fits[:, :-1] & fits[:, 1:])
    piece = np.zeros((len(row), classes), dtype=np.int64)
    np.put_along_axis(piece, likely[row], choices[choice], axis=1)
    p = _refined(answers[row], curve, piece, sums[row, place], sums[row, place + 1], slack)
    solved = np.isfinite(p).all(axis=1)
    ends, flat = _at_the_end(answers, curve, likely, choices, estimate)
    return np.concatenate([row[solved], ends]), np.concatenate([p[solved], flat])


def _likely(answers: Array, estimate: Array | None) -> Numbers:
    """Return (n, entries), indices of the entries of each row that may lie beyond the turning point."""
    classes = answers.shape[1]
    if estimate is not None:
        return np.argsort(-estimate, axis=1, kind="stable")[:, :ESTIMATED]
    if classes <= LIKELY:
        return np.tile(np.arange(classes), (len(answers), 1))
    order = np.argsort(-answers, axis=1, kind="stable")
    return np.concatenate([order[:, : LIKELY // 2], order[:, -(LIKELY - LIKELY // 2) :]], axis=1)


def _choices(entries: int, curve: SigmoidMap, above: int) -> Numbers:
    """Return (choices, entries): the piece on which each of the entries lies.

    At most 1 / t entries lie beyond the turning point t. If one exceeds 1 - t, the others are below t.
    """
    choices = [np.zeros(entries, dtype=np.int64)]
    if curve.turn is not None:
        for many in range(1, min(entries, above, int(1 / curve.turn)) + 1):
            sets = combinations(range(entries), many)
            choices += [np.isin(np.arange(entries), some).astype(np.int64) for some in sets]
        choices += list(2 * np.eye(entries, dtype=np.int64))
    return np.stack(choices)


def _chosen(values: Array, likely: Numbers, choices: Numbers) -> Array:
    """Return (n, …, choices), sums over the entries of each row, each entry on its chosen piece.

    ``values``: (pieces, n, …, classes), the summand of every entry on every piece.
    """
    middle = values.ndim - 3
    index = likely.reshape(len(likely), *[1] * middle, -1)
    first = values[0]
    total = np.repeat(first.sum(axis=-1)[..., None], len(choices), axis=-1)
    for piece in range(1, len(values)):
        gain = np.take_along_axis(values[piece] - first, index, axis=-1)
        total += gain @ (choices == piece).T.astype(np.float64)
    return np.asarray(total)


def _preimages(v: Array, curve: SigmoidMap, piece: Numbers) -> Array:
    p = curve.preimage(v, 0)
    for number in range(1, len(curve.pieces)):
        p = np.where(piece == number, curve.preimage(v, number), p)
    return p


def _refined(
    answers: Array, curve: SigmoidMap, piece: Numbers, low: Array, high: Array, slack: float
) -> Array:
    """Return (m, classes) probabilities that sum to 1, by bisection over the row sum; NaN where g differs."""
    rising = _preimages(answers * high[:, None], curve, piece).sum(axis=1) > 1
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        above = _preimages(answers * middle[:, None], curve, piece).sum(axis=1) > 1
        upper = above == rising
        low, high = np.where(upper, low, middle), np.where(upper, middle, high)
    below, beyond = (_preimages(answers * end[:, None], curve, piece) for end in (low, high))
    # At a step of the table, the entries that step are interpolated; no other moves.
    gap = below.sum(axis=1) - beyond.sum(axis=1)
    share = (1 - beyond.sum(axis=1)) / np.where(gap == 0, 1, gap)
    p: Array = beyond + np.clip(share, 0, 1)[:, None] * (below - beyond)
    wrong = np.abs(curve(p) - answers * high[:, None]).max(axis=1, initial=0) + np.abs(p.sum(axis=1) - 1)
    p[wrong > slack] = np.nan
    return p


def _at_the_end(
    answers: Array, curve: SigmoidMap, likely: Numbers, choices: Numbers, estimate: Array | None
) -> tuple[Numbers, Array]:
    """Return the solutions in which the largest entry is the largest value of g, such as a clipped one.

    There g may be constant, so that only an interval is known for an entry: the most likely row in it.
    """
    v = answers * (curve.top / answers.max(axis=1, keepdims=True))
    low = np.stack([curve.preimage(v - EXACT, piece) for piece in range(len(curve.pieces))])
    high = np.stack([curve.preimage(v + EXACT, piece) for piece in range(len(curve.pieces))])
    low, high = np.minimum(low, high), np.maximum(low, high)
    missing = np.stack([(v + EXACT < g[0]) | (v - EXACT > g[-1]) for _, g in curve.pieces])
    possible = (_chosen(low, likely, choices) <= 1) & (_chosen(high, likely, choices) >= 1)
    row, choice = np.nonzero(possible & (_chosen(missing.astype(np.float64), likely, choices) == 0))
    piece = np.zeros((len(row), answers.shape[1]), dtype=np.int64)
    np.put_along_axis(piece, likely[row], choices[choice], axis=1)
    low, high = (np.take_along_axis(end[:, row], piece[None], axis=0)[0] for end in (low, high))
    prior = np.ones_like(low) if estimate is None else estimate[row]
    return row, project(prior, low, high)
