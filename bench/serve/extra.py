"""The libraries of a server, which ``pip install 'moatbench[serve]'`` adds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from bench.errors import UsageError


@contextmanager
def needs_serve() -> Iterator[None]:
    """Import a library of the extra in the block; raises UsageError where it is missing."""
    try:
        yield
    except ImportError as error:
        raise UsageError(f"a server needs {error.name}: pip install 'moatbench[serve]'") from error
