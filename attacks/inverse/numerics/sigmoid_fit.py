"""The parameters of reverse_sigmoid, estimated from the answers alone.

ART clips probabilities at 1e-9 before it takes their log-odds. All smaller entries of a row get the same
perturbation, so that they are equal to nine digits, which other entries are not. Their value is known
once the parameters are: it determines the sum that the row was divided by, then every other entry, and
these must sum to 1. A few such rows determine both parameters.

Where a victim is never that confident, the defense is applied to the predictions of surrogates trained
on labels, and the parameters are taken under which sorted rows are most similar to the sorted answers:
surrogates err more often in the class than in the shape of a row of probabilities.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize, minimize_scalar

from attacks.base import Array
from attacks.inverse.numerics.sigmoid import EDGE, SigmoidMap, perturbed_rows

TIED = 1e-8
"""Relative difference within which two entries of a row count as equal."""
ENOUGH = 2
"""Rows with equal entries that are needed; one could be chance."""
ROWS = 60
"""Largest number of rows that are used."""
GAMMAS = np.geomspace(0.01, 10, 41)
"""Gammas that are tried; the best are refined."""
FLOORS, ABOVE = np.geomspace(0.02, 5, 23), np.geomspace(1e-6, 10, 31)
"""Values of the map at zero that are tried with each; distances above a bound, where answers imply one."""
CREASE = 20
"""Evaluations in which the best of them is refined."""
STAGES = ((500, 3e-2, 16), (4_000, 1e-3, 3), (16_000, 1e-6, 1))
"""Of each stage: points of the tables, error below which a row counts as explained, candidates refined."""
STEPS = 150
"""Evaluations of one refinement."""
OUTSIDE = 0.003
"""Distance of a value from the range of the map that counts as much as one nat."""
CHANCE = 0.1
"""Share of rows whose equal entries may be equal by chance."""


def fit_parameters(answers: Array, estimator: Callable[[], Array]) -> tuple[float, float]:
    """Return beta and gamma, estimated from answers (n, classes).

    ``estimator``: trains surrogates on labels, and returns their predictions (n, classes) of the rows.
    """
    tied = tied_values(answers)
    rows = np.flatnonzero(np.isfinite(tied))
    if len(rows) >= ENOUGH:
        # Most rows of a confident victim hold few other entries: the most informative ones come first.
        informative = (np.abs(answers[rows] - tied[rows, None]) > TIED * tied[rows, None]).sum(axis=1)
        rows = rows[np.argsort(-informative, kind="stable")[:ROWS]]
        answers, tied = answers[rows], tied[rows]
        least = least_floors(answers, tied)

        def distance(beta: float, gamma: float, points: int, error: float) -> float:
            far = misfit(answers, tied, SigmoidMap.of(beta, gamma, points))
            # Uninformative rows never agree; the others agree to many digits.
            return float(np.log(far + error).mean())

    else:
        least = least_floors(answers, tied)
        answers, estimate = np.sort(answers[:ROWS], axis=1), estimator()[:ROWS]

        def distance(beta: float, gamma: float, points: int, error: float) -> float:
            del points, error  # nothing has to be inverted
            return float(
                np.abs(np.sort(perturbed_rows(estimate, beta, gamma), axis=1) - answers).sum(axis=1).mean()
            )

    return _search(distance, least)


def least_floors(answers: Array, tied: Array) -> Array:
    """Return (m,) lower bounds of the map at zero, from rows (n, classes) with ``tied`` (n,) entries.

    The map at one is one minus its value at zero, and near one it is larger: the ratio of the top-1 to
    the tied value gives a bound. Entries may be equal by chance, so a second bound ignores the lowest.
    """
    ratio = np.sort((answers.max(axis=1) / tied)[np.isfinite(tied)])
    return np.unique(1 / (1 + np.array([ratio[0], ratio[int(CHANCE * len(ratio))]]))) if len(ratio) else ratio


def _search(distance: Callable[[float, float, int, float], float], least: Array) -> tuple[float, float]:
    """Return beta and gamma of the smallest ``distance`` to the answers: the best of a grid, refined.

    The search is over gamma and the value at zero, which answers determine better than beta. The minimum
    lies in a valley so narrow that a grid misses it: at each gamma the best value at zero is searched,
    and the gammas that are better than their neighbours are refined.
    """
    floors = np.log(np.unique(np.outer(least, 1 + ABOVE)) if len(least) else FLOORS)
    points, error, many = STAGES[0]

    def best_at(gamma: float) -> tuple[float, Array]:
        def cost(floor: float) -> float:
            return distance(*_allowed(np.array([floor, gamma])), points, error)

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
                lambda logs, points, error: distance(*_allowed(logs), points, error),
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
    """Return beta and gamma, clipped to their ranges, from the logarithms of the value at zero and gamma."""
    gamma = float(np.exp(np.clip(logs[1], *np.log([1e-3, 10]))))
    beta = np.exp(logs[0]) / (0.5 - 1 / (1 + np.exp(-gamma * np.log(EDGE))))
    return float(np.clip(beta, 1e-3, 10)), gamma


def tied_values(answers: Array) -> Array:
    """Return (n,) the value that several entries of a row share to nine digits; NaN where none do."""
    rows = np.sort(answers, axis=1)
    close = np.diff(rows, axis=1) <= TIED * rows[:, 1:]
    close &= rows[:, 1:] > 0
    place = close.argmax(axis=1)
    return np.asarray(np.where(close.any(axis=1), rows[np.arange(len(rows)), place], np.nan))


def misfit(answers: Array, tied: Array, curve: SigmoidMap) -> Array:
    """Return (n,), by how much rows fail to sum to 1 if their ``tied`` (n,) entries were next to zero.

    In nats: the logarithm of one minus the top-1, minus that of the sum of the others.
    """
    v = answers * (float(curve(np.zeros(1))[0]) / tied)[:, None]
    small, missed = curve.preimage(v, 0), _outside(v, curve, 0)
    here, best = np.arange(len(answers)), np.full(len(answers), np.inf)
    for top in (answers.argmax(axis=1), answers.argmin(axis=1)):
        others = small.sum(axis=1) - small[here, top]
        outside = missed.sum(axis=1) - missed[here, top]
        for piece in range(len(curve.pieces)):
            left = 1 - curve.preimage(v[here, top], piece)
            distance = np.abs(np.log((left + EDGE) / (others + EDGE)))
            best = np.minimum(best, distance + (outside + _outside(v[here, top], curve, piece)) / OUTSIDE)
    return best


def _outside(v: Array, curve: SigmoidMap, piece: int) -> Array:
    _, g = curve.pieces[piece]
    return np.asarray(np.maximum(g[0] - v, 0) + np.maximum(v - g[-1], 0))
