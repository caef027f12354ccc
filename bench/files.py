"""The cache folder, and files that no reader sees half written and no reader believes when they are damaged.

Every file that moatbench writes goes through :func:`replacement`. What can be made again is kept in checked
files, which begin with a checksum of the rest.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import platformdirs

from bench.errors import UsageError, one_line, shown

log = logging.getLogger(__name__)

HEAD = b"moatbench checked file 1 "
"""How a checked file begins; a SHA-256 in hexadecimal and a line break follow."""
LINE = len(HEAD) + 65
"""Length of that first line."""
CACHES = ("victims", "images", "lists")
"""Folders in the cache folder, which may hold other things."""
LEFTOVER_SECONDS = 3600
"""Age from which an unfinished file belongs to a process that was killed; writing one takes seconds."""
_UNFINISHED = re.compile(r"\.[0-9a-f]{16}\.part")
_told: set[tuple[Path, str]] = set()


def cache_root() -> Path:
    """Return the folder of cached victims, images and lists: ``MOATBENCH_CACHE``, else the user's cache."""
    if given := os.environ.get("MOATBENCH_CACHE"):
        return expanded("MOATBENCH_CACHE", Path(given))
    return user_cache()


def expanded(option: str, path: Path) -> Path:
    """Return ``path`` with ``~`` replaced; raises UsageError, naming ``option``, where there is no home."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise UsageError(f"{option} {path}: no home folder is known for it; give the whole path") from error


def user_cache(*, appauthor: Literal[False] | None = None) -> Path:
    """Return the user's cache folder; for a user without a home, one among the temporary files."""
    with suppress(RuntimeError):  # how platformdirs says that there is no home; older ones leave the "~"
        path = Path(platformdirs.user_cache_dir("moatbench", appauthor=appauthor))
        if path.is_absolute():
            return path
    return Path(tempfile.gettempdir()) / "moatbench-cache"


@contextmanager
def replacement(path: Path) -> Iterator[Path]:
    """Yield an unused path next to ``path``; the file written there then replaces ``path`` in one step.

    The temporary name is unique, so several processes or threads may write the same ``path`` at once: the
    last one wins. If the block raises, ``path`` keeps its content and the temporary file is removed. A
    process that is killed leaves it behind; see :func:`remove_leftovers`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{secrets.token_hex(8)}.part")
    try:
        yield part
        part.replace(path)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write ``content`` (text as UTF-8) to ``path``, replacing it in one step; see :func:`replacement`.

    The content is on the disk before it gets its name, so that a power loss leaves no empty file. A link
    stays a link, and what is no file, such as a terminal, is written to as it is.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    path = path.resolve()
    if path.exists() and not path.is_file():
        path.write_bytes(data)
        return
    with replacement(path) as part, part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


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


def sealed(content: bytes) -> bytes:
    """Return ``content`` after a line with its checksum."""
    return _first_line(content) + content


def unsealed(content: bytes) -> bytes | None:
    """Return what :func:`sealed` was given; None where a byte was changed, lost or added."""
    body = content[LINE:]
    return body if content[:LINE] == _first_line(body) else None


def _first_line(content: bytes) -> bytes:
    return HEAD + hashlib.sha256(content).hexdigest().encode() + b"\n"


def write_checked(path: Path, content: bytes) -> None:
    """Write a checked file into a cache; a folder that cannot be written to is a warning, once.

    There is no wait for the disk: a file that a power loss damages is found out when it is read.
    """
    try:
        with replacement(path) as part:
            part.write_bytes(sealed(content))
    except OSError as error:
        warn_unwritable(path.parent, error)


def read_checked(path: Path, remedy: str) -> bytes | None:
    """Return the content of a checked file; None where there is none, or where it is damaged.

    A damaged file is a warning, with ``remedy``: what the caller does about it.
    """
    try:
        content = unsealed(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        log.warning("cached file %s cannot be read (%s); %s", path, error.strerror, remedy)
        return None
    if content is None:
        log.warning("cached file %s is damaged; %s", path, remedy)
    return content


def warn_unwritable(folder: Path, error: OSError, consequence: str = "the work goes on without") -> None:
    """Say that nothing is cached in ``folder``, with the ``consequence``; once for each folder and reason."""
    reason = error.strerror or str(error)
    if (folder, reason) not in _told:
        _told.add((folder, reason))
        log.warning("nothing is cached in %s (%s); %s", folder, reason, consequence)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left unfinished in ``folder`` and below, an hour ago or earlier."""
    oldest = time.time() - LEFTOVER_SECONDS
    unfinished: list[Path] = []
    with suppress(OSError):
        unfinished = list(folder.rglob("*.part"))
    for path in unfinished:
        with suppress(OSError):
            if _UNFINISHED.fullmatch(path.name[-22:]) and path.stat().st_mtime < oldest:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
