"""Checks of the files and folders that a command is to write, before any work starts."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from bench.errors import UsageError


def check_outputs(
    *,
    files: Mapping[str, Path | None] | None = None,
    folders: Mapping[str, Path | None] | None = None,
    inputs: Mapping[str, Path] | None = None,
) -> None:
    """Make the folders that are missing, and try to write in each; None stands for no output.

    The names are those of the options, for messages. Raises UsageError for a file where a folder is needed
    and the other way round, for a place that cannot be written, and if an output would replace another or
    one of ``inputs``.
    """
    wanted = {option: path for option, path in (files or {}).items() if path is not None}
    try:
        taken = {_resolved(option, path): option for option, path in (inputs or {}).items()}
        for option, path in wanted.items():
            other = taken.setdefault(_resolved(option, path), option)
            if other != option and _is_replaced(path):
                raise UsageError(f"{option} {path} is also {other}; name another file")
        for option, folder in (folders or {}).items():
            if folder is not None:
                _check_folder(option, folder, folder)
        for option, path in wanted.items():
            _check_file(option, path)
    except ValueError as error:  # a path with a NUL
        raise UsageError(f"a path that is to be written is none: {error}") from error


def _resolved(option: str, path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:
        raise UsageError(f"{option} {path}: {getattr(error, 'strerror', None) or error}") from error


def _is_replaced(path: Path) -> bool:
    """Return whether writing replaces the file; a device such as /dev/stdout is written to as it is."""
    return path.is_file() or not path.exists()


def _check_folder(option: str, path: Path, folder: Path) -> None:
    """Make ``folder``, which ``option`` with the value ``path`` needs, and write a file in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".moatbench-{secrets.token_hex(8)}"
        try:
            with probe.open("xb") as probed:
                probed.write(b"\0")
        finally:
            probe.unlink(missing_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        file = next(parent for parent in (folder, *folder.parents) if parent.exists())
        raise UsageError(f"{option} {path}: {file} is a file, not a folder; name another place") from error
    except OSError as error:
        raise UsageError(
            f"{option} {path}: cannot write in {folder} ({error.strerror or error}); name another place"
        ) from error


def _check_file(option: str, path: Path) -> None:
    try:
        if path.is_dir():
            raise UsageError(f"{option} {path} is a folder; name a file")
        if path.exists() and not path.is_file():
            # A device or a pipe: opening a pipe would wait for its reader.
            if not os.access(path, os.W_OK):
                raise UsageError(f"{option} {path} cannot be written; name another file")
            return
    except OSError as error:
        raise UsageError(f"{option} {path}: {error.strerror or error}; name another file") from error
    _check_folder(option, path, path.parent)
