"""How a thief trains: the one rule, or a published recipe in its place."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from bench.calls import format_call, parse_call
from bench.errors import UsageError
from bench.parameters import validate
from bench.plugins import Plugin

if TYPE_CHECKING:
    from bench.models.networks import Shape
    from bench.models.training import TrainingSchedule

RATES = {"logistic": 1e-2}
"""Learning rates that differ from the rule's; a linear model needs larger steps to arrive."""


class TrainingConfig(Plugin):
    """The training rule, and what a published recipe changes in it.

    Unchanged it is a fixed number of Adam steps: 1,000 for images smaller than 20×20; else the
    larger of 2,500 and 20 passes over what was bought. Never a number of passes alone, which would
    starve small budgets. ``epochs`` asks for just that, because published studies do.

    ``loss``: "cross-entropy" with the answers as soft targets, or "mse-log-softmax": the squared
    error between the copy's log-softmax and the log of the answer plus ``constant``.
    ``learning_rate``: None for the rule's. ``decay``: falls to zero along a half cosine, else it is
    constant. ``mean``, ``std``: what the thief subtracts from a pixel and then divides it by.
    ``unlabelled``: what is done with the inputs of the pool that were not asked about: "unused", or
    "pseudo-labels" (Lee 2013): a first copy labels those of which it is sure, a second learns from all.
    """

    name = "rule"

    def __init__(
        self,
        *,
        loss: Literal["cross-entropy", "mse-log-softmax"] = "cross-entropy",
        constant: Annotated[float, Field(gt=0, le=1)] = 1e-9,
        learning_rate: Annotated[float, Field(gt=0, le=1)] | None = None,
        epochs: Annotated[int, Field(ge=1)] | None = None,
        batch_size: Annotated[int, Field(ge=1)] = 64,
        decay: bool = True,
        mean: Annotated[float, Field(ge=0, le=1)] = 0.0,
        std: Annotated[float, Field(gt=0, le=1)] = 1.0,
        unlabelled: Literal["unused", "pseudo-labels"] = "unused",
    ) -> None:
        self.loss = loss
        self.constant = constant
        self.learning_rate = learning_rate
        self.epochs = epochs
        self.batch_size = batch_size
        self.decay = decay
        self.mean = mean
        self.std = std
        self.unlabelled = unlabelled

    @property
    def semi_supervised(self) -> bool:
        """Whether inputs that were not asked about are learnt from too."""
        return self.unlabelled != "unused"

    def supervised(self) -> str:
        """Return the same rule without them, spelled out."""
        alone = copy(self)
        alone.unlabelled = "unused"
        return repr(alone)

    def __repr__(self) -> str:
        """Return the call that makes this rule, with what it changes alone."""
        defaults = {name: parameter.default for name, parameter in self.parameters().items()}
        changed = {name: getattr(self, name) for name in defaults if getattr(self, name) != defaults[name]}
        if self.loss == "cross-entropy":
            changed.pop("constant", None)
        return format_call(self.name, changed)

    def recipe(self, architecture: str, shape: Shape, n: int) -> TrainingSchedule:
        """Return the recipe for an architecture and ``n`` bought answers on images of ``shape``."""
        from bench.models import training  # torch takes a second to import; reading a matrix needs none of it

        small = min(shape[1:]) < 20
        if self.epochs is not None:
            steps = training.epochs(n, self.batch_size, self.epochs)
        else:
            steps = 1_000 if small else max(2_500, training.epochs(n, self.batch_size, 20))
        return training.TrainingSchedule(
            steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate or RATES.get(architecture, 3e-3),
            decay=self.decay,
            loss=self.loss,
            constant=self.constant,
        )


def rule(text: str) -> TrainingConfig:
    """Return the rule that ``rule(key=value, …)`` describes; raises UsageError naming key and range."""
    name, values = parse_call(text)
    if name != TrainingConfig.name:
        raise UsageError(f"unknown training {name!r}; write rule or rule(key=value, …)")
    made: dict[str, Any] = validate("training", TrainingConfig, values)
    return TrainingConfig(**made)
