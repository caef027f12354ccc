"""What results depend on to the last bit: the numerical rules, the device and the versions of libraries.

The rules themselves are in :mod:`bench.numerics`, since plugins need them too.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache

import torch

from bench.errors import UsageError
from bench.numerics import CHUNK, flush_denormals, in_chunks, single_thread, torch_seed

__all__ = [
    "CHUNK",
    "LIBRARIES",
    "NUMERICAL_RULES",
    "device",
    "flush_denormals",
    "in_chunks",
    "on_device",
    "resolve_device",
    "single_thread",
    "torch_seed",
    "versions",
]

NUMERICAL_RULES = "one thread; chunks of 256; denormals flushed in training"
"""Part of the keys of trained models: other rules give other bits."""
LIBRARIES = ("adversarial-robustness-toolbox", "torch", "torchvision", "numpy", "scipy", "scikit-learn")
"""Libraries whose versions results depend on."""

_device: ContextVar[str] = ContextVar("device", default="cpu")


def device() -> str:
    """Return the device on which surrogates are trained, as torch names it."""
    return _device.get()


@contextmanager
def on_device(name: str) -> Iterator[None]:
    """Train surrogates on this device inside the block; victims, and all evaluation, stay on the CPU."""
    token = _device.set(name)
    try:
        yield
    finally:
        _device.reset(token)


def resolve_device(name: str) -> str:
    """Return the device that "auto", "cpu" or "cuda" means here; raises UsageError if there is none."""
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise UsageError("--device cuda: torch sees no GPU here; cpu and auto will do")
    return "cuda" if there and name in {"auto", "cuda"} else "cpu"


@cache
def versions() -> dict[str, str]:
    """Return the versions that a result depends on, by package."""
    from bench import __version__

    return {"moatbench": __version__} | {name: importlib.metadata.version(name) for name in LIBRARIES}
