"""The training loop of the networks that defenses train: Adam, a fixed number of steps, any loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from bench.numerics import flush_denormals, single_thread
from bench.seeds import derive
from defenses.base import Images
from defenses.networks.small import SmallNetwork

BATCH = 64
"""Rows of a batch."""
RATE = 1e-3
"""Learning rate of the first step; it falls to zero along a half cosine."""
EPOCHS, FEWEST, MOST = 20, 600, 2_500
"""Passes over the training set, and the fewest and most steps that they may be."""

Loss = Callable[[Tensor, Tensor], Tensor]
"""From logits (batch, classes) and the numbers (batch,) of the training inputs to a loss of one number."""
JointLoss = Callable[[Sequence[Sequence[Tensor]], Sequence[Tensor]], Tensor]
"""From logits by network and set of inputs, each (batch, classes), and row numbers by set to one number."""


def train(
    network: SmallNetwork,
    x: Images,
    loss: Loss,
    *,
    steps: int,
    seed: int,
    batch_size: int = BATCH,
    learning_rate: float = RATE,
) -> SmallNetwork:
    """Train a network in place on inputs (n, …), ``steps`` steps of Adam, and return it.

    ``loss`` gets the logits of a batch and which rows of ``x`` it consists of. ``seed`` draws the batches: a
    new permutation each epoch, whose last batch may be short. One thread, and torch's global generator is
    left unchanged: the same arguments give the same bits.
    """

    def joint(outputs: Sequence[Sequence[Tensor]], rows: Sequence[Tensor]) -> Tensor:
        return loss(outputs[0][0], rows[0])

    train_together(
        [network], [x], joint, steps=steps, seed=seed, batch_size=batch_size, learning_rate=learning_rate
    )
    return network


@flush_denormals()
def train_together(
    networks: Sequence[SmallNetwork],
    sets: Sequence[Images],
    loss: JointLoss,
    *,
    steps: int,
    seed: int,
    batch_size: int = BATCH,
    learning_rate: float = RATE,
) -> None:
    """Train networks of one encoding in place by a loss that sees the logits of all of them.

    ``sets``: sets of inputs (n, …), none empty. Each step takes a batch of each; ``loss`` gets
    ``outputs[network][set]`` and the row numbers ``rows[set]``. Otherwise as :func:`train`.
    """
    inputs = [torch.from_numpy(networks[0].encoded(x)) for x in sets]
    streams = [
        _batches(len(each), batch_size, derive("batches", seed, place)) for place, each in enumerate(inputs)
    ]
    parameters = [each for network in networks for each in network.module.parameters()]
    optimizer = torch.optim.Adam(parameters, fused=True)
    with single_thread(), torch.enable_grad():
        for network in networks:
            network.module.train()
        for step in range(steps):
            rows = [next(stream) for stream in streams]
            batches = [each[numbers] for each, numbers in zip(inputs, rows, strict=True)]
            outputs = [[network.module(batch) for batch in batches] for network in networks]
            optimizer.zero_grad()
            loss(outputs, rows).backward()
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * 0.5 * (1 + math.cos(math.pi * step / steps))
            optimizer.step()
        for network in networks:
            network.module.eval()


def _batches(n: int, size: int, seed: int) -> Iterator[Tensor]:
    """Yield batches of row numbers for ever."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(n, generator=generator).split(size)


def steps_for(rows: int) -> int:
    """Return the number of steps for a training set of ``rows``: 20 epochs, but 600 to 2,500."""
    return min(max(EPOCHS * math.ceil(rows / BATCH), FEWEST), MOST)
