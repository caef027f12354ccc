"""GRAD²: the answer whose training step moves a surrogate's parameters in a chosen direction.

Mazeika, Li, Forsyth 2022, "How to Steer Your Adversary: Targeted and Efficient Model Stealing Defenses with
Gradient Redirection" (ICML, arXiv 2206.14157), with its main target, the all-ones direction.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from sklearn.exceptions import NotFittedError
from torch import Tensor
from torch.func import functional_call, jvp

from bench.linear_programme import cheapest
from bench.numerics import flush_denormals, in_chunks
from bench.seeds import derive
from defenses import predicates
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
from defenses.networks import BATCH, SmallNetwork, initial, space_of, train

EPOCHS = 10
"""Epochs that the surrogate is trained for, as the paper's ALL-ONES_10."""
LEAST_STEPS = 300
"""Steps that it takes at least, where the calibration split is small."""


class GradRedirection(Defense):
    """Answers the distribution y' that maximises ``<G' y', 1>`` within ``||y' - y||_1 <= eps`` of y.

    Row k of G is the gradient of ``log F_k(x; w)`` by the parameters w of a surrogate F that the defender
    trains on the calibration split, with the victim's answers. ``eps``: in [0, 2]. ``keep_label``: the
    top-1 class keeps a lead of 1e-4 over every other one, which the paper does not ask for. Without it the
    label may change from ``eps`` = the top-1's lead on.

    Fitted: ``surrogate_``. Its seed is secret.
    """

    name = "grad_redirection"
    paper = "Mazeika et al. 2022, arXiv 2206.14157 (GRAD², all-ones)"
    known_by = ("recover",)
    strength = StrengthRange("eps", 0.0, 2.0)

    surrogate_: SmallNetwork

    def __init__(self, *, eps: Annotated[float, Field(ge=0, le=2)] = 1.0, keep_label: bool = False) -> None:
        self.eps, self.keep_label = eps, keep_label

    @property
    def claims(self) -> Claims:
        """Without ``keep_label``, the class that receives may overtake the top-1, or tie with it."""
        return Claims(keeps_label=self.keep_label, ties=not self.keep_label)

    @property
    def predicates(self) -> Sequence[Predicate]:
        """The bound."""
        return (predicates.within_l1(self.eps),)

    def fit(self, calibration: Calibration) -> None:
        """Train the surrogate on the calibration split, with the victim's answers."""
        rows, x = calibration.probabilities, calibration.inputs
        seed = calibration.seed
        network = initial(space_of(calibration), rows.shape[1], derive("surrogate", seed), x)
        answers = torch.from_numpy(rows.astype(np.float32))

        def cross_entropy(logits: Tensor, numbers: Tensor) -> Tensor:
            return torch.nn.functional.cross_entropy(logits, answers[numbers])

        steps = max(LEAST_STEPS, EPOCHS * -(-len(x) // BATCH))
        self.surrogate_ = train(network, x, cross_entropy, steps=steps, seed=derive("batches", seed))

    def at(self, value: float, calibration: Calibration) -> Defense:
        """Return this defense at another ``eps``, with the same surrogate."""
        other = GradRedirection(eps=value, keep_label=self.keep_label)
        other.surrogate_ = self.surrogate_
        return other

    def answer(self, batch: Batch) -> Answers:
        """Return the redirected answers; raises NotFittedError before ``fit``."""
        if not hasattr(self, "surrogate_"):
            raise NotFittedError("call fit with a calibration split before grad_redirection answers a query")
        slopes = along_ones(self.surrogate_, batch.inputs)
        return Answers.of(cheapest(batch.probabilities, -slopes, self.eps, keep_label=self.keep_label))


@flush_denormals()
def along_ones(network: SmallNetwork, x: Images) -> Array:
    """Return (n, classes), the derivatives of ``log F_k(x; w + s 1)`` by s at 0.

    They are what G times the all-ones direction is: by one forward-mode product for all classes, in double
    precision, in chunks of 256 of which the last is padded. ``x``: (n, …), of the victim's space.
    """
    module = network.module
    parameters = {name: value.detach().double() for name, value in module.named_parameters()}
    ones = {name: torch.ones_like(value) for name, value in parameters.items()}

    def evaluate(rows: NDArray[np.float32]) -> Any:
        inputs = torch.from_numpy(rows).double()

        def log_probabilities(values: dict[str, Tensor]) -> Tensor:
            logits: Tensor = functional_call(module, values, (inputs,))
            return torch.log_softmax(logits, dim=1)

        slopes = jvp(log_probabilities, (parameters,), (ones,))[1]
        return (slopes.numpy(),)

    if not len(x):
        return np.zeros((0, network.classes))
    _load_forward_mode()
    return np.asarray(in_chunks(evaluate, network.encoded(x))[0], dtype=np.float64)


@cache
def _load_forward_mode() -> None:
    """Load torch's rules of forward-mode derivatives, which it compiles by a function that it deprecates."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        jvp(torch.log, (torch.ones(1),), (torch.ones(1),))
