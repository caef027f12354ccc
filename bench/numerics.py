"""Rules under which torch gives the same bits twice: one thread, seeds, no denormals, padded chunks.

The harness and plugins that train networks of their own keep to them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import ContextDecorator, contextmanager
from contextvars import ContextVar
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

CHUNK = 256
"""Rows a model is evaluated on at once; shorter chunks are padded, so that shapes never differ."""


@cache
def _controller() -> ThreadpoolController:
    # A controller sees the libraries that are loaded when it is made; making one costs 2 ms a cell.
    importlib.import_module("sklearn.cluster")
    importlib.import_module("scipy.linalg")
    return ThreadpoolController()


@contextmanager
def single_thread() -> Iterator[None]:
    """Hold torch, BLAS and OpenMP to one thread inside the block, and restore them after."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with _controller().limit(limits=1):
            yield
    finally:
        torch.set_num_threads(before)


_flushing: ContextVar[int] = ContextVar("flushing", default=0)


class flush_denormals(ContextDecorator):  # noqa: N801  # used as a function, like the others here
    """Flush denormal numbers (below 1e-38) to zero inside the block.

    When a network fits its training set, the squared gradients in Adam's state get that small, as do unused
    weights that decay. Arithmetic with denormals is many times slower. (This is a class because entering one
    is much faster than entering a generator, and some blocks are as short as a query.)
    """

    def __enter__(self) -> None:
        _flushing.set(_flushing.get() + 1)
        torch.set_flush_denormal(True)

    def __exit__(self, *_: object) -> None:
        depth = _flushing.get() - 1
        _flushing.set(depth)
        torch.set_flush_denormal(depth > 0)


@contextmanager
def torch_seed(seed: int) -> Iterator[None]:
    """Seed torch's global generator inside the block and restore it after: layers initialise from it."""
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would seed every accelerator too, and walk the stack for each that is not there.
        torch.default_generator.manual_seed(seed)
        yield


def in_chunks(
    evaluate: Callable[[NDArray[np.float32]], tuple[NDArray[np.float32], ...]],
    x: NDArray[np.float32],
    filler: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.float32], ...]:
    """Evaluate ``x`` (n, …) in chunks of 256 rows, the last padded, and join the outputs.

    ``evaluate`` returns a tuple of (256, …) arrays; so does this, with n rows. ``filler``: an input to pad
    with, zeros if None.
    """
    parts: list[tuple[NDArray[np.float32], ...]] = []
    for start in range(0, max(len(x), 1), CHUNK):
        rows = x[start : start + CHUNK]
        if len(rows) < CHUNK:
            padded = np.zeros((CHUNK, *x.shape[1:]), dtype=np.float32)
            padded[: len(rows)] = rows
            if filler is not None:
                padded[len(rows) :] = filler
        else:
            padded = np.ascontiguousarray(rows, dtype=np.float32)
        parts.append(tuple(output[: len(rows)] for output in evaluate(padded)))
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))
