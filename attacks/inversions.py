"""How each defense is undone: the table that the attack ``recover`` looks defenses up in, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma, polygamma

from attacks import inversion as cells
from attacks import inversion_noise as noise
from attacks import inversion_sigmoid as sigmoid
from attacks.base import Array, Known
from attacks.inversion_sigmoid_fit import fitted

Mask = NDArray[np.bool_]
Parameters = Mapping[str, Any]
Guess = Callable[[], Array]


EXPLAINED = 0.9
"""Share of rows that parameters explain if they were found to many digits."""


@dataclass(frozen=True)
class View:
    """What holds where a defense stands in a stack.

    ``sums``: the rows before it sum to 1. ``exact``: nothing was lost in undoing those after it.
    ``unit``: of which the entries of the rows before it are multiples; None where there is no such thing.
    """

    sums: bool = True
    exact: bool = True
    unit: float | None = None


class Inversion:
    """How a defense with given ``parameters`` is undone; this one changes nothing.

    ``parameters`` are those of the defense by name; without them all that can be done is to ``fit`` them.
    ``fitted``: whether that was done, so that they are not exact.
    """

    guided: ClassVar[bool] = False
    """Whether it makes use of a guess."""
    sums: ClassVar[bool] = True
    """Whether the defense's answers sum to 1."""
    exact: ClassVar[bool] = True
    """Whether nothing is lost in undoing it."""
    simulated: ClassVar[bool] = True
    """Whether ``forward`` is known."""

    def __init__(self, parameters: Parameters | None = None, *, fitted: bool = False) -> None:
        self.parameters: Parameters = parameters or {}
        self.fitted = fitted

    @property
    def unit(self) -> float | None:
        """Of which entries of the defense's answers are multiples; None where there is no such thing."""
        return None

    def fit(self, told: Array, guess: Guess) -> Parameters:
        """Return the parameters that answers (n, classes) give away.

        ``guess`` trains copies on labels, and returns (n, classes), what they say of the rows.
        """
        return {}

    def forward(self, rows: Array) -> Array:
        """Return what the defense makes of rows (n, classes), on average where it is random."""
        return rows

    def undo(self, told: Array, guess: Array | None, view: View) -> tuple[Array, Mask]:
        """Return rows (n, classes) from before the defense, NaN where worthless; and (n,) which were found.

        ``guess``: (n, classes), roughly what these rows were, or None.
        """
        return told, np.ones(len(told), dtype=bool)


class Label(Inversion):
    """label_only: of answers that hold nothing else, the top-1 is taken."""

    exact = False

    def forward(self, rows: Array) -> Array:
        """Return the top-1 of each row."""
        return cells.one_hot(rows)

    def undo(self, told: Array, guess: Array | None, view: View) -> tuple[Array, Mask]:
        """Return the top-1 of each answer."""
        return cells.one_hot(told), np.ones(len(told), dtype=bool)


class Unknown(Label):
    """A defense that is not described here: learnt by the label of its answers."""

    simulated = False


class Flattening(Label):
    """softmax_flattening: nothing but the label is left in it."""

    def fit(self, told: Array, guess: Guess) -> Parameters:
        """Return the band in units of its upper end, since rows are divided by their sums."""
        order = np.sort(told, axis=1)
        unit = np.clip(order[:, -2], cells.LEAST, None)
        lift = float(np.median(order[:, -1] / unit)) - 1
        return {"low": float((order[:, 0] / unit).min()), "high": 1.0, "bias": lift}

    def forward(self, rows: Array) -> Array:
        """Return the mean of drawn entries, and of the largest of them with its lift on the label."""
        low, high, classes = self.parameters["low"], self.parameters["high"], rows.shape[1]
        entry, top = (low + high) / 2, low + (high - low) * classes / (classes + 1) + self.parameters["bias"]
        return cells.divided(entry + (top - entry) * cells.one_hot(rows))


class AnswerRegion(Inversion):
    """A defense that leaves an interval for each entry: the likeliest row within it."""

    guided, sums, exact = True, False, False

    def bounds(self, told: Array) -> tuple[Array, Array]:
        """Return the least and the largest (n, classes) that each entry may have been."""
        raise NotImplementedError

    def undo(self, told: Array, guess: Array | None, view: View) -> tuple[Array, Mask]:
        """Return the row nearest to the guess, else to the middle; where rows sum to 1, in KL.

        The middle is further from a confident victim's row than the answer is, and still teaches more:
        copies that started from the answer agreed less with the victim.
        """
        low, high = self.bounds(told)
        near = (low + high) / 2 if guess is None else guess
        rows = cells.project(near, low, high) if view.sums else np.clip(near, low, high)
        return rows, np.ones(len(told), dtype=bool)


class Rounding(AnswerRegion):
    """rounded."""

    @property
    def unit(self) -> float | None:
        """The last decimal, where that is coarse enough to be told from any other number."""
        decimals = int(self.parameters["decimals"])
        return 10.0**-decimals if decimals <= cells.COARSE else None

    def fit(self, told: Array, guess: Guess) -> Parameters:
        """Return the decimals that the answers are written with."""
        return {"decimals": cells.decimals_of(told)}

    def forward(self, rows: Array) -> Array:
        """Return rounded rows."""
        return np.asarray(np.round(rows, self.parameters["decimals"]))

    def bounds(self, told: Array) -> tuple[Array, Array]:
        """Return half a unit to either side."""
        return cells.rounded_cell(told, self.parameters["decimals"])


class Truncation(AnswerRegion):
    """top_k."""

    def fit(self, told: Array, guess: Guess) -> Parameters:
        """Return the largest number of entries that were shown."""
        return {"k": cells.k_of(told)}

    def forward(self, rows: Array) -> Array:
        """Return rows without all but their largest entries."""
        kept, order = rows.copy(), np.argsort(-rows, axis=1, kind="stable")
        np.put_along_axis(kept, order[:, int(self.parameters["k"]) :], 0, axis=1)
        return kept

    def bounds(self, told: Array) -> tuple[Array, Array]:
        """Return what was shown, and for the rest the smallest of it."""
        return cells.top_k_cell(told, int(self.parameters["k"]))


class CutOff(AnswerRegion):
    """high_confidence. A row that was cut whole says next to nothing until there is a guess to hold it to."""

    def fit(self, told: Array, guess: Guess) -> Parameters:
        """Return the smallest entry that was shown."""
        return {"cutoff": cells.cutoff_of(told)}

    def forward(self, rows: Array) -> Array:
        """Return rows without their small entries."""
        return np.where(rows < self.parameters["cutoff"], 0, rows)

    def bounds(self, told: Array) -> tuple[Array, Array]:
        """Return what was shown, and for the rest the cut-off."""
        return cells.cutoff_cell(told, self.parameters["cutoff"])

    def undo(self, told: Array, guess: Array | None, view: View) -> tuple[Array, Mask]:
        """Return the likeliest rows, NaN where all was cut and there is no guess."""
        rows, found = super().undo(told, guess, view)
        if guess is None:
            rows[~told.any(axis=1)] = np.nan
        return rows, found


class Division(Inversion):
    """normalise: where rows did not sum to 1 before, the sum is lost.

    Of rounded rows it is the one nearest to 1 that makes all entries round again; else the guess's.
    """

    guided = True

    def forward(self, rows: Array) -> Array:
        """Return rows divided by their sums."""
        return cells.divided(np.clip(rows, 0, None))

    def undo(self, told: Array, guess: Array | None, view: View) -> tuple[Array, Mask]:
        """Return the answers, times the sum before where that need not be 1."""
        rows = told if guess is None or view.sums else told * guess.sum(axis=1, keepdims=True)
        if view.unit is not None and view.exact:
            rows = cells.multiples(told, view.unit, rows)
        return rows, np.ones(len(told), dtype=bool)


class Sigmoid(Inversion):
    """reverse_sigmoid."""

    guided = True

    def fit(self, told: Array, guess: Guess) -> Parameters:
        """Return what rows with several entries next to zero, or else copies, say of the parameters."""
        beta, gamma = fitted(told, guess)
        return {"beta": beta, "gamma": gamma}

    def forward(self, rows: Array) -> Array:
        """Return perturbed rows."""
        return sigmoid.answer(rows, self.parameters["beta"], self.parameters["gamma"])

    def undo(self, told: Array, guess: Array | None, view: View) -> tuple[Array, Mask]:
        """Return the mean of the rows that explain an answer, by plausibility."""
        curve = sigmoid.SigmoidMap.of(self.parameters["beta"], self.parameters["gamma"])
        if not view.exact:
            return sigmoid.invert(told, curve, guess, sigmoid.LOOSE)
        rows, found = sigmoid.invert(told, curve, guess)
        if self.fitted and found.mean() < EXPLAINED:
            return sigmoid.invert(told, curve, guess, sigmoid.NEARLY)
        return rows, found


class Noise(Inversion):
    """gaussian_noise, and output_noise, which may keep the label."""

    guided, exact = True, False

    def fit(self, told: Array, guess: Guess) -> Parameters:
        """Return the likeliest scale."""
        return {"scale": noise.scale_of(cells.divided(np.clip(told, 0, None)))}

    def forward(self, rows: Array) -> Array:
        """Return the mean answer, without regard to the label."""
        return noise.mean_answer(rows, self.parameters["scale"])

    def undo(self, told: Array, guess: Array | None, view: View) -> tuple[Array, Mask]:
        """Return the posterior means. Behind rounding gaussian_noise may not divide; then its rows are."""
        kept = bool(self.parameters.get("keep_label", False))
        shown = cells.divided(np.clip(told, 0, None))
        rows = noise.denoise(shown, self.parameters["scale"], guess, label_kept=kept)
        return rows, np.ones(len(told), dtype=bool)


class LabelledNoise(Noise):
    """output_noise."""

    def fit(self, told: Array, guess: Guess) -> Parameters:
        """Return the likeliest scale, and whether the label was kept."""
        scale = super().fit(told, guess)["scale"]
        return {"scale": scale, "keep_label": noise.keeps_label(told, scale, guess())}


class OtherModel(Inversion):
    """model_switch: leaves of a tree have exact zeros, which a softmax has not; they are not the victim's."""

    def undo(self, told: Array, guess: Array | None, view: View) -> tuple[Array, Mask]:
        """Return the answers, NaN where the tree gave them."""
        trees = (told == 0).any(axis=1)
        return np.where(trees[:, None], np.nan, told), ~trees


class Gate(Inversion):
    """mahalanobis: with ``action=noise`` flagged queries are answered with a flat Dirichlet's draw.

    The mean logarithm of a victim's row lies far below that of such a draw, where there are classes
    enough. With other actions flagged rows are labels, or refused.
    """

    def undo(self, told: Array, guess: Array | None, view: View) -> tuple[Array, Mask]:
        """Return the answers, NaN where they look drawn."""
        classes = told.shape[1]
        if self.parameters.get("action") != "noise" or classes < 4:
            return super().undo(told, guess, view)
        middle = digamma(1) - digamma(classes)
        width = np.sqrt((polygamma(1, 1) - classes * polygamma(1, classes)) / classes)
        drawn = np.log(np.clip(told, cells.LEAST, None)).mean(axis=1) > middle - 2 * width
        return np.where(drawn[:, None], np.nan, told), ~drawn


INVERSIONS: Mapping[str, type[Inversion]] = {
    "none": Inversion,
    "rate_limit": Inversion,
    "parameter_noise": Inversion,
    "mahalanobis": Gate,
    "model_switch": OtherModel,
    "reverse_sigmoid": Sigmoid,
    "rounded": Rounding,
    "top_k": Truncation,
    "high_confidence": CutOff,
    "normalise": Division,
    "label_only": Label,
    "softmax_flattening": Flattening,
    "gaussian_noise": Noise,
    "output_noise": LabelledNoise,
}
"""Inversions by the name of the defense."""


def inversion(known: Known) -> type[Inversion]:
    """Return how a defense is undone; one that nobody described here is learnt by its answers' label."""
    return INVERSIONS.get(known.name, Unknown)
