"""Cache of the lists for the terminal: making one imports ART and torch, which takes seconds.

A cached list is used only if the source code is the same. There is no cache if third-party plugins are
installed, since their source code is not hashed.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from pathlib import Path

from bench.files import cache_root, write_atomically

HOME = Path(__file__).parents[2]
PACKAGES = ("attacks", "bench", "defenses")


def table(kind: str) -> str:
    """Return the table of "attacks", "defenses", "victims", "datasets" or "matrices"."""
    if any(importlib.metadata.entry_points(group=f"moatbench.{folder}") for folder in PACKAGES):
        return _made(kind)
    path = cache_root() / "lists" / f"{kind}-{_digest()}.txt"
    if path.is_file() and (kept := path.read_text(encoding="utf-8")):
        return kept
    text = _made(kind)
    try:
        for old in path.parent.glob(f"{kind}-*.txt"):
            old.unlink(missing_ok=True)
        write_atomically(path, text)
    except OSError:
        pass  # without a writable cache folder the list is only slower
    return text


def _made(kind: str) -> str:
    from bench.cli import listing

    return listing.table(kind)


def _digest() -> str:
    found = hashlib.sha256()
    for folder in PACKAGES:
        for path in sorted((HOME / folder).rglob("*")):
            if path.suffix in {".py", ".toml"}:
                found.update(str(path.relative_to(HOME)).encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()[:16]
