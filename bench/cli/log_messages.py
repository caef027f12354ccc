"""What a command logs: its own messages as plain lines on standard error, little from the libraries."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

NOISY = ("art", "httpcore2", "httpx2", "matplotlib")


@contextmanager
def log_messages() -> Iterator[None]:
    """Write what is logged to standard error inside the block, of noisy libraries only errors.

    Afterwards handlers and levels are as they were: a command may run in a process that goes on, such as a
    notebook's or a test's.
    """
    root = logging.getLogger()
    loggers = [root, *map(logging.getLogger, NOISY)]
    levels = [logger.level for logger in loggers]
    handlers = list(root.handlers)
    # Does nothing where a caller has handlers of its own.
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for logger in loggers[1:]:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        root.handlers[:] = handlers
