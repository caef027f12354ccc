"""The training configuration of surrogates: the default, or that of a publication."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from bench.calls import format_call, parse_call
from bench.errors import UsageError, shown
from bench.parameters import validate
from bench.plugins import Plugin

if TYPE_CHECKING:
    from bench.models.networks import Shape
    from bench.models.training import TrainingSchedule

RATES = {"logistic": 1e-2}
"""Default learning rates by architecture, where not 0.003; a linear model needs larger steps to converge."""

OF_IMAGES = frozenset({"lenet", "cnn", "resnet18"})
"""Networks that take images alone; the others take inputs of any shape."""
PSEUDO_LABELS = "pseudo-labels"
BY_VIEWS = frozenset({"fixmatch", "mixmatch", "rotation"})
"""Uses of unqueried inputs that train on views of them."""
MOST = 1_000_000
"""Largest number of passes, and of rows of a batch."""


class TrainingConfig(Plugin):
    """How surrogates are trained: by default, or as a publication trains them.

    The default is a fixed number of Adam steps: 1,000 for tables, sequences and images smaller than 20×20;
    else the larger of 2,500 and 20 passes over the transfer set. A number of passes alone would undertrain
    small budgets. ``epochs`` sets just that, for publications that do so.

    ``loss``: "cross-entropy" with the answers as soft targets, or "mse-log-softmax": the squared error
    between the surrogate's log-softmax and the log of the answer plus ``constant``. ``learning_rate``: None
    for the default. ``decay``: the rate falls to zero along a half cosine, else it is constant. ``mean``,
    ``std``: the attacker subtracts the first from each pixel and then divides by the second.
    ``unlabelled``: the use of unqueried pool inputs: "unused"; "pseudo-labels" (Lee 2013): a first
    surrogate labels those it is confident of, and a second is trained on all; or "fixmatch", "mixmatch" or
    "rotation", which learn from views of them in each step (:mod:`bench.models.semi_supervised`).
    ``augment``: "weak" for random views of the answered inputs, as these three have them: their control.
    """

    name = "rule"

    def __init__(
        self,
        *,
        loss: Literal["cross-entropy", "mse-log-softmax"] = "cross-entropy",
        constant: Annotated[float, Field(gt=0, le=1)] = 1e-9,
        learning_rate: Annotated[float, Field(gt=0, le=1)] | None = None,
        epochs: Annotated[int, Field(ge=1, le=MOST)] | None = None,
        batch_size: Annotated[int, Field(ge=1, le=MOST)] = 64,
        decay: bool = True,
        mean: Annotated[float, Field(ge=0, le=1)] = 0.0,
        std: Annotated[float, Field(ge=1e-6, le=1)] = 1.0,
        unlabelled: Literal["unused", "pseudo-labels", "fixmatch", "mixmatch", "rotation"] = "unused",
        augment: Literal["none", "weak"] = "none",
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
        self.augment = "weak" if unlabelled in BY_VIEWS else augment

    @property
    def method(self) -> str:
        """How a surrogate learns from views, as :data:`bench.models.semi_supervised.METHODS` name it.

        Empty if it does not.
        """
        if self.unlabelled in BY_VIEWS:
            return self.unlabelled
        return "weak" if self.augment == "weak" else ""

    @property
    def semi_supervised(self) -> bool:
        """Whether unqueried inputs are used for training too."""
        return self.unlabelled != "unused"

    def supervised(self) -> str:
        """Return the same configuration, as text, without the use of unqueried inputs.

        That of a training on views is its control, on weak views of the answered inputs.
        """
        alone = copy(self)
        alone.unlabelled = "unused"
        return repr(alone)

    def __repr__(self) -> str:
        """Return the configuration as text, with the parameters that differ from the default."""
        defaults = {name: parameter.default for name, parameter in self.parameters().items()}
        changed = {name: getattr(self, name) for name in defaults if getattr(self, name) != defaults[name]}
        if self.loss == "cross-entropy":
            changed.pop("constant", None)
        if self.unlabelled in BY_VIEWS:
            changed.pop("augment", None)  # it belongs to them
        return format_call(self.name, changed)

    def schedule(self, architecture: str, shape: Shape, n: int) -> TrainingSchedule:
        """Return the training schedule of an architecture for ``n`` answers on inputs of ``shape``."""
        from bench.models import training  # torch takes a second to import; reading a matrix needs none of it

        small = len(shape) < 3 or min(shape[1:]) < 20
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


def parse_training(text: str) -> TrainingConfig:
    """Return the configuration that ``rule(key=value, …)`` describes.

    Raises UsageError, naming key and range, for anything else.
    """
    name, values = parse_call(text)
    if name != TrainingConfig.name:
        raise UsageError(f"unknown training {shown(name)}; write rule or rule(key=value, …)")
    checked: dict[str, Any] = validate("training", TrainingConfig, values)
    config = TrainingConfig(**checked)
    if config.unlabelled in BY_VIEWS and config.loss != "cross-entropy":
        raise UsageError(
            f"training: unlabelled={config.unlabelled} has losses of its own; "
            f"it needs loss=cross-entropy, not {config.loss}"
        )
    return config
