"""Equation solving: the weights of a linear victim, computed from its answers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lstsq
from scipy.optimize import minimize

from attacks.base import (
    Api,
    Array,
    Extraction,
    Images,
    Pool,
    RandomSeeds,
    SurrogateFactory,
    Target,
    TransferSet,
)
from bench.encoding import Encoding
from bench.seeds import random_state

TOLERANCE = 1e-3
"""Error of log-odds (nats) within which an answer counts as predicted; that of float32 is far smaller."""
RANK = 1e-10
"""Singular values of the inputs below this share of the largest one are treated as zero."""
FITS = (
    ("log-odds", (0.0,)),
    ("likelihood", (1.0, 0.1, 1e-2, 1e-3, 1e-5)),
    ("squares", (0.3, 0.1, 0.03, 1e-2, 1e-3)),
)
"""Measures of fit, and the penalties tried on half of the sum of squared weights, from strong to weak."""
SPARE = 10
"""Equations more than unknowns from which answers that solve all of them are exact."""
SAFEST = ("likelihood", 1.0)
"""Measure and penalty where there are too few answers to choose by."""
CURVATURE = 0.05
"""Approximate second derivative of the measures by a score; it only scales the first steps."""
FOLDS, MANY, STEPS = 5, 2_000, 150
"""Folds of the cross-validation; number of answers from which one fold is enough; L-BFGS steps of a fit."""


@dataclass(frozen=True)
class LinearModel:
    """A solved victim: softmax of ``weights`` (d, classes) and ``bias`` (classes,), float64.

    ``encoding``: of the inputs into d numbers; None where they are these numbers.
    """

    weights: Array
    bias: Array
    encoding: Encoding | None = None

    def __call__(self, inputs: Images) -> Array:
        """Return (n, classes) probabilities for inputs (n, …)."""
        return self.of_numbers(_flat(inputs) if self.encoding is None else self.encoding.flat(inputs))

    def of_numbers(self, flat: Array) -> Array:
        """Return (n, classes) probabilities for inputs that are encoded as (n, d)."""
        # Not a BLAS product, whose last bits depend on the number of rows.
        return _softmax(np.einsum("nd,dk->nk", flat, self.weights) + self.bias)


class EquationSolving(Extraction):
    """Solves for the weights of a multinomial logistic victim, whose log-odds are linear in the input.

    Those of a table are linear in a number for each category and in the values of all other columns: what
    these are multiplied by, and which value stands for a missing one, is part of the solution.

    Sends random inputs of the pool, the same ones as Copycat. Exact answers are linear equations: they
    are solved by least squares, of minimal norm where the queries do not determine the solution;
    where they do, the surrogate equals the victim. Answers that were rounded, noisy, truncated or reduced
    to labels are no equations. A softmax is fitted to them in two ways, by likelihood (multinomial,
    convex) and by squared error of the probability, each with several ridge penalties, and the fit
    that explains held-out answers best is taken. Both weight an entry by its accuracy: an error e
    in p is an error e / p in its logarithm, so that small entries say little. Zeros of an answer that
    sums to less than 1 were truncated; their probabilities sum to the rest.

    Facts: ``queries_needed``, the smallest number of answers whose solution predicts the log-odds of all
    other answers within :data:`TOLERANCE`; None where answers are not exact, or too few. ``residual``,
    the root mean square of solution minus answer, in probability, over entries that were not truncated.
    """

    name = "equation_solving"
    paper = "Tramèr et al. 2016, arXiv 1609.02943, section 4.1"

    def applicable(self, pool: Pool, target: Target) -> str:
        """Return why not, where the victim is known not to be linear."""
        if target.linear is False:
            return "the victim's log-odds are not linear in its input, so there are no equations to solve"
        return ""

    def acquire(self, api: Api, pool: Pool, surrogates: SurrogateFactory, seeds: RandomSeeds) -> TransferSet:
        """Spend the budget on random inputs of the pool, drawn without replacement, and solve."""
        queries = pool.x[random_state(seeds.order).permutation(len(pool.x))[: api.budget]]
        answers = api.predict(queries)
        answered = np.isfinite(answers).all(axis=1)
        x, answers = np.ascontiguousarray(queries[answered]), answers[answered]
        encoding = Encoding.fit(api.inputs, x) if pool.x.ndim == 2 else None
        surrogate, needed = solve(x, answers, encoding)
        return TransferSet(
            x,
            answers.astype(np.float32),
            surrogate=surrogate,
            facts={"queries_needed": needed, "residual": _residual(surrogate, x, answers)},
        )


def solve(x: Images, answers: Array, encoding: Encoding | None = None) -> tuple[LinearModel, int | None]:
    """Return the linear model that explains answers (n, classes) to inputs (n, …), and the number needed.

    The number is the smallest n such that the first n answers determine all others; else None. Without
    any answer the model is uniform. ``encoding``: of rows of a table. Some of its values are rare, so the
    last answers may be the first to have one; then there is no such number, and answers that agree with one
    solution, more of them than it needs, are exact all the same.
    """
    flat = _flat(x) if encoding is None else encoding.flat(x)
    model, needed = _solved(flat, answers, rare=encoding is not None)
    return replace(model, encoding=encoding), needed


def _solved(flat: Array, answers: Array, *, rare: bool) -> tuple[LinearModel, int | None]:
    if not len(flat):
        return LinearModel(np.zeros((flat.shape[1], answers.shape[1])), np.zeros(answers.shape[1])), None
    usable = (answers > 0).all(axis=1)
    odds = log_odds(answers[usable])
    needed = queries_needed(flat[usable], odds)
    if needed is not None:
        model = least_squares(flat[usable], odds)
        # Answers with zeros in them are no equations, but the solution must agree with their labels.
        agreeing = model.of_numbers(flat[~usable]).argmax(axis=1) == answers[~usable].argmax(axis=1)
        if 2 * agreeing.sum() >= len(agreeing):
            return model, int(np.flatnonzero(usable)[needed - 1]) + 1
    if rare and usable.all() and (exact := exact_solution(flat, odds)) is not None:
        return exact, None
    return explain(flat, answers), None


def exact_solution(x: Array, odds: Array) -> LinearModel | None:
    """Return the model whose log-odds are those of all rows (n, classes), or None.

    Also None where there are not :data:`SPARE` rows more than unknowns: a solution of as many explains any.
    """
    if len(x) < np.linalg.matrix_rank(x - x.mean(axis=0)) + 1 + SPARE:
        return None
    model = least_squares(x, odds)
    return model if np.abs(x @ model.weights + model.bias - odds).max() <= TOLERANCE else None


def log_odds(answers: Array) -> Array:
    """Return the logarithms of positive answers (n, classes), less their mean in each row."""
    logs = np.log(answers)
    odds: Array = logs - logs.mean(axis=1, keepdims=True)
    return odds


def least_squares(x: Array, odds: Array) -> LinearModel:
    """Return the model of least squared error in the log-odds (n, classes), of minimal norm."""
    middle, level = x.mean(axis=0), odds.mean(axis=0)
    weights = lstsq(x - middle, odds - level, cond=RANK, lapack_driver="gelsy", check_finite=False)[0]
    return LinearModel(weights, level - middle @ weights)


def queries_needed(x: Array, odds: Array) -> int | None:
    """Return the smallest n such that the first n rows predict the log-odds (m, classes) of all others.

    If n exact rows predict them, more rows do, so n is found by doubling and bisection.
    """

    def enough(n: int) -> bool:
        model = least_squares(x[:n], odds[:n])
        wrong = np.abs(x[n:] @ model.weights + model.bias - odds[n:])
        return bool(wrong.max() <= TOLERANCE)

    low, last = 0, len(x) - 1
    high: int = min(x.shape[1] + 1, last)
    while high > low and not enough(high):
        low, high = high, min(2 * high, last)
    if high <= low:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if enough(middle):
            high = middle
        else:
            low = middle
    return high


def explain(x: Array, answers: Array) -> LinearModel:
    """Return the softmax that explains inexact answers (n, classes) best, by cross-validation."""
    middle = x.mean(axis=0)
    # Along the principal axes of the inputs, the curvature of either measure is nearly diagonal.
    _, lengths, axes = np.linalg.svd(x - middle, full_matrices=False)
    axes = axes[lengths > RANK * lengths[0]].T
    theta = _choose(_Rows.read((x - middle) @ axes, answers))
    weights = axes @ theta[:-1]
    return LinearModel(weights, theta[-1] - middle @ weights)


def _choose(rows: _Rows) -> Array:
    """Return the fit (d + 1, classes) whose measure and penalty have the least held-out squared error."""
    number = len(rows.x)
    start = np.zeros((rows.x.shape[1], rows.target.shape[1]))
    if number < 2:
        return rows.fit(*SAFEST, start)
    place = np.arange(number) % min(FOLDS, number)
    folds = range(place.max() + 1 if number < MANY else 1)
    split = [(rows.part(place != fold), rows.part(place == fold)) for fold in folds]
    least, best = np.inf, (*SAFEST, [start] * len(split))
    for measure, ridges in FITS:
        if measure == "log-odds" and not (rows.target > 0).all():
            continue
        before, thetas = np.inf, best[-1]
        for ridge in ridges:
            thetas = [
                known.fit(measure, ridge, theta) for (known, _), theta in zip(split, thetas, strict=True)
            ]
            wrong = sum(held.squares(theta, 0.0)[0] for (_, held), theta in zip(split, thetas, strict=True))
            if wrong < least:
                least, best = wrong, (measure, ridge, thetas)
            if wrong > before:  # past its best, a weaker penalty only fits more noise
                break
            before = wrong
    measure, ridge, thetas = best
    return rows.fit(measure, ridge, thetas[-1])


@dataclass(frozen=True)
class _Rows:
    """Answers as targets of a softmax.

    ``x``: (n, d + 1) inputs, each with a one appended. ``target``: (n, classes), at least 0. ``cut``: (n,
    classes), 1 for the entries that were truncated and sum to 1 minus the others, else 0.
    """

    x: Array
    target: Array
    cut: Array

    @classmethod
    def read(cls, x: Array, answers: Array) -> _Rows:
        """Read answers (n, classes), which may be negative or sum to any number."""
        target = np.maximum(answers, 0.0)
        total = target.sum(axis=1, keepdims=True)
        cut = (target == 0) & (total < 1 - 1e-6)
        whole = ~cut.any(axis=1, keepdims=True) | (total > 1)
        target = target / np.where(whole, total, 1.0)
        return cls(np.column_stack([x, np.ones(len(x))]), target, cut.astype(np.float64))

    def part(self, rows: NDArray[np.bool_]) -> _Rows:
        """Return some of the rows."""
        return _Rows(self.x[rows], self.target[rows], self.cut[rows])

    def fit(self, measure: str, ridge: float, start: Array) -> Array:
        """Return the (d + 1, classes) weights that are best by a measure and its ridge penalty."""
        if measure == "log-odds":
            model = least_squares(self.x[:, :-1], log_odds(self.target))
            return np.vstack([model.weights, model.bias])
        loss = self.likelihood if measure == "likelihood" else self.squares
        scale = 1 / np.sqrt(CURVATURE * (self.x**2).sum(axis=0) + ridge)[:, None]

        def scaled(flat: Array) -> tuple[float, Array]:
            value, slope = loss(flat.reshape(start.shape) * scale, ridge)
            return value, (slope * scale).ravel()

        options = {"maxiter": STEPS, "ftol": 1e-9, "gtol": 1e-6}
        found = minimize(scaled, (start / scale).ravel(), jac=True, method="L-BFGS-B", options=options)
        theta: Array = found.x.reshape(start.shape) * scale
        return theta

    def likelihood(self, theta: Array, ridge: float) -> tuple[float, Array]:
        """Return the penalised negative log-likelihood of the targets, and its gradient by ``theta``."""
        q = _softmax(self.x @ theta)
        together = np.maximum((q * self.cut).sum(axis=1, keepdims=True), 1e-300)
        left = np.where(self.cut.any(axis=1, keepdims=True), 1 - self.target.sum(axis=1, keepdims=True), 0.0)
        loss = -(self.target * np.log(np.maximum(q, 1e-300))).sum() - (left * np.log(together)).sum()
        return self._penalised(loss, q - self.target - left * q * self.cut / together, theta, ridge)

    def squares(self, theta: Array, ridge: float) -> tuple[float, Array]:
        """Return the penalised half squared error of entries not truncated, and its gradient by ``theta``."""
        q = _softmax(self.x @ theta)
        error = (q - self.target) * (1 - self.cut)
        pull = error * q
        slope = pull - q * pull.sum(axis=1, keepdims=True)
        return self._penalised((error**2).sum() / 2, slope, theta, ridge)

    def _penalised(self, loss: float, slope: Array, theta: Array, ridge: float) -> tuple[float, Array]:
        """Add the penalty on all weights but the bias."""
        gradient = self.x.T @ slope
        gradient[:-1] += ridge * theta[:-1]
        return float(loss + ridge / 2 * (theta[:-1] ** 2).sum()), gradient


def _residual(surrogate: LinearModel, x: Images, answers: Array) -> float | None:
    """Return the root mean square error over the entries (n, classes) that were not truncated."""
    seen = _Rows.read(_flat(x), answers).cut == 0
    return float(np.sqrt(((surrogate(x) - answers)[seen] ** 2).mean())) if seen.any() else None


def _flat(x: Images) -> Array:
    return x.reshape(len(x), int(np.prod(x.shape[1:]))).astype(np.float64)


def _softmax(scores: Array) -> Array:
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    probabilities: Array = weights / weights.sum(axis=1, keepdims=True)
    return probabilities
