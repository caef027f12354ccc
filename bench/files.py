"""The cache folder, and writing files so that no reader sees half of one."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from bench.errors import UsageError


def cache_root() -> Path:
    """Return the folder of cached victims, images and lists: ``MOATBENCH_CACHE``, else the user's cache."""
    if given := os.environ.get("MOATBENCH_CACHE"):
        return expanded("MOATBENCH_CACHE", Path(given))
    return in_user_cache(platformdirs.user_cache_dir("moatbench"))


def expanded(option: str, path: Path) -> Path:
    """Return ``path`` with ``~`` replaced; raises UsageError, naming ``option``, where there is no home."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise UsageError(f"{option} {path}: no home folder is known for it; give the whole path") from error


def in_user_cache(folder: str) -> Path:
    """Return ``folder``, which platformdirs gave; for a user without a home, one for temporary files."""
    path = Path(folder)
    # Without HOME and without an entry in the list of users, "~" stays as it is: a folder of that name.
    return path if path.is_absolute() else Path(tempfile.gettempdir()) / "moatbench-cache"


@contextmanager
def replacement(path: Path) -> Iterator[Path]:
    """Yield an unused path next to ``path``; the file or folder written there then replaces ``path``.

    The temporary name is unique, so several processes or threads may write the same ``path`` at once: the
    last one wins. If the block raises, ``path`` keeps its content and the temporary file is removed.
    Replacing a file is atomic. An old folder is removed before the new one takes its place; OSError is
    raised if another process put its own there in between.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{secrets.token_hex(8)}.part")
    try:
        yield part
        if part.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        part.replace(path)
    finally:
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            part.unlink(missing_ok=True)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write ``content`` (text as UTF-8) to ``path``, replacing it in one step; see :func:`replacement`."""
    with replacement(path) as part:
        part.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
