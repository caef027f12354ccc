"""Secrets of a server: from an environment variable or a file that nobody else can read."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path

from bench.errors import UsageError
from bench.serve import signatures

LEAST = 32
"""Fewest bytes of a secret."""


class Secret:
    """Bytes that no ``repr`` shows."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = value

    def __repr__(self) -> str:
        return "Secret(…)"

    def reveal(self) -> bytes:
        """Return the bytes."""
        return self._value


def read_secret(
    what: str, *, variable: str | None, file: Path | None, environ: Mapping[str, str], least: int = LEAST
) -> Secret:
    """Return the value of the environment variable, if one is named, else the content of the file.

    Blanks and line breaks around it are not part of it. ``what`` it is, in an error. ``least``: fewest bytes.
    Raises UsageError, one sentence that shows no secret: where there is none, it is too short, or users other
    than its owner can read the file.
    """
    if variable is not None:
        source = f"the environment variable {variable}: {what}"
        if variable not in environ:
            raise UsageError(f"the environment variable {variable} is not set; set it to {what}")
        value = environ[variable].strip().encode("utf-8", "surrogateescape")
    elif file is not None:
        source = f"{file}: {what}"
        value = signatures.read_secret(file, what)
    else:
        raise UsageError(f"{what} is needed: name an environment variable or a file that holds it")
    if len(value) < least:
        raise UsageError(f"{source} has {len(value)} bytes; at least {least} are needed")
    return Secret(value)


def new_secret() -> str:
    """Return a secret of 256 random bits, as text."""
    return secrets.token_urlsafe(32)
