"""What moatbench keeps on the disk beside results, by kind, and how to free it.

Everything here can be made again. A file counts only if it lies where this kind lies, has a name of this
kind, and begins as every checked file of moatbench does; no link is followed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

from bench.errors import UsageError
from bench.files import CACHES, HEAD, cache_root

TRAININGS = "trainings"
KINDS = (*CACHES, TRAININGS)
"""What can be listed and freed: three folders of the cache, and trainings that runs share."""
_NAMES = {
    "victims": re.compile(r".+-[0-9a-f]+\.(?:safetensors|skops)"),
    "images": re.compile(r".+\.images"),
    "lists": re.compile(r"[a-z]+-[0-9a-f]{16}\.txt"),
    TRAININGS: re.compile(r"[0-9a-f]+\.safetensors"),
}
_HOLDS = {
    "victims": "trained victims; trained again when a run needs them",
    "images": "converted images of data sets; converted again",
    "lists": "texts of moatbench list",
    TRAININGS: "trainings of runs that were interrupted, below results/; trained again",
}


@dataclass(frozen=True)
class Kept:
    """The files of one kind: where they lie, how many they are, and their bytes."""

    kind: str
    folder: Path
    files: tuple[Path, ...]
    size: int


def kept(kind: str, results: Path) -> Kept:
    """Return the files of one of :data:`KINDS`; ``results``: the folder of runs, for their trainings."""
    folders = sorted(results.glob("*/*.memo")) if kind == TRAININGS else [cache_root() / kind]
    files = [path for folder in folders for path in _files(kind, folder)]
    sizes = [path.stat().st_size for path in files]
    return Kept(kind, results if kind == TRAININGS else folders[0], tuple(files), sum(sizes))


def listing(results: Path) -> str:
    """Return a table with the size of each kind."""
    found = [kept(kind, results) for kind in KINDS]
    rows = [
        (each.kind, len(each.files), readable(each.size), each.folder, _HOLDS[each.kind]) for each in found
    ]
    return tabulate(rows, headers=["kind", "files", "size", "folder", "what it holds"])


def clear(kinds: list[str], results: Path) -> str:
    """Delete the files of these kinds; return a line for each that says what was freed.

    Raises UsageError for a file that cannot be deleted, after the others are.
    """
    lines, stuck = [], []
    for kind in dict.fromkeys(kinds):
        found, freed, number = kept(kind, results), 0, 0
        for path in found.files:
            try:
                size = path.stat().st_size
                path.unlink()
            except OSError as error:
                stuck.append(f"{path}: {error.strerror or error}")
            else:
                freed, number = freed + size, number + 1
        lines.append(f"{kind}: {readable(freed)} freed, {number} file{'s' * (number != 1)}")
    if stuck:
        raise UsageError(f"{'; '.join(lines)}; {len(stuck)} cannot be deleted, the first {stuck[0]}")
    return "\n".join(lines)


def readable(size: int) -> str:
    """Return a number of bytes as text: ``1.2 MiB``."""
    value = float(size)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def _files(kind: str, folder: Path) -> Iterator[Path]:
    """Yield the files of the kind in a folder that is no link."""
    if folder.is_symlink() or not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if path.is_symlink() or not path.is_file() or not _NAMES[kind].fullmatch(path.name):
            continue
        try:
            with path.open("rb") as file:
                ours = file.read(len(HEAD)) == HEAD
        except OSError:
            continue
        if ours:
            yield path
