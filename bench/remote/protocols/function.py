"""A Python function as target: for services whose own library signs or streams requests."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bench.errors import UsageError, one_line, place_of, user_code
from bench.files import user_file
from bench.remote import answers
from bench.remote.exchange import AttemptError, Inputs, Reply
from bench.remote.protocols.base import shaped, unreadable
from bench.remote.secrets import hidden, likely_secrets
from bench.remote.target import Target


class FunctionExchange:
    """Calls a function with the rows of a request: an array (n, …), or n lists of a table's values.

    The function returns n rows of numbers, or n labels, as the target file says; an array or lists. It may
    raise :class:`AttemptError` to say what was billed; ConnectionError and TimeoutError count as broken
    connections; anything else stops the purchase. It is called from several threads at a time, see
    ``connections``.
    """

    def __init__(
        self,
        target: Target,
        folder: Path,
        *,
        permission: str,
        environ: Mapping[str, str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Import the function; raises UsageError if there is none. ``folder``: where its file is."""
        self._target, self._clock = target, clock
        self._function = _imported(target.url, folder)
        self._secrets = likely_secrets(environ)
        self.permission = permission

    def attempt(self, inputs: Inputs, *, account: str, idempotency: str) -> Reply:
        """Call the function once, see :class:`bench.remote.exchange.Exchange`."""
        outcome = self._outcome(shaped(inputs, self._target))
        if isinstance(outcome, AttemptError):
            raise outcome
        return outcome

    def _outcome(self, inputs: Inputs) -> Reply | AttemptError:
        try:
            started = self._clock()
            values = _plain(self._function(inputs.rows))
            seconds = self._clock() - started
            table, digits = answers.table(values, len(inputs), self._target)
            return Reply(table, "", digits, seconds)
        except AttemptError as error:
            found = error
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except (ConnectionError, TimeoutError) as error:
            fault = type(error).__name__
            found = AttemptError(
                f"the function {self._target.url} raises {fault}", billed="unknown", action="retry"
            )
        except BaseException as error:  # noqa: BLE001  # it may also end the program
            words = f"the function {self._target.url}{place_of(error)}: {one_line(error)}"
            found = AttemptError(words, billed="unknown", action="stop")
        message = hidden(str(found), self._secrets)
        return AttemptError(message, billed=found.billed, action=found.action, wait=found.wait)

    def metadata(self) -> dict[str, Any]:
        """Return nothing: a function says nothing of itself."""
        return {}

    def close(self) -> None:
        """Do nothing: the function owns its connections."""


def _plain(values: Any) -> list[Any]:
    if isinstance(values, np.ndarray):
        values = values.tolist()
    if not isinstance(values, list | tuple):
        raise unreadable(
            f"the function returns {type(values).__name__}; it has to return a list or an array of answers"
        )
    return [_plain_row(row) for row in values]


def _plain_row(row: Any) -> Any:
    if isinstance(row, np.ndarray | np.generic):
        return row.tolist()
    return [_plain_row(value) for value in row] if isinstance(row, list | tuple) else row


def _imported(url: str, folder: Path) -> Callable[[Any], Any]:
    place, _, name = url.rpartition(":")
    if place.endswith(".py"):
        file = user_file((folder / Path(place).expanduser()).resolve(), "Python file")
        spec = importlib.util.spec_from_file_location(f"moatbench_target_{file.stem}", file)
        if spec is None or spec.loader is None:
            raise UsageError(f"url {url}: {file} is not a Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[module.__name__] = module
        with user_code(f"url {url}", file):
            spec.loader.exec_module(module)
    else:
        if str(folder.resolve()) not in sys.path:
            sys.path.append(str(folder.resolve()))
        with user_code(f"url {url}"):
            module = importlib.import_module(place)
    function = getattr(module, name, None)
    if not callable(function):
        raise UsageError(f"url {url}: there is no function {name} in {place}")
    checked: Callable[[Any], Any] = function
    return checked
