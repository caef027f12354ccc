"""A Python function as target: for services whose own library signs or streams requests."""

from __future__ import annotations

import importlib
import importlib.util
import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from bench.errors import MoatbenchError, UsageError, place_of
from bench.files import user_file
from bench.remote import answers
from bench.remote.exchange import AttemptError, Inputs, Reply
from bench.remote.protocols.base import shaped, unreadable
from bench.remote.secrets import hidden, likely_secrets
from bench.remote.target import Target

T = TypeVar("T")


class FunctionExchange:
    """Calls a function with the rows of a request: an array (n, …), or n lists of a table's values.

    The function returns n rows of numbers, or n labels, as the target file says; an array or lists. It may
    raise :class:`AttemptError` to say what was billed; ConnectionError and TimeoutError count as broken
    connections; anything else stops the purchase, and only its type and its place are shown: what a library
    says of a request may have the key in it. It is called from several threads at a time, see
    ``connections``, and never from the main thread.

    A call that has not returned after ``timeout`` seconds counts as a broken connection. Python cannot end
    it: it goes on in its thread, and what it returns is not used.
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
        self._secrets = likely_secrets(environ)
        self._function, self._file = _imported(target.url, folder, self._secrets)
        self._idle: list[_Caller] = []
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
            values = _plain(self._called(inputs.rows))
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
            place = place_of(error, self._file) or place_of(error)
            words = f"the function {self._target.url}{place}: {type(error).__name__}"
            found = AttemptError(words, billed="unknown", action="stop")
        message = hidden(str(found), self._secrets)
        return AttemptError(message, billed=found.billed, action=found.action, wait=found.wait)

    def _called(self, rows: Any) -> Any:
        """Return what the function returns; raises what it raises, and AttemptError after ``timeout``."""
        try:
            caller = self._idle.pop()
        except IndexError:
            caller = _Caller(self._function)
        seconds = self._target.timeout
        try:
            value, error = caller.call(rows, seconds)
        except queue.Empty:
            caller.close()
            raise AttemptError(
                f"the function {self._target.url} has not returned after timeout = {seconds:g} s",
                billed="unknown",
                action="retry",
            ) from None
        self._idle.append(caller)
        if error is not None:
            raise error
        return value

    def metadata(self) -> dict[str, Any]:
        """Return nothing: a function says nothing of itself."""
        return {}

    def close(self) -> None:
        """End the threads that call nothing; the function owns its connections."""
        while self._idle:
            self._idle.pop().close()


class _Caller:
    """A thread that calls the function, so that whoever waits can give up.

    Threads are used again, as libraries keep a connection for each.
    """

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._calls: queue.SimpleQueue[tuple[Any] | None] = queue.SimpleQueue()
        self._ends: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
        threading.Thread(target=self._work, args=(function,), daemon=True).start()

    def call(self, rows: Any, seconds: float) -> tuple[Any, BaseException | None]:
        """Return what the function returns and raises; raises queue.Empty if that takes longer."""
        self._calls.put((rows,))
        return self._ends.get(timeout=seconds)

    def close(self) -> None:
        """End the thread after its present call."""
        self._calls.put(None)

    def _work(self, function: Callable[[Any], Any]) -> None:
        while (call := self._calls.get()) is not None:
            try:
                self._ends.put((function(*call), None))
            except BaseException as error:  # noqa: BLE001  # raised again by the thread that waits
                self._ends.put((None, error))


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


def _imported(url: str, folder: Path, secrets: Sequence[str]) -> tuple[Callable[[Any], Any], Path | None]:
    """Return the function, and the file of its module; raises UsageError if there is none."""
    place, _, name = url.rpartition(":")
    if place.endswith(".py"):
        file = user_file((folder / Path(place).expanduser()).resolve(), "Python file")
        spec = importlib.util.spec_from_file_location(f"moatbench_target_{file.stem}", file)
        if spec is None or spec.loader is None:
            raise UsageError(f"url {url}: {file} is not a Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[module.__name__] = module
        execute = spec.loader.exec_module
        _ran(lambda: execute(module), url, file, secrets)
    else:
        if str(folder.resolve()) not in sys.path:
            sys.path.append(str(folder.resolve()))
        module = _ran(lambda: importlib.import_module(place), url, None, secrets)
    function = getattr(module, name, None)
    if not callable(function):
        raise UsageError(f"url {url}: there is no function {name} in {place}")
    checked: Callable[[Any], Any] = function
    source = getattr(module, "__file__", None)
    return checked, None if source is None else Path(source)


def _ran(code: Callable[[], T], url: str, file: Path | None, secrets: Sequence[str]) -> T:
    """Return what the user's code returns; raises UsageError with the type and the place of what it raises.

    Not with its message, which may have a key in it, and with no chain that leads to it. The name of a module
    that is missing is said.
    """
    try:
        return code()
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except MoatbenchError as error:
        fault = hidden(str(error), secrets)
    except BaseException as error:  # noqa: BLE001  # it may also end the program
        fault = f"url {url}{place_of(error, file)}: {type(error).__name__}"
        if isinstance(error, ModuleNotFoundError) and error.name is not None:
            fault += hidden(f" {error.name}", secrets)
    raise UsageError(fault)
