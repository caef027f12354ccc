"""Training on random views of the transfer set, and of inputs that were not queried.

Each method takes the optimizer steps of the plain schedule, on the same batches of answered inputs. It adds
rows without an answer to each batch, and says what the gradient of the loss is by the logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import skip_init

from bench.augmentation import Augmentation
from bench.errors import NotApplicable
from bench.models.determinism import device, flush_denormals
from bench.models.fast.backprop import loss_gradient
from bench.models.networks import Network, has_modes
from bench.models.strong_augmentation import strong
from bench.models.training import (
    Optimizer,
    TrainingSchedule,
    Weights,
    batches,
    learning_rate_at,
    loss_targets,
    scaled,
    snapshot,
)
from bench.seeds import derive

Images = NDArray[np.float32]
Gradient = Callable[[Tensor], Tensor]
"""From logits (n, outputs) of a batch to the gradient of its loss by them."""

CONFIDENCE = 0.95
"""FixMatch: probability from which a label of a weak view is learned for the strong view."""
RATIO = 7
"""FixMatch: inputs without an answer for each answered one of a full batch."""
WEIGHT = 1.0
"""FixMatch and rotation: weight of the loss on inputs without an answer."""
VIEWS = 2
"""MixMatch: views of an input of which the mean is its label."""
TEMPERATURE = 0.5
"""MixMatch: exponent 1 / T by which that label is sharpened."""
ALPHA = 0.75
"""MixMatch: parameter of the Beta distribution from which mixing weights are drawn."""
MIXED_WEIGHT = 75.0
"""MixMatch: weight of the loss on inputs without an answer in the last step, to which it rises linearly."""
TURNS = 4
"""Rotation: the turns, by multiples of 90 degrees, that the second head tells apart."""


@dataclass(frozen=True)
class TrainingData:
    """What a surrogate learns from, encoded (:class:`bench.encoding.Encoding`) but not standardised.

    ``x``: (n, …) with answers ``y`` (n, classes). ``unlabelled``: (m, …) without. ``scale``: mean and
    standard deviation by which a view is standardised.
    """

    x: Images
    y: NDArray[np.float32]
    unlabelled: Images
    augmentation: Augmentation
    scale: tuple[float, float] = (0.0, 1.0)


class Views:
    """Random views of encoded inputs, as a network takes them. Each kind has a generator of its own."""

    def __init__(self, data: TrainingData, seed: int) -> None:
        self._augmentation, self._scale = data.augmentation, data.scale
        self._rng = np.random.default_rng(seed)

    def weak(self, x: Images) -> Images:
        """Return a weak view of each input (n, …), not yet standardised."""
        return self._augmentation.weak(x, self._rng)

    def strong(self, x: Images) -> Images:
        """Return a strong view of each input (n, …), not yet standardised; of images, of a weak view."""
        if self._augmentation.layout != "images":
            return self._augmentation.strongly_masked(x, self._rng)
        weak = np.ascontiguousarray(self.weak(x), dtype=np.float32)
        result: Images = strong(torch.from_numpy(weak), self._rng).numpy()
        return result

    def tensor(self, *parts: Images) -> Tensor:
        """Return views (n, …) joined, standardised, on the training's device."""
        joined = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return torch.from_numpy(np.ascontiguousarray(scaled(joined, *self._scale))).to(device())

    def permutation(self, n: int) -> Tensor:
        """Return a random order of ``n`` rows."""
        return torch.from_numpy(self._rng.permutation(n)).to(device())

    def mixing_weights(self, n: int) -> Tensor:
        """Return (n,) float32 weights max(b, 1 - b), with b from Beta(:data:`ALPHA`, :data:`ALPHA`)."""
        drawn = self._rng.beta(ALPHA, ALPHA, n)
        return torch.from_numpy(np.maximum(drawn, 1 - drawn).astype(np.float32)).to(device())


class Method:
    """What a training does with a batch; this one learns answers alone, on weak views: the control."""

    ratio = 0
    """Inputs without an answer in each step, by the size of a full batch of answered ones."""
    evaluations = 0
    """Rows that the network evaluates for each of these, with or without a gradient; of FixMatch at most."""
    outputs = 0
    """Logits that the network has beside those of the classes, while it is trained."""

    def __init__(self, data: TrainingData, schedule: TrainingSchedule, seed: int) -> None:
        self._data, self._schedule = data, schedule
        self._labelled = Views(data, derive(seed, "weak views"))
        self._views = Views(data, derive(seed, "views of unlabelled inputs"))
        self._rows = self._unlabelled_rows(derive(seed, "unlabelled batches"))

    def _unlabelled_rows(self, seed: int) -> Iterator[NDArray[np.int64]]:
        """Yield row numbers of full batches, without end; an input returns when all others were drawn."""
        size, left = len(self._data.unlabelled), np.empty(0, np.int64)
        rng = np.random.default_rng(seed)
        number = min(size, self.ratio * self._schedule.batch_size)
        while True:
            while len(left) < number:
                left = np.concatenate([left, rng.permutation(size)])
            yield left[:number]
            left = left[number:]

    def batch(self, rows: Tensor, step: int, guess: Callable[[Tensor], Tensor]) -> tuple[Tensor, Gradient]:
        """Return inputs of a step, (n, …), and the gradient of its loss.

        ``rows``: of the answered inputs. ``step`` counts from 1. ``guess``: from inputs to (n, outputs)
        logits of the network as it is, in evaluation mode.
        """
        x, targets = self._weak_views(rows)

        def gradient(logits: Tensor) -> Tensor:
            return loss_gradient(logits, targets, 1 / len(targets), self._schedule.loss)

        return self._views.tensor(x), gradient

    def _weak_views(self, rows: Tensor) -> tuple[Images, Tensor]:
        chosen = rows.numpy()
        targets = torch.from_numpy(loss_targets(self._data.y[chosen], self._schedule)).to(device())
        return self._labelled.weak(self._data.x[chosen]), targets

    def _draw(self) -> Images:
        drawn: Images = self._data.unlabelled[next(self._rows)]
        return drawn


class FixMatch(Method):
    """A weak view's label, where the network is confident of it, is learned for a strong view.

    Sohn et al. 2020, "FixMatch" (arXiv 2001.07685), section 2.
    """

    ratio = RATIO
    evaluations = 2  # the weak view, and the strong one where its label is confident

    def batch(self, rows: Tensor, step: int, guess: Callable[[Tensor], Tensor]) -> tuple[Tensor, Gradient]:
        """Return weak views of answered inputs, and the strong views of those that are learned."""
        x, targets = self._weak_views(rows)
        unlabelled = self._draw()
        confident, labels = confident_labels(guess(self._views.tensor(self._views.weak(unlabelled))))
        strong_views = self._views.strong(unlabelled[confident.cpu().numpy()])
        one_hot = functional.one_hot(labels[confident], targets.shape[1]).to(targets.dtype)
        joined = torch.cat([targets, one_hot])
        weights = joined.new_full((len(joined),), WEIGHT / len(unlabelled))
        weights[: len(x)] = 1 / len(x)

        def gradient(logits: Tensor) -> Tensor:
            return loss_gradient(logits, joined, weights, "cross-entropy")

        return self._views.tensor(x, strong_views), gradient


class MixMatch(Method):
    """Inputs are mixed with each other, and so are answers and sharpened labels.

    Berthelot et al. 2019, "MixMatch" (arXiv 1905.02249), algorithm 1.
    """

    ratio = 1
    evaluations = 2 * VIEWS  # each view for its label, and in a mixture

    def batch(self, rows: Tensor, step: int, guess: Callable[[Tensor], Tensor]) -> tuple[Tensor, Gradient]:
        """Return mixtures of which the first parts are the answered inputs, then the views of others."""
        x, answers = self._weak_views(rows)
        unlabelled = self._draw()
        views = [self._views.weak(unlabelled) for _ in range(VIEWS)]
        likely = [torch.softmax(guess(self._views.tensor(view)), dim=1) for view in views]
        inputs, number = self._views.tensor(x, *views), len(answers)
        targets = torch.cat([answers, *[sharpened(torch.stack(likely).mean(dim=0))] * VIEWS])
        weights, partners = self._views.mixing_weights(len(inputs)), self._views.permutation(len(inputs))
        mixed, mixed_targets = (mixture(each, weights, partners) for each in (inputs, targets))
        factor = MIXED_WEIGHT * step / self._schedule.steps

        def gradient(logits: Tensor) -> Tensor:
            labelled = loss_gradient(logits[:number], mixed_targets[:number], 1 / number, "cross-entropy")
            others = squared_error_gradient(logits[number:], mixed_targets[number:])
            return torch.cat([labelled, factor * others])

        return mixed, gradient


class Rotation(Method):
    """A second head on the same layers tells by how much unlabelled images were turned (S4L).

    Zhai et al. 2019, "S4L: Self-Supervised Semi-Supervised Learning" (arXiv 1905.03670), section 3.1.
    """

    ratio = 1
    evaluations = TURNS
    outputs = TURNS

    def batch(self, rows: Tensor, step: int, guess: Callable[[Tensor], Tensor]) -> tuple[Tensor, Gradient]:
        """Return weak views of answered images, and unlabelled ones turned by each multiple of 90 degrees."""
        x, answers = self._weak_views(rows)
        views = self._views.weak(self._draw())
        turned = [np.rot90(views, turn, axes=(2, 3)) for turn in range(TURNS)]
        number, classes = answers.shape
        turns = torch.arange(TURNS, device=answers.device).repeat_interleave(len(views))
        targets = functional.one_hot(turns, TURNS).to(answers.dtype)

        def gradient(logits: Tensor) -> Tensor:
            result = torch.zeros_like(logits)
            heads = logits[:number, :classes].contiguous(), logits[number:, classes:].contiguous()
            result[:number, :classes] = loss_gradient(heads[0], answers, 1 / number, "cross-entropy")
            result[number:, classes:] = loss_gradient(
                heads[1], targets, WEIGHT / len(targets), "cross-entropy"
            )
            return result

        return self._views.tensor(x, *turned), gradient


METHODS: dict[str, type[Method]] = {
    "weak": Method,
    "fixmatch": FixMatch,
    "mixmatch": MixMatch,
    "rotation": Rotation,
}
"""The trainings of this module, by the name in a training configuration."""


def confident_labels(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return (n,) whether the top probability is at least :data:`CONFIDENCE`, and the (n,) labels."""
    top, labels = torch.softmax(logits, dim=1).max(dim=1)
    return top >= CONFIDENCE, labels


def sharpened(probabilities: Tensor) -> Tensor:
    """Return (n, classes) probabilities in proportion to their power 1 / :data:`TEMPERATURE`."""
    powers = probabilities.pow(1 / TEMPERATURE)
    return powers / powers.sum(dim=1, keepdim=True)


def mixture(rows: Tensor, weights: Tensor, partners: Tensor) -> Tensor:
    """Return each of ``rows`` (n, …) times its weight, plus its partner times 1 - weight."""
    weights = weights.view(-1, *[1] * (rows.ndim - 1))
    return rows * weights + rows[partners] * (1 - weights)


def squared_error_gradient(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the gradient by logits of the mean, over rows and classes, of (softmax - target)²."""
    likely = torch.softmax(logits, dim=1)
    slope = likely * (likely - targets)
    return (slope - likely * slope.sum(dim=1, keepdim=True)) * (2 / max(1, logits.numel()))


def require_method(method: str, architecture: str, shape: tuple[int, ...]) -> None:
    """Raise NotApplicable where the method cannot train this architecture on inputs of ``shape``."""
    if METHODS[method] is not Rotation:
        return
    if len(shape) != 3 or shape[1] != shape[2]:
        raise NotApplicable(f"unlabelled=rotation turns square images, and inputs are {shape}")
    if architecture == "logistic":
        raise NotApplicable("unlabelled=rotation trains shared layers, and logistic has none")


def rows_in_training(method: str, schedule: TrainingSchedule, labelled: int, unlabelled: int) -> int:
    """Return the number of rows that the network evaluates in the steps of a training.

    ``method``: one of :data:`METHODS`, or empty for the plain schedule. ``labelled``, ``unlabelled``: numbers
    of inputs with and without an answer. Rows that only get a label count too, and FixMatch's strong views
    as if every label were confident.
    """
    if not labelled:
        return 0
    passes, rest = divmod(schedule.steps, -(-labelled // schedule.batch_size))
    rows = passes * labelled + min(rest * schedule.batch_size, labelled)
    if not method:
        return rows
    added = METHODS[method]
    return rows + schedule.steps * added.evaluations * min(unlabelled, added.ratio * schedule.batch_size)


@flush_denormals()
def train_on_views(
    network: Network, data: TrainingData, method: str, schedule: TrainingSchedule, seed: int
) -> tuple[Weights, Weights]:
    """Train in place and return the weights after half of the steps and after all.

    ``method``: one of :data:`METHODS`; without unlabelled inputs each is the control. ``seed`` draws the
    batches of answered inputs, as in :func:`bench.models.training.train`, and all views. The network is left
    in evaluation mode. A layer's outputs that only the training needs are not in the weights.
    """
    chosen = METHODS[method] if len(data.unlabelled) else Method
    classes, where = data.y.shape[1], device()
    if chosen.outputs:
        _add_outputs(network, chosen.outputs, seed)
    network.to(where).train()
    trainer = chosen(data, schedule, seed)
    optimizer = Optimizer(network, schedule)
    modal = has_modes(network)

    def guess(x: Tensor) -> Tensor:
        # Walking all modules takes longer than a small network's step, and only few networks have modes.
        if modal:
            network.eval()
        logits = optimizer.logits(x)
        if modal:
            network.train()
        return logits

    half = _weights(network, classes)
    for step, rows in enumerate(batches(len(data.x), schedule.batch_size, schedule.steps, seed), 1):
        inputs, gradient = trainer.batch(rows, step, guess)
        optimizer.step_by(inputs, gradient, learning_rate_at(schedule, step))
        if step == schedule.steps // 2:
            half = _weights(network, classes)
    network.to("cpu").eval()
    return half, _weights(network, classes)


def _add_outputs(network: Network, outputs: int, seed: int) -> None:
    """Give the last layer further outputs; those that it has stay as they are."""
    last = network.blocks[-1]
    if not isinstance(last, nn.Linear):
        raise TypeError(f"the last block is {type(last).__name__}, not a linear layer")
    bound = last.in_features**-0.5  # of torch's own initialisation
    rng = np.random.default_rng(derive(seed, "second head"))
    drawn = rng.uniform(-bound, bound, (outputs, last.in_features + 1)).astype(np.float32)
    wider = skip_init(nn.Linear, last.in_features, last.out_features + outputs)  # draws nothing
    with torch.no_grad():
        wider.weight.copy_(torch.cat([last.weight, torch.from_numpy(drawn[:, :-1].copy())]))
        wider.bias.copy_(torch.cat([last.bias, torch.from_numpy(drawn[:, -1].copy())]))
    network.blocks[-1] = wider


def _weights(network: Network, classes: int) -> Weights:
    """Return a snapshot without outputs of the last layer that are not classes."""
    last = f"blocks.{len(network.blocks) - 1}."
    return {
        name: value[:classes].clone() if name in {f"{last}weight", f"{last}bias"} else value
        for name, value in snapshot(network).items()
    }
