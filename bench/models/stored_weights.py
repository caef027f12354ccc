"""Weights of trained surrogates in a file of the training cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import safetensors.torch

from bench.files import read_checked, write_checked
from bench.models.training import Weights


def load_weights(path: Path | None, count: int) -> list[tuple[Weights, Weights]] | None:
    """Return ``count`` pairs of weights, after half of the steps and after all; None if not cached."""
    content = None if path is None else read_checked(path, "training again")
    if content is None:
        return None
    tensors = safetensors.torch.load(content)

    def part(prefix: str) -> Weights:
        return {
            name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)
        }

    return [(part(f"{number}.half."), part(f"{number}.full.")) for number in range(count)]


def save_weights(path: Path | None, weights: Sequence[tuple[Weights, Weights]]) -> None:
    """Write what :func:`load_weights` reads; nothing where ``path`` is None."""
    if path is None:
        return
    tensors = {
        f"{number}.{when}.{name}": value
        for number, both in enumerate(weights)
        for when, state in zip(("half", "full"), both, strict=True)
        for name, value in state.items()
    }
    write_checked(path, safetensors.torch.save(tensors))
