"""Errors that a user can act on. Every message is one sentence that says what to do next."""

from __future__ import annotations

import reprlib
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80


class MoatbenchError(Exception):
    """Base of all errors that the command line prints without a traceback (exit code 2)."""


class UsageError(MoatbenchError):
    """A name, value or file given by the user is wrong."""


class MissingDataError(MoatbenchError):
    """A data set is not on this machine; the message names the command that fetches it."""


class VictimError(MoatbenchError):
    """A victim cannot be loaded, or returns something that is not probabilities."""


class BudgetError(MoatbenchError):
    """An attack tried to send more queries than its budget, or the pool holds fewer."""


class StoppedError(Exception):
    """A purchase stopped before its end, and the same command goes on with it (exit code 3)."""


class StoreError(MoatbenchError):
    """A file is not a store of moatbench, is corrupt, or was written by a newer version."""


class PluginError(Exception):
    """A plugin failed in a cell or broke a promise; the message names it and its file."""


class BrokenClaimError(PluginError):
    """A defense's answers broke one of its claims, the field ``claim`` of :class:`defenses.base.Claims`."""

    def __init__(self, message: str, claim: str = "") -> None:
        super().__init__(message)
        self.claim = claim


class NotApplicable(Exception):  # noqa: N818  # it is not an error
    """A combination cannot be run; the message says why. It is stored and shown, and counts as no failure."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return "did you mean …" for the known names nearest to ``name``, else all known names."""
    names = sorted(known)
    close = get_close_matches(name[:100], names, n=3, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(repr(match) for match in close) + "?"
    return "known: " + ", ".join(names)


def shown(value: object) -> str:
    """Return ``repr(value)`` for a message, shortened in the middle to about 80 characters, in one line."""
    try:
        return _SHORT.repr(value)
    except Exception:  # noqa: BLE001  # a repr of somebody else's class may do anything
        return f"<{type(value).__name__}>"


def one_line(error: BaseException) -> str:
    """Return the type and the message of an error in one line of at most 300 characters."""
    try:
        message = " ".join(str(error.msg if isinstance(error, SyntaxError) else error).split())
    except Exception:  # noqa: BLE001  # so may its str
        message = ""
    name = type(error).__name__
    return f"{name}: {message}"[:300] if message else name


@contextmanager
def user_code(origin: str, file: Path | None = None) -> Iterator[None]:
    """Run the user's code in the block; whatever it raises becomes a UsageError in one sentence.

    That names ``origin``, the line of the last frame in ``file`` (None: in any file outside of bench), and
    the error; ``sys.exit`` counts as one. A MoatbenchError and an interrupt pass unchanged.
    """
    try:
        yield
    except (MoatbenchError, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        ends = f"it ends the program by sys.exit({error.code!r})" if isinstance(error, SystemExit) else ""
        raise UsageError(f"{origin}{place_of(error, file)}: {ends or one_line(error)}") from error


def place_of(error: BaseException, file: Path | None = None) -> str:
    """Return ", line 3" for a line of ``file``, ", FILE, line 3" for one of another file; else ""."""
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        where, line = error.filename, error.lineno
    else:
        frames = [(each.filename, each.lineno or 0) for each in traceback.extract_tb(error.__traceback__)[1:]]
        ours = ("<", str(Path(__file__).parent))
        own = [each for each in frames if (each[0] == str(file) if file else not each[0].startswith(ours))]
        if not own:
            return ""
        where, line = own[-1]
    return f", line {line}" if where == str(file) else f", {where}, line {line}"
