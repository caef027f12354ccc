"""How much training it takes to fit a simulated defense, counted, so that it is the same on every machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook


@dataclass
class TrainingWork:
    """``updates``: how many numbers optimizers have changed: parameters, times the steps that change them."""

    updates: int = 0


@contextmanager
def training_work() -> Iterator[TrainingWork]:
    """Count what PyTorch's optimizers do inside the block."""
    work = TrainingWork()

    def count(optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        work.updates += sum(each.numel() for group in optimizer.param_groups for each in group["params"])

    hook = register_optimizer_step_post_hook(count)
    try:
        yield work
    finally:
        hook.remove()
