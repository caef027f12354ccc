"""Errors that a user can act on. Every message is one sentence that says what to do next."""

from collections.abc import Iterable
from difflib import get_close_matches


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


class StoreError(MoatbenchError):
    """A file is not a store of moatbench, is corrupt, or was written by a newer version."""


class NotApplicable(Exception):  # noqa: N818  # it is not an error
    """A combination cannot be run; the message says why. It is stored and shown, and counts as no failure."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return "did you mean …" for the known names nearest to ``name``, else all known names."""
    names = sorted(known)
    close = get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(repr(match) for match in close) + "?"
    return "known: " + ", ".join(names)
