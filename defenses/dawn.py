"""DAWN: a keyed share of the queries gets a wrong answer, by which a surrogate can be recognised.

Szyller, Atli, Marchal, Asokan 2021, "DAWN: Dynamic Adversarial Watermarking of Neural Networks" (ACM MM;
arXiv 1906.00830). A keyed hash of a coarse representation of the input decides which queries these are, so
that a query and its near-duplicates get the same decision, and repeating a query tells nothing. A surrogate
that learns the wrong answers shows them; whether it does is tested in :mod:`bench.metrics.ownership`.

Here the wrong class is drawn by the same hash, evenly among all classes but the victim's. For whoever does
not know the key it is independent of everything else, which makes the test exact.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from sklearn.exceptions import NotFittedError

from defenses.base import (
    Answers,
    Array,
    Batch,
    Calibration,
    Claims,
    Defense,
    Images,
    Predicate,
    StrengthRange,
)
from defenses.predicates import EXACT

Labels = NDArray[np.int64]
Reader = Callable[[Images], Sequence[NDArray[np.float32]]]
FIT_ROWS = 2_000
"""Largest number of training inputs by which values are binned."""
SHARES = 2.0**64
"""The first 8 bytes of a digest are an integer below this."""


class Dawn(Defense):
    """Answers a share ``rate`` of all inputs with a wrong class, always the same inputs and the same class.

    ``representation``: what is hashed: the victim's last hidden layer ("features"), or the input; the input
    as well where the victim offers no hidden layer. Each value is replaced by its bin, of ``bins`` that hold
    equally many training inputs each: with two, whether it is above its median. With fewer bins more
    near-duplicates get the same decision; with too few, common inputs share one, and the share of wrong
    answers can be far from ``rate``.

    A wrong answer has the entries of the answer before in another order, the largest on the wrong class.

    The key is derived from the seed of the defense, unless :meth:`use_key` sets one. Fitted: ``edges_``
    (bins - 1, d), between the bins; ``fallback_``, whether the input stands for features.
    """

    name = "dawn"
    paper = "Szyller et al. 2021, arXiv 1906.00830"
    known_by = ("recover", "auto")
    strength = StrengthRange("rate", 0.0005, 0.5)

    edges_: Array
    fallback_: bool

    def __init__(
        self,
        *,
        rate: Annotated[float, Field(gt=0, le=0.5)] = 0.005,
        representation: Literal["features", "input"] = "features",
        bins: Annotated[int, Field(ge=2, le=256)] = 2,
    ) -> None:
        self.rate, self.representation, self.bins = rate, representation, bins

    @property
    def claims(self) -> Claims:
        """A marked input loses its label; entries stay those of a distribution."""
        return Claims(keeps_label=False)

    @property
    def predicates(self) -> Sequence[Predicate]:
        """An answer has the entries of the answer before, in whatever order."""

        def violation(before: Array, given: Answers) -> Array:
            apart: Array = np.abs(np.sort(before, axis=1) - np.sort(given.probabilities, axis=1)).max(axis=1)
            return apart

        return (Predicate("the entries before, in some order", violation, EXACT),)

    def fit(self, calibration: Calibration) -> None:
        """Find the bins by training inputs, and derive the key from the seed."""
        self._key = hashlib.sha256(f"dawn {calibration.seed}".encode()).digest()
        inputs = calibration.train_inputs[:FIT_ROWS]
        values, self.fallback_ = self._values(inputs, calibration.read_features)
        rising = np.sort(values, axis=0)
        self.edges_ = rising[np.arange(1, self.bins) * (len(rising) - 1) // self.bins]

    def use_key(self, key: bytes) -> None:
        """Use this secret key instead of that of the seed; whoever knows it can find the marked inputs."""
        self._key = bytes(key)

    def digests(self, batch: Batch) -> list[bytes]:
        """Return a digest of 32 bytes for each row: equal where two inputs count as the same."""
        if not hasattr(self, "edges_"):
            raise NotFittedError("call fit with a calibration split before dawn answers a query")
        if not len(batch):
            return []
        values, _ = self._values(batch.inputs, batch.read_features)
        codes = np.zeros(values.shape, dtype=np.uint8)
        for edge in self.edges_:
            codes += values > edge
        return [hmac.digest(self._key, code.tobytes(), "sha256") for code in codes]

    def marks(self, batch: Batch) -> Labels:
        """Return (n,) the wrong class of each row that is marked, -1 for the others."""
        return self._marks(batch, self.digests(batch))

    def answer(self, batch: Batch) -> Answers:
        """Return the answers before, wrong ones for marked rows; raises NotFittedError before ``fit``."""
        digests = self.digests(batch)
        answers = batch.probabilities.copy()
        marks = self._marks(batch, digests)
        for row in np.flatnonzero(marks >= 0):
            rng = np.random.default_rng(int.from_bytes(digests[row][16:], "big"))
            falling = np.sort(answers[row])[::-1]
            others = rng.permutation(np.delete(np.arange(answers.shape[1]), marks[row]))
            answers[row, marks[row]], answers[row, others] = falling[0], falling[1:]
        return Answers.of(answers)

    def _marks(self, batch: Batch, digests: Sequence[bytes]) -> Labels:
        marks = np.full(len(batch), -1, dtype=np.int64)
        classes = batch.raw.shape[1]
        for row, digest in enumerate(digests):
            if int.from_bytes(digest[:8], "big") < self.rate * SHARES:
                step = 1 + int.from_bytes(digest[8:16], "big") % (classes - 1)
                marks[row] = (batch.raw[row].argmax() + step) % classes
        return marks

    def _values(self, inputs: Images, reader: Reader | None) -> tuple[Array, bool]:
        """Return the representation (n, d) of inputs, and whether it is the input for want of features.

        A missing value of a table is smaller than any other.
        """
        depths = reader(inputs) if reader is not None and self.representation == "features" else ()
        found = depths[-2] if len(depths) > 1 else inputs.reshape(len(inputs), -1)
        values = np.where(np.isnan(found), -np.inf, found).astype(np.float64)
        return values, self.representation == "features" and len(depths) < 2
