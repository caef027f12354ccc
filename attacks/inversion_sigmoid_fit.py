"""The parameters of reverse_sigmoid, from the answers alone.

ART clips probabilities at 1e-9 before it takes their log-odds. All entries of a row that are smaller
get the same perturbation, so that they come out equal to nine digits, which nothing else does. Their
value is known once the parameters are: it gives away the sum that the row was divided by, then every
other entry, and these must add up to 1. A few such rows fix both parameters.

Where a victim is never that sure, what copies trained on labels say is sent through the defense, and
the parameters are taken under which sorted rows come out most like the sorted answers: copies mistake
classes more often than they mistake how a row of probabilities looks.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize, minimize_scalar

from attacks.inversion import Array
from attacks.inversion_sigmoid import EDGE, SigmoidMap, answer

TIED = 1e-8
"""Relative difference within which two entries of a row count as equal."""
ENOUGH = 2
"""Rows with equal entries that are asked for; one could be chance."""
ROWS = 60
"""Rows that are looked at, at most."""
GAMMAS = np.geomspace(0.01, 10, 41)
"""Gammas that are tried; the best are refined."""
FLOORS, ABOVE = np.geomspace(0.02, 5, 23), np.geomspace(1e-6, 10, 31)
"""Values at zero that are tried with each; where answers set a least one, how far above it."""
CREASE = 20
"""Evaluations in which the best of them is refined."""
STAGES = ((500, 3e-2, 16), (4_000, 1e-3, 3), (16_000, 1e-6, 1))
"""Points of the tables, error below which a row counts as explained, and how many go on from a stage."""
STEPS = 150
"""Evaluations of one refinement."""
OUTSIDE = 0.003
"""Distance of a value from all that the map can give which counts as much as a nat."""
CHANCE = 0.1
"""Share of rows whose equal entries may not be what they seem."""


def fitted(told: Array, guess: Callable[[], Array]) -> tuple[float, float]:
    """Return beta and gamma of answers (n, classes).

    ``guess``: trains copies on labels, and returns (n, classes), what they say of the rows.
    """
    tied = level(told)
    rows = np.flatnonzero(np.isfinite(tied))
    if len(rows) >= ENOUGH:
        # Of a victim that is sure of itself most rows hold little besides: those that say most go first.
        apart_from_it = (np.abs(told[rows] - tied[rows, None]) > TIED * tied[rows, None]).sum(axis=1)
        rows = rows[np.argsort(-apart_from_it, kind="stable")[:ROWS]]
        told, tied = told[rows], tied[rows]
        least = least_floors(told, tied)

        def apart(beta: float, gamma: float, points: int, error: float) -> float:
            far = disagreement(told, tied, SigmoidMap.of(beta, gamma, points))
            # Rows that hold nothing to go by never agree; those that do, agree to many digits.
            return float(np.log(far + error).mean())

    else:
        least = least_floors(told, tied)
        told, said = np.sort(told[:ROWS], axis=1), guess()[:ROWS]

        def apart(beta: float, gamma: float, points: int, error: float) -> float:
            del points, error  # nothing has to be inverted
            return float(np.abs(np.sort(answer(said, beta, gamma), axis=1) - told).sum(axis=1).mean())

    return _search(apart, least)


def least_floors(told: Array, tied: Array) -> Array:
    """Return (m,), the least that the map may be at zero, by rows (n, classes) with ``tied`` (n,) entries.

    At one it is one less that, and near one it is more: the top-1 shows a multiple of the tied value. Now
    and then entries are equal by chance, elsewhere, so that a second bound leaves out the lowest.
    """
    ratio = np.sort((told.max(axis=1) / tied)[np.isfinite(tied)])
    return np.unique(1 / (1 + np.array([ratio[0], ratio[int(CHANCE * len(ratio))]]))) if len(ratio) else ratio


def _search(apart: Callable[[float, float, int, float], float], least: Array) -> tuple[float, float]:
    """Return the parameters that are least ``apart`` from the answers: the best of a grid, refined.

    The search is for gamma and the value at zero, which answers show more plainly than they do beta. The
    right ones lie in a crease so narrow that a grid misses it: at each gamma the best value at zero is
    looked for, and what goes on from there are the gammas that do better than their neighbours.
    """
    floors = np.log(np.unique(np.outer(least, 1 + ABOVE)) if len(least) else FLOORS)
    points, error, many = STAGES[0]

    def best_at(gamma: float) -> tuple[float, Array]:
        def cost(floor: float) -> float:
            return apart(*_allowed(np.array([floor, gamma])), points, error)

        place = int(np.argmin([cost(floor) for floor in floors]))
        between = floors[max(place - 1, 0)], floors[min(place + 1, len(floors) - 1)]
        found = minimize_scalar(cost, bounds=between, method="bounded", options={"maxiter": CREASE})
        return float(found.fun), np.array([found.x, gamma])

    valley = [best_at(gamma) for gamma in np.log(GAMMAS)]
    costs = np.array([cost for cost, _ in valley])
    padded = np.concatenate([[np.inf], costs, [np.inf]])
    low = np.flatnonzero((costs <= padded[:-2]) & (costs <= padded[2:]))
    starts = [valley[place][1] for place in low[np.argsort(costs[low], kind="stable")][:many]]
    for points, error, many in STAGES:
        refined = [
            minimize(
                lambda logs, points, error: apart(*_allowed(logs), points, error),
                logs,
                args=(points, error),
                method="Nelder-Mead",
                options={"maxfev": STEPS, "xatol": 1e-8, "fatol": 1e-12},
            )
            for logs in starts[:many]
        ]
        starts = [done.x for done in sorted(refined, key=lambda done: float(done.fun))]
    return _allowed(starts[0])


def _allowed(logs: Array) -> tuple[float, float]:
    """Return beta and gamma in their ranges, from the logarithms of the value at zero and of gamma."""
    gamma = float(np.exp(np.clip(logs[1], *np.log([1e-3, 10]))))
    beta = np.exp(logs[0]) / (0.5 - 1 / (1 + np.exp(-gamma * np.log(EDGE))))
    return float(np.clip(beta, 1e-3, 10)), gamma


def level(told: Array) -> Array:
    """Return (n,) the value that several entries of a row share to nine digits; NaN where none do."""
    rows = np.sort(told, axis=1)
    close = np.diff(rows, axis=1) <= TIED * rows[:, 1:]
    close &= rows[:, 1:] > 0
    place = close.argmax(axis=1)
    return np.asarray(np.where(close.any(axis=1), rows[np.arange(len(rows)), place], np.nan))


def disagreement(told: Array, tied: Array, curve: SigmoidMap) -> Array:
    """Return (n,), by how much rows fail to sum to 1 if their ``tied`` (n,) entries were next to zero.

    In nats: the logarithm of what the top-1 leaves, less that of what the others take.
    """
    v = told * (float(curve(np.zeros(1))[0]) / tied)[:, None]
    small, missed = curve.preimage(v, 0), _outside(v, curve, 0)
    here, best = np.arange(len(told)), np.full(len(told), np.inf)
    for top in (told.argmax(axis=1), told.argmin(axis=1)):
        others = small.sum(axis=1) - small[here, top]
        outside = missed.sum(axis=1) - missed[here, top]
        for piece in range(len(curve.pieces)):
            left = 1 - curve.preimage(v[here, top], piece)
            apart = np.abs(np.log((left + EDGE) / (others + EDGE)))
            best = np.minimum(best, apart + (outside + _outside(v[here, top], curve, piece)) / OUTSIDE)
    return best


def _outside(v: Array, curve: SigmoidMap, piece: int) -> Array:
    _, g = curve.pieces[piece]
    return np.asarray(np.maximum(g[0] - v, 0) + np.maximum(v - g[-1], 0))
