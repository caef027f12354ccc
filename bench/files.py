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

from bench.errors import UsageError, one_line, shown


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


def user_path(name: str | Path) -> Path:
    """Return a path that a user typed, with ``~`` expanded; raises UsageError if it can be no path here."""
    try:
        path = Path(name).expanduser()
        path.exists()
        os.fsencode(path)
    except (OSError, ValueError, RuntimeError) as error:
        raise UsageError(f"{shown(str(name))} cannot be a path on this machine: {one_line(error)}") from error
    return path


def user_file(name: str | Path, what: str) -> Path:
    """Return the path of a user's file; raises UsageError, "no ``what`` NAME", where there is none."""
    path = user_path(name)
    if not path.is_file():
        spelled = str(name) if str(name).isprintable() else shown(str(name))
        raise UsageError(f"no {what} {spelled}" + (", which is a folder" if path.is_dir() else ""))
    return path


def user_text(path: Path, most: int) -> str:
    """Return the text of a file that a user named, without a byte-order mark.

    Raises UsageError for a file that cannot be read, has more than ``most`` bytes, or is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {one_line(error)}") from error
    if len(content) > most:
        raise UsageError(f"{path}: has more than {most:,} bytes, the largest size that is read")
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UsageError(f"{path}: line {line} is not UTF-8; save the file as UTF-8") from error
