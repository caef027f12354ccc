"""EDM, an ensemble of diverse models: networks that agree on the victim's data and disagree elsewhere.

Kariyappa, Prakash, Qureshi 2021, "Protecting DNNs from Theft using an Ensemble of Diverse Models" (ICLR).
Which of them answers is decided by a hash of the input, so that for an attacker's queries from another
distribution the answers are discontinuous.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
from collections.abc import Sequence
from typing import Annotated, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from sklearn.exceptions import NotFittedError
from torch import Tensor

from bench.encoding import Encoding
from bench.errors import NotApplicable
from bench.seeds import derive
from defenses.base import Answers, Array, Batch, Calibration, Claims, Defense, Images, StrengthRange
from defenses.networks import SmallNetwork, initial, space_of, steps_for, train_together

DIRECTIONS = 4
"""Random directions along which an input is coarsened for the hash."""
FIT_ROWS = 2_000
"""Largest number of training inputs by which the width of a bin is set."""
NUMBERS = 2.0**64
"""The first 8 bytes of a digest are an integer below this."""

Members = NDArray[np.int64]


class DiverseEnsemble(Defense):
    """Answers a share ``share`` of all inputs with ``models`` - 1 further networks, each as many of them.

    The further networks are trained together: by cross-entropy on the victim's training split, and by a loss
    on the auxiliary data that is large where two of the models, the victim included, answer alike:

        log sum_{i<j} exp(cos(f_i(x), f_j(x))),  times ``diversity``

    The victim itself is not changed. In the paper all models are trained this way, and all are the victim's
    equals; so this is the defense as somebody applies it who has a model already.

    The hash is that of the input, coarsened: its projections on four secret directions, in bins as wide as
    the standard deviation of training inputs. So nearly all inputs that differ little get the same model,
    for every client and always. The default ``share`` gives five models equally many inputs.

    The further networks ignore the answers of the defenses before this one in a stack, so it should be the
    first. ``auxiliary``: the name of the data.

    Fitted: ``networks_``, the further ones.
    """

    name = "diverse_ensemble"
    paper = "Kariyappa et al. 2021 (ICLR), ensemble of diverse models"
    known_by = ("recover",)
    strength = StrengthRange("share", 0.0, 1.0)

    networks_: list[SmallNetwork]

    def __init__(
        self,
        *,
        models: Annotated[int, Field(ge=2, le=10)] = 5,
        share: Annotated[float, Field(ge=0, le=1)] = 0.8,
        diversity: Annotated[float, Field(ge=0, le=100)] = 1.0,
        auxiliary: str = "default",
    ) -> None:
        self.models, self.share, self.diversity, self.auxiliary = models, share, diversity, auxiliary

    @property
    def claims(self) -> Claims:
        """The further networks have labels of their own, and may have ties."""
        return Claims(keeps_label=False, ties=True)

    @property
    def auxiliary_data(self) -> str:
        """The data on which the models learn to disagree."""
        return self.auxiliary

    def fit(self, calibration: Calibration) -> None:
        """Train the further networks; raises NotApplicable without auxiliary data."""
        other = calibration.auxiliary
        if other is None:
            raise NotApplicable(
                "diverse_ensemble needs auxiliary data with the victim's answers to it: inputs from another "
                "distribution, on which its models learn to disagree"
            )
        seed = derive("ensemble", calibration.seed)
        classes = calibration.probabilities.shape[1]
        self.networks_ = [
            initial(space_of(calibration), classes, derive(seed, number), calibration.train_inputs)
            for number in range(self.models - 1)
        ]
        labels = torch.from_numpy(calibration.train_labels)
        fixed = torch.from_numpy(other.probabilities.astype(np.float32))

        def loss(outputs: Sequence[Sequence[Tensor]], rows: Sequence[Tensor]) -> Tensor:
            wrong = [torch.nn.functional.cross_entropy(own, labels[rows[0]]) for own, _ in outputs]
            elsewhere = [fixed[rows[1]], *(logits.softmax(dim=1) for _, logits in outputs)]
            return torch.stack(wrong).sum() + self.diversity * likeness(elsewhere)

        sets = [calibration.train_inputs, other.inputs]
        train_together(self.networks_, sets, loss, steps=steps_for(len(sets[0])), seed=seed)
        self._fit_hash(calibration, seed)

    def _fit_hash(self, calibration: Calibration, seed: int) -> None:
        self._key = hashlib.sha256(f"diverse ensemble {seed}".encode()).digest()
        self._encoding: Encoding = self.networks_[0].encoding
        rng = np.random.default_rng(derive("hash", seed))
        width = int(np.prod(self._encoding.shape))
        self._directions = rng.normal(size=(DIRECTIONS, width)) / np.sqrt(width)
        self._offsets = rng.random(DIRECTIONS)
        spread = self._projections(calibration.train_inputs[:FIT_ROWS]).std(axis=0)
        self._widths = np.where(spread > 0, spread, 1.0)

    def at(self, value: float, calibration: Calibration) -> Self:
        """Return this defense at another ``share``, with the same networks and the same hash."""
        other = type(self)(
            models=self.models, share=value, diversity=self.diversity, auxiliary=self.auxiliary
        )
        vars(other).update(
            {key: each for key, each in vars(self).items() if key not in type(self).parameters()}
        )
        return other

    def members(self, inputs: Images) -> Members:
        """Return (n,) which model answers each input: 0 is the victim, the others are ``networks_``."""
        if not hasattr(self, "networks_"):
            raise NotFittedError(f"call fit with a calibration split before {self.name} answers a query")
        bins = np.floor(self._projections(inputs) / self._widths + self._offsets).astype(np.int64)
        found = np.zeros(len(inputs), dtype=np.int64)
        for row, code in enumerate(bins):
            digest = hmac.digest(self._key, code.tobytes(), "sha256")
            if int.from_bytes(digest[:8], "big") < self.share * NUMBERS:
                found[row] = 1 + int.from_bytes(digest[8:16], "big") % len(self.networks_)
        return found

    def answer(self, batch: Batch) -> Answers:
        """Return the answers of the model that each input gets; raises NotFittedError before ``fit``."""
        answers, members = batch.probabilities.copy(), self.members(batch.inputs)
        for number, network in enumerate(self.networks_, 1):
            rows = np.flatnonzero(members == number)
            if len(rows):
                answers[rows] = network.probabilities(batch.inputs[rows])
        return Answers.of(answers)

    def _projections(self, inputs: Images) -> Array:
        """Return (n, directions) projections of encoded inputs, summed row by row in one order."""
        flat = self._encoding.flat(inputs)
        found: Array = np.empty((len(flat), DIRECTIONS))
        for place, direction in enumerate(self._directions):
            found[:, place] = (flat * direction).sum(axis=1)
        return found


def likeness(rows: Sequence[Tensor]) -> Tensor:
    """Return how alike models answer: the mean of log sum_{i<j} exp(cos(f_i, f_j)) over inputs.

    ``rows``: the answers (n, classes) of each of two or more models, which are distributions.
    """
    pairs = [
        torch.nn.functional.cosine_similarity(one, other, dim=1)
        for one, other in itertools.combinations(rows, 2)
    ]
    return torch.stack(pairs).logsumexp(dim=0).mean()
