"""What an error that ends a command says: one sentence, an exit code, and a report if the error is ours."""

from __future__ import annotations

import errno
import os
import platform
import shlex
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import typer

from bench import __version__
from bench.errors import MoatbenchError, StoppedError
from bench.exit_codes import ExitCode
from bench.files import cache_root, write_atomically

MACHINE = frozenset(
    getattr(errno, name)
    for name in (
        *("EACCES", "EPERM", "EROFS", "ENOSPC", "EDQUOT", "EFBIG", "EIO", "ENAMETOOLONG", "ELOOP"),
        *("ENOTDIR", "EISDIR", "EMFILE", "ENFILE", "ENOMEM", "EAGAIN", "ESTALE", "ENODEV", "ENXIO"),
    )
    if hasattr(errno, name)
)
"""Numbers of errors that the machine or the user's files cause: no permission, a full disk, a folder."""
USAGE_ERROR: type[BaseException] = typer.BadParameter.__mro__[1]
"""The base of typer's own errors about arguments, which it does not export by name."""


class UnfinishedError(Exception):
    """A run stopped after its first cells; what had finished is stored."""


LONGEST = 1_000
"""Characters of a message, about; a value that a user typed may have many more."""


def guarded(command: Callable[[], int]) -> int:
    """Run ``command`` and return its exit code; whatever it raises is told in one sentence.

    Exit code 1 is never returned for an error: in a pipeline it means a regression.
    """
    try:
        return command()
    except typer.Exit as stop:
        return stop.exit_code
    except BaseException as error:  # noqa: BLE001  # the last resort: also SystemExit of code below
        return _told(error)


def _told(error: BaseException) -> ExitCode:
    """Say on standard error what happened; return the exit code."""
    code = ExitCode.USAGE
    if isinstance(error, USAGE_ERROR):
        shown: Any = error
        shown.show()
    elif isinstance(error, MoatbenchError):
        _say(str(error))
    elif isinstance(error, OSError) and is_of_machine(error):
        _say(described(error))
    elif isinstance(error, UnfinishedError | StoppedError):
        code = ExitCode.INCOMPLETE
        _say(str(error))
    elif isinstance(error, KeyboardInterrupt):
        code = ExitCode.INTERRUPTED
        print("\ninterrupted", file=sys.stderr)
    else:
        code = ExitCode.INTERNAL
        _say_internal(error)
    return code


def is_of_machine(error: OSError) -> bool:
    """Return whether the machine or a path of the user is the cause, and not this program."""
    return error.errno in MACHINE or (isinstance(error, FileNotFoundError) and not _has_working_folder())


def described(error: OSError) -> str:
    """Return the error in one sentence: which file, what is wrong."""
    if not _has_working_folder():
        return "the working folder no longer exists; change to another one"
    what = error.strerror or type(error).__name__
    return f"{os.fsdecode(error.filename)}: {what}" if error.filename else f"{what} ({error})"


def _has_working_folder() -> bool:
    try:
        Path.cwd()
    except OSError:
        return False
    return True


def _say(sentence: str) -> None:
    line = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in " ".join(sentence.split()))
    if len(line) > LONGEST:
        line = f"{line[: LONGEST // 2]} … {line[-LONGEST // 2 :]}"
    print(f"moatbench: {line}", file=sys.stderr)


def _say_internal(error: BaseException) -> None:
    """Say that moatbench itself failed, and where the report of it lies."""
    report, what = _report(error), f"{type(error).__name__}: {error}"
    start = f"internal error ({what[:300]}); stored results are kept; please report it with"
    if path := _kept(report):
        _say(f"{start} {path}")
    else:
        _say(f"{start} these lines:")
        print(report, file=sys.stderr)


def _kept(report: str) -> Path | None:
    """Write the report to the cache folder, else to that for temporary files; None if both are read-only."""
    name = f"moatbench-error-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    for folder in (_errors, _temporary):
        with suppress(OSError, ValueError, MoatbenchError):
            path: Path = folder() / name
            write_atomically(path, report)
            return path
    return None


def _errors() -> Path:
    return cache_root() / "errors"


def _temporary() -> Path:
    return Path(tempfile.gettempdir())


def _report(error: BaseException) -> str:
    """Return the report of an error: versions, command and traceback, and nothing of the environment."""
    lines = [
        f"moatbench {__version__}, Python {platform.python_version()}, {platform.platform()}",
        f"packages: {_packages()}",
        f"command: {shlex.join(['moatbench', *sys.argv[1:]])}",
        "",
        "".join(traceback.format_exception(error)),
    ]
    return "\n".join(lines).encode("utf-8", "backslashreplace").decode("utf-8")


def _packages() -> str:
    from bench.cli import provenance

    return ", ".join(f"{name} {version}" for name, version in provenance.installed_versions().items())
