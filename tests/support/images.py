"""Small files that look like a data set's own."""

import dataclasses
import struct
from pathlib import Path

import numpy as np
import pytest

from bench.data.datasets import DATASETS

PARTS = ("train", "calibration", "pool", "test")


def write_idx(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def write_mnist_like(folder: Path, stem: str, images: np.ndarray) -> None:
    write_idx(folder / f"{stem}-images-idx3-ubyte", images)
    write_idx(folder / f"{stem}-labels-idx1-ubyte", np.arange(len(images)) % 10)


def shrink(monkeypatch: pytest.MonkeyPatch, name: str, train: int, test: int) -> None:
    """Make the known sizes of a data set small, so that files made by a test are whole."""
    quarter = train // 4
    small = dataclasses.replace(
        DATASETS[name],
        official=(("train", train), ("test", test)),
        sizes=(quarter, quarter, quarter, test),
        pool=("train", quarter),
    )
    monkeypatch.setitem(DATASETS, name, small)
