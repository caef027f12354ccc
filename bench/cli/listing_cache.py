"""Cache of the lists for the terminal: making one imports ART and torch, which takes seconds.

A cached list is used only if the source code is the same. There is no cache if third-party plugins are
installed, since their source code is not hashed.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import sys
from contextlib import suppress
from pathlib import Path

from bench import keys
from bench.files import cache_root, read_checked, write_checked

HOME = Path(__file__).parents[2]
PACKAGES = ("attacks", "bench", "defenses")
DOCSTRINGS = sys.flags.optimize < 2
"""Whether there are docstrings, which the lists print; python -OO drops them."""


def table(kind: str) -> str:
    """Return the table of "attacks", "defenses", "victims", "datasets" or "matrices"."""
    if any(importlib.metadata.entry_points(group=f"moatbench.{folder}") for folder in PACKAGES):
        return _made(kind)
    path = cache_root() / "lists" / f"{kind}-{_key(kind)}.txt"
    kept = read_checked(path, "making it again")
    if kept is not None:
        return kept.decode("utf-8")
    text = _made(kind)
    with suppress(OSError):
        for old in path.parent.glob(f"{kind}-*.txt"):
            old.unlink(missing_ok=True)
    write_checked(path, text.encode("utf-8"))
    return text


def _made(kind: str) -> str:
    from bench.cli import listing

    return listing.table(kind)


def _key(kind: str) -> str:
    found = hashlib.sha256()
    for folder in PACKAGES:
        for path in sorted((HOME / folder).rglob("*")):
            if path.suffix in {".py", ".toml"}:
                found.update(str(path.relative_to(HOME)).encode() + b"\0" + path.read_bytes() + b"\0")
    ingredients = {
        "kind": kind,
        "files": found.hexdigest(),  # the bytes: docstrings are in the lists
        "docstrings": DOCSTRINGS,
        **keys.versions_of({name: importlib.metadata.version(name) for name in ("pydantic", "tabulate")}),
    }
    return keys.compose("list", ingredients)[:16]
