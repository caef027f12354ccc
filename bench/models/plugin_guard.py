"""Calls plugins so that they spoil nothing that others use, and names the one that fails.

A plugin runs in the process of the harness. Settings that belong to the whole process (random generators,
torch's flags, environment variables, …) are put back after each call. Whatever a plugin raises becomes an
error that names the plugin, its file and the method; so does ``sys.exit`` in it, which would end the run.
"""

from __future__ import annotations

import decimal
import gc
import importlib
import inspect
import locale
import logging
import os
import random
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import numpy as np
import torch

from attacks.base import Attack
from bench.errors import NotApplicable, PluginError, UsageError, VictimError, place_of
from bench.plugins import Registry
from defenses.base import Defense

log = logging.getLogger(__name__)

_mtrand: Any = np.random  # NumPy does not declare the functions that replace its generator
_getsignal: Any = importlib.import_module(
    "_signal"
).getsignal  # signal's own makes an enum, which takes longer
TINY = 5e-324
"""The smallest positive number, which is denormal: its product with 1 is 0 where denormals are flushed."""
LOGGERS = (logging.root, *map(logging.getLogger, ("bench", "attacks", "defenses", "art")))
SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Setting:
    """A setting of the whole process: its name in messages, how to read it, and how to restore what was read.

    ``imports``: importing a library may change it.
    """

    name: str
    read: Callable[[], Any]
    restore: Callable[[Any], object]
    imports: bool = False


def _restore_environment(before: dict[Any, Any]) -> None:
    # Through the mapping's own methods, so that the C library's environment changes, too.
    wanted = {os.fsdecode(name): os.fsdecode(value) for name, value in before.items()}
    for name in set(os.environ) - set(wanted):
        del os.environ[name]
    os.environ.update(wanted)


def _restore_filters(before: tuple[list[Any], list[Any], Any]) -> None:
    filters, content, show = before
    filters[:] = content
    warnings.filters = filters
    warnings.showwarning = show
    with warnings.catch_warnings():
        pass  # makes Python forget what it decided by the changed filters


def _read_loggers() -> list[Any]:
    return [logging.root.manager.disable, [(each.level, each.disabled, [*each.handlers]) for each in LOGGERS]]


def _restore_loggers(before: list[Any]) -> None:
    logging.disable(before[0])
    for logger, (level, disabled, handlers) in zip(LOGGERS, before[1], strict=True):
        logger.setLevel(level)
        logger.disabled = disabled
        logger.handlers[:] = handlers


def _restore_signals(before: list[Any]) -> None:
    if threading.current_thread() is threading.main_thread():
        for number, handler in zip(SIGNALS, before, strict=True):
            if handler is not None:  # None: it was not set from Python
                signal.signal(number, handler)


def _working_folder() -> str:
    try:
        return os.getcwd()  # noqa: PTH109  # a Path costs ten times as much
    except FileNotFoundError:
        return ""


def _restore_decimal(before: decimal.Context) -> None:
    decimal.setcontext(before)


def _read_decimal() -> Any:
    context = decimal.getcontext()
    return (context.prec, context.rounding, context.Emin, context.Emax, context.capitals, context.clamp)


def _set_decimal(before: Any) -> None:
    context = decimal.getcontext()
    context.prec, context.rounding, context.Emin, context.Emax, context.capitals, context.clamp = before


def _set_deterministic(before: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def _read_cudnn() -> tuple[bool, bool]:
    return torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic


def _set_cudnn(before: tuple[bool, bool]) -> None:
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = before


def _set_streams(before: tuple[Any, Any]) -> None:
    sys.stdout, sys.stderr = before


def _default_device() -> str:
    return str(torch.empty(0).device)


HOOKS = tuple(
    hooks
    # torch.optim has no attribute of that name
    for module in (torch.nn.modules.module, importlib.import_module("torch.optim.optimizer"))
    for name, hooks in sorted(vars(module).items())
    if name.startswith("_global_") and isinstance(hooks, dict)
)
"""Where torch keeps the hooks of all modules and all optimisers."""


def _read_hooks() -> list[dict[Any, Any]]:
    return [dict(hooks) if hooks else {} for hooks in HOOKS]


def _restore_hooks(before: list[dict[Any, Any]]) -> None:
    for hooks, content in zip(HOOKS, before, strict=True):
        hooks.clear()
        hooks.update(content)


def _read_autocast() -> tuple[bool, bool]:
    return torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")


def _set_autocast(before: tuple[bool, bool]) -> None:
    for device, enabled in zip(("cpu", "cuda"), before, strict=True):
        torch.set_autocast_enabled(device, enabled)


FAST = (
    Setting("torch's gradient mode", torch.is_grad_enabled, torch.set_grad_enabled),
    Setting("torch's default dtype", torch.get_default_dtype, torch.set_default_dtype),
    Setting("torch's number of threads", torch.get_num_threads, torch.set_num_threads),
    Setting("flushing of denormal numbers", lambda: TINY * 1.0 == 0, torch.set_flush_denormal),
    Setting("torch's automatic mixed precision", _read_autocast, _set_autocast),
    Setting("the hooks of all modules or optimisers of torch", _read_hooks, _restore_hooks),
    Setting("NumPy's handling of errors", np.geterr, lambda before: np.seterr(**before)),
)
"""Settings that change the arithmetic of whatever runs next; read around every call."""
TORCH = (
    Setting(
        "torch's default device",
        _default_device,
        lambda before: torch.set_default_device(None if before == "cpu" else before),
    ),
    Setting(
        "torch's deterministic mode",
        lambda: (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        _set_deterministic,
    ),
    Setting(
        "torch's precision of products",
        torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
    ),
    Setting("torch's detection of anomalies", torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    Setting("cuDNN's flags", _read_cudnn, _set_cudnn),
)
"""Further settings of torch; read around calls that take long, and around imports."""
SLOW = (
    *TORCH,
    Setting(
        "environment variables", lambda: dict(vars(os.environ)["_data"]), _restore_environment, imports=True
    ),
    Setting("the working folder", _working_folder, lambda before: os.chdir(before) if before else None),
    Setting(
        "filters of warnings",
        lambda: (warnings.filters, [*warnings.filters], warnings.showwarning),
        _restore_filters,
        imports=True,
    ),
    Setting("levels or handlers of loggers", _read_loggers, _restore_loggers, imports=True),
    Setting("handlers of signals", lambda: [_getsignal(number) for number in SIGNALS], _restore_signals),
    Setting(
        "Python's import path", lambda: [*sys.path], lambda before: sys.path.__setitem__(slice(None), before)
    ),
    Setting("the output streams", lambda: (sys.stdout, sys.stderr), _set_streams),
    Setting(
        "the locale", lambda: locale.setlocale(locale.LC_ALL), lambda b: locale.setlocale(locale.LC_ALL, b)
    ),
    Setting("the decimal context", _read_decimal, _set_decimal),
    Setting("the recursion limit", sys.getrecursionlimit, sys.setrecursionlimit),
    Setting("the garbage collector", gc.isenabled, lambda before: gc.enable() if before else gc.disable()),
    Setting("the time limit of sockets", socket.getdefaulttimeout, socket.setdefaulttimeout),
    Setting(
        "an alarm",
        lambda: hasattr(signal, "getitimer") and signal.getitimer(signal.ITIMER_REAL)[0] > 0,
        lambda before: None if before else signal.setitimer(signal.ITIMER_REAL, 0),
    ),
)
"""Settings that matter to the rest of the process; read around calls that take long."""

_notes: ContextVar[list[str] | None] = ContextVar("notes", default=None)


@contextmanager
def collected_notes() -> Iterator[list[str]]:
    """Collect, inside the block, one sentence for each setting that a plugin changed, into the list."""
    found: list[str] = []
    token = _notes.set(found)
    try:
        yield found
    finally:
        _notes.reset(token)


def _note(text: str) -> None:
    notes = _notes.get()
    if notes is None:
        log.warning("%s", text)
    elif text not in notes:
        notes.append(text)


class _Signals:
    """Which signal has come while :func:`watched_signals` was in force."""

    watched = False
    came = False


@contextmanager
def watched_signals() -> Iterator[None]:
    """Tell a signal from a plugin that raises KeyboardInterrupt or SystemExit itself, inside the block.

    The handlers in force are still called. Outside the main thread no signal arrives, and nothing changes.
    """
    if threading.current_thread() is not threading.main_thread() or _Signals.watched:
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def watch(handler: Any) -> Callable[[int, FrameType | None], None]:
        def came(number: int, frame: FrameType | None) -> None:
            _Signals.came = True
            handler(number, frame)

        return came

    _Signals.watched, _Signals.came = True, False
    for number, handler in before.items():
        if callable(handler):
            signal.signal(number, watch(handler))
    try:
        yield
    finally:
        _Signals.watched = False
        for number, handler in before.items():
            if callable(handler):
                signal.signal(number, handler)


def is_signal(error: BaseException) -> bool:
    """Return whether ``error`` was raised for a signal such as Ctrl-C, and not by a plugin itself."""
    if isinstance(error, Exception):
        return False
    if threading.current_thread() is not threading.main_thread():
        return False
    return _Signals.came if _Signals.watched else isinstance(error, KeyboardInterrupt)


def describe(plugin: object) -> str:
    """Return how messages name a plugin: kind, name and file."""
    family: type[Any] = type(plugin)
    kind = "plugin"
    if isinstance(plugin, Attack):
        kind = "attack"
    elif isinstance(plugin, Defense):
        kind, family = "defense", plugin.plugin_class
    module = family.__module__
    try:
        file = Path(inspect.getfile(family)).name
    except (OSError, TypeError):
        file = module
    if "." in module:
        file = module.replace(".", "/") + ".py"
    return f"{kind} {getattr(plugin, 'name', family.__name__)!r} ({file})"


PASSED = (NotApplicable, PluginError, VictimError)
"""Errors that pass unchanged: a reason, and those that name the one who failed already."""


def _put_back(who: str, hook: str, settings: Sequence[Setting], read: Sequence[Any], modules: int) -> None:
    """Put back the settings that are not as ``read``, with a note; ``modules``: how many there were."""
    for setting, before in zip(settings, read, strict=True):
        if setting.read() != before:
            outcome = "it was undone"
            try:
                setting.restore(before)
            except (OSError, ValueError) as problem:
                outcome = f"it cannot be undone ({problem})"
            # A library that is imported for the first time may change these, and nobody is to blame.
            if not setting.imports or len(sys.modules) == modules:
                _note(f"{who} changed {setting.name} in {hook}; {outcome}")


@contextmanager
def kept_settings(who: str, hook: str) -> Iterator[None]:
    """Put back, after the block, the settings that were changed inside it and not put back at once."""
    settings = (*FAST, *SLOW)
    read, modules = [setting.read() for setting in settings], len(sys.modules)
    try:
        yield
    finally:
        _put_back(who, hook, settings, read, modules)


@contextmanager
def guarded_import(who: str) -> Iterator[None]:
    """Import the code of ``who`` inside the block: settings of arithmetic and random generators are put back.

    Other settings stay as the import leaves them: a plugin may need an environment variable or a folder on
    Python's import path later.
    """
    settings = (*FAST, *TORCH)
    read, modules = [setting.read() for setting in settings], len(sys.modules)
    numpy_state, python_state, torch_state = np.random.get_state(), random.getstate(), torch.get_rng_state()
    try:
        yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)
        torch.default_generator.set_state(torch_state)
        _put_back(who, "its import", settings, read, modules)


class PluginCall:
    """The block is a call of the method ``hook`` of ``who``: a plugin, by :func:`describe`, or a victim.

    NumPy's global generator is replaced by ``bits`` inside the block, Python's and torch's are put back,
    and so are the process' settings. ``full``: all of these; else neither Python's generator nor the settings
    that have no effect on arithmetic, in a tenth of the time. Raises ``error`` for whatever is raised inside,
    except for reasons and errors that name who failed already. (A class, since entering one is much faster
    than entering a generator, and some blocks are as short as a query.)

    ``drew``: whether the full guard found that Python's generator was used.
    """

    __slots__ = (
        "_bits",
        "_error",
        "_hook",
        "_modules",
        "_outer",
        "_python",
        "_read",
        "_settings",
        "_threads",
        "_torch",
        "_who",
        "drew",
    )

    def __init__(
        self,
        who: str,
        hook: str,
        bits: np.random.BitGenerator,
        *,
        full: bool = True,
        error: type[Exception] = PluginError,
    ) -> None:
        self._who, self._hook, self._bits, self._error = who, hook, bits, error
        self._settings = (*FAST, *SLOW) if full else FAST
        self._python: Any = None
        self.drew = False

    def __enter__(self) -> Self:
        self._outer = _mtrand.get_bit_generator()
        _mtrand.set_bit_generator(self._bits)
        self._torch = torch.default_generator.get_state()
        if self._settings is not FAST:
            self._python = random.getstate()
            self._threads = set(threading.enumerate())
        self._modules = len(sys.modules)
        self._read = [setting.read() for setting in self._settings]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _mtrand.set_bit_generator(self._outer)
        torch.default_generator.set_state(self._torch)
        if self._python is not None and random.getstate() != self._python:
            random.setstate(self._python)
            self.drew = True
        self._restore()
        if error is None or isinstance(error, PASSED):
            return
        if isinstance(error, Exception):
            raised = " ".join(f"{type(error).__name__}: {error}".split())
            where = place_of(error) if self._error is VictimError else ""
            raise self._error(
                f"{self._who} failed in {self._hook}: {raised}" + (f" ({where[2:]})" if where else "")
            ) from error
        if not is_signal(error):
            raise self._error(
                f"{self._who} tried to end the program in {self._hook}, by {type(error).__name__}({error})"
            ) from error

    def _restore(self) -> None:
        """Put back the settings that changed, and note which."""
        _put_back(self._who, self._hook, self._settings, self._read, self._modules)
        if self._settings is not FAST:
            left = [each.name for each in threading.enumerate() if each not in self._threads]
            if left:
                many, names = "s" * (len(left) > 1), ", ".join(sorted(left))
                _note(f"{self._who} left {len(left)} thread{many} running in {self._hook}: {names}")


_generators: dict[str, np.random.MT19937] = {}


def generator(kind: str, seed: int) -> np.random.BitGenerator:
    """Return what takes the place of NumPy's global generator while a plugin runs, set to ``seed``.

    There is one for each ``kind``, since making one takes longer than many a call.
    """
    if kind not in _generators:
        _generators[kind] = np.random.MT19937(0)
    np.random.RandomState(_generators[kind]).seed(seed % 2**32)
    return _generators[kind]


def build(registry: Registry[Any], text: str) -> Any:
    """Return the plugin that ``text`` describes; raises UsageError as the registry does, else PluginError."""
    usage: UsageError
    with PluginCall(f"{registry.kind} {text}", "__init__", generator("build", 0)):
        try:
            return registry.build(text)
        except UsageError as error:
            usage = error
    raise usage
