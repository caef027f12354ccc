"""How the files of a data set are named, counted, downloaded and read.

Importing this module is cheap: torchvision and scikit-learn take seconds to import, so they are imported
inside the functions that read pixels. File names, sizes and headers need neither.
"""

from __future__ import annotations

import math
import struct
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]
Count = Callable[[Sequence[Path], int, int], int | None]
"""From the files of a split, its known number of images and the bytes of one: how many images are there.

None where the files are not whole."""

UNREADABLE = (RuntimeError, OSError, EOFError, ValueError)
"""What a download and a loader raise where files are missing or damaged."""


class FileLayout(Protocol):
    """The files of a data set."""

    @property
    def fetchable(self) -> bool:
        """Whether the files have to be downloaded; False where they come with a library."""

    def paths(self, split: str, root: Path) -> list[Path]:
        """Return the files of an official split under ``root``, images first."""

    def count(self, split: str, root: Path, size: int, pixels: int) -> int | None:
        """Return how many images are there by headers and file sizes; None where a file is not whole.

        ``size``: how many there should be. ``pixels``: bytes of one image.
        """

    def download(self, split: str, root: Path) -> None:
        """Download the files of a split; raises one of :data:`UNREADABLE`."""

    def read(self, split: str, root: Path) -> tuple[NDArray[Any], Labels]:
        """Return images (n, channels, height, width), uint8 or float32 in [0, 1], and classes (n,).

        Never downloads. Raises one of :data:`UNREADABLE`.
        """


@dataclass(frozen=True)
class SklearnDigits:
    """The digits that come with scikit-learn."""

    fetchable: bool = False

    def paths(self, split: str, root: Path) -> list[Path]:
        """Return no path: the files are part of the library."""
        return []

    def count(self, split: str, root: Path, size: int, pixels: int) -> int:
        """Return ``size``."""
        return size

    def download(self, split: str, root: Path) -> None:
        """Do nothing."""

    def read(self, split: str, root: Path) -> tuple[NDArray[np.float32], Labels]:
        """Return all images in [0, 1] and their classes."""
        from sklearn.datasets import load_digits  # takes a second

        digits = load_digits()
        return (digits.images[:, None] / 16).astype(np.float32), digits.target.astype(np.int64)


@dataclass(frozen=True)
class TorchvisionFiles:
    """Files as torchvision stores them, downloaded and read by its class ``loader``.

    ``files``: the files of each official split under the root, images first. ``images``: how they are
    counted. ``options``: further arguments of the class. ``columns_first``: the files store the columns
    of an image one after another. ``first_class``: the number of the first class in the files.
    """

    loader: str
    files: Mapping[str, tuple[str, ...]] = field(hash=False)
    images: Count
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    columns_first: bool = False
    first_class: int = 0
    fetchable: bool = True

    def paths(self, split: str, root: Path) -> list[Path]:
        """Return the files of an official split under ``root``, images first."""
        return [root / name for name in self.files[split]]

    def count(self, split: str, root: Path, size: int, pixels: int) -> int | None:
        """Return how many images are there by headers and file sizes; None where a file is not whole."""
        paths = self.paths(split, root)
        return self.images(paths, size, pixels) if all(path.is_file() for path in paths) else None

    def download(self, split: str, root: Path) -> None:
        """Download the files; torchvision checks their checksums."""
        self._open(split, root, download=True)

    def read(self, split: str, root: Path) -> tuple[NDArray[Any], Labels]:
        """Return images (n, channels, height, width) of bytes and classes (n,)."""
        found = self._open(split, root, download=False)
        pixels = np.asarray(found.data)
        if self.columns_first:
            pixels = pixels.transpose(0, 2, 1)
        pixels = pixels[:, None] if pixels.ndim == 3 else pixels.transpose(0, 3, 1, 2)
        return pixels, np.asarray(found.targets, dtype=np.int64) - self.first_class

    def _open(self, split: str, root: Path, *, download: bool) -> Any:
        from bench.data.torchvision_compat import load_torchvision  # takes seconds

        cls = getattr(load_torchvision().datasets, self.loader)
        with warnings.catch_warnings():
            # CIFAR-10's pickles hold dtypes as NumPy 1 wrote them; NumPy 2.4 warns, users can do nothing.
            warnings.filterwarnings("ignore", message=r"dtype\(\): align should be passed")
            return cls(str(root), train=split == "train", download=download, **self.options)


def idx_files(
    loader: str,
    stems: tuple[str, str] = ("train", "t10k"),
    options: Mapping[str, Any] | None = None,
    *,
    columns_first: bool = False,
    first_class: int = 0,
) -> TorchvisionFiles:
    """Return the layout of MNIST and its relatives; ``stems``: how the files of train and test begin."""
    files = {
        split: (f"{loader}/raw/{stem}-images-idx3-ubyte", f"{loader}/raw/{stem}-labels-idx1-ubyte")
        for split, stem in zip(("train", "test"), stems, strict=True)
    }
    return TorchvisionFiles(loader, files, count_idx, options or {}, columns_first, first_class)


def count_idx(paths: Sequence[Path], _size: int, _pixels: int) -> int | None:
    """Return the number of images by the headers of an image and a label file; None unless both agree."""
    images, labels = (_idx_items(path) for path in paths)
    return images if images == labels else None


def _idx_items(path: Path) -> int | None:
    """Return the number of items in a file of unsigned bytes in the idx format (the MNIST page's)."""
    with path.open("rb") as file:
        head = file.read(16)
    if len(head) < 8 or head[:3] != b"\0\0\x08" or head[3] not in (1, 3) or len(head) < 4 * (head[3] + 1):
        return None
    shape = struct.unpack_from(f">{head[3]}I", head, 4)
    whole = path.stat().st_size == 4 * (head[3] + 1) + math.prod(shape)
    return int(shape[0]) if whole else None


def count_pickles(paths: Sequence[Path], size: int, pixels: int) -> int | None:
    """Return ``size`` if every file is larger than the pixels of its share of the images."""
    least = size // len(paths) * pixels
    return size if all(path.stat().st_size > least for path in paths) else None


def count_by_bytes(sizes: Mapping[str, int]) -> Count:
    """Return a count for compressed files, which are whole if they have the bytes in ``sizes`` (by name)."""

    def count(paths: Sequence[Path], size: int, _pixels: int) -> int | None:
        return size if all(path.stat().st_size == sizes[path.name] for path in paths) else None

    return count
