"""Victims that users bring: the factory behind ``file.py:factory`` or ``package.module:factory``."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench.data.datasets import Labelled, Splits
from bench.errors import UsageError, shown, user_code
from bench.files import user_path
from bench.inputs import LAYOUTS, InputSpace
from bench.plugins import load_file
from bench.sources import OWN_PACKAGES

PARTS = ("train", "calibration", "pool", "test")
"""The splits of a victim."""
MORE = ("shifted", "public")
"""Inputs that a victim may bring besides."""


def check_reference(reference: str, origin: str = "--victim") -> None:
    """Raise UsageError unless ``reference`` is ``file.py:factory`` or ``package.module:factory``."""
    module, _, name = reference.rpartition(":")
    is_file = module.endswith(".py") and module.isprintable()
    if not name.isidentifier() or not (is_file or all(map(str.isidentifier, module.split(".")))):
        raise UsageError(f"{origin} {shown(reference)}: write FILE.py:FUNCTION or package.module:FUNCTION")


def module_of(reference: str, folder: Path = Path()) -> str:
    """Return the name of the module, which is loaded, of the victim that ``reference`` names."""
    module_name, _, _ = reference.rpartition(":")
    return load_file(folder / module_name).__name__ if module_name.endswith(".py") else module_name


def named_object(reference: str, folder: Path = Path(), origin: str = "--victim") -> Any:
    """Return the object that ``reference``, with a file relative to ``folder``, names.

    Raises UsageError where there is no such file, module or object, and for whatever these raise.
    """
    check_reference(reference, origin)
    module = _module(reference, folder, origin)
    module_name, _, name = reference.rpartition(":")
    if not hasattr(module, name):
        raise UsageError(f"{origin} {reference}: {module_name} has no {name!r}")
    return getattr(module, name)


def call_factory(reference: str, folder: Path = Path()) -> Any:
    """Return what the factory returns that ``reference``, with a file relative to ``folder``, names.

    Raises UsageError where there is no such file, module or function, and for whatever these raise, with
    the file and the line.
    """
    factory = named_object(reference, folder)
    module = _module(reference, folder, "--victim")
    if not callable(factory):
        name = reference.rpartition(":")[2]
        raise UsageError(f"--victim {reference}: {name} is no function but {shown(factory)}")
    with user_code(f"--victim {reference}", Path(module.__file__) if module.__file__ else None):
        return factory()


def _module(reference: str, folder: Path, origin: str) -> Any:
    module_name, _, name = reference.rpartition(":")
    if module_name.endswith(".py"):
        return load_file(folder / user_path(module_name))
    return _import_dotted(module_name, name, folder, origin)


def model_and_splits(returned: Any, reference: str) -> tuple[Any, ...]:
    """Return (model, splits) or (model, splits, features) as a factory returned them.

    Raises UsageError, naming what was expected, for anything else.
    """
    usage = (
        f"--victim {reference}: the factory must return (model, splits), (model, splits, features) or a "
        f"moatbench.Victim, with splits a moatbench.Splits; got {type(returned).__name__}"
    )
    if not isinstance(returned, tuple) or len(returned) not in (2, 3) or not isinstance(returned[1], Splits):
        raise UsageError(usage)
    if not callable(returned[0]) and not hasattr(returned[0], "predict"):
        raise UsageError(usage)
    if len(returned) == 3 and returned[2] is not None and not callable(returned[2]):
        raise UsageError(f"--victim {reference}: features is no function but {shown(returned[2])}")
    return returned


def check_model(model: Any, reference: str) -> None:
    """Raise UsageError, with what to return instead, for a torch Module or a scikit-learn classifier."""
    from sklearn.base import BaseEstimator
    from torch.nn import Module

    instead = ""
    if isinstance(model, Module) and not hasattr(model, "predict"):
        instead = "got a torch Module; return a function from images to probabilities"
    elif isinstance(model, BaseEstimator) and hasattr(model, "predict"):
        instead = "got a scikit-learn classifier; return its predict_proba on flattened images"
    if instead:
        raise UsageError(f"--victim {reference}: {instead}")


def check_splits(splits: Any, reference: str) -> None:
    """Raise UsageError, naming the split and what is allowed, unless they can be a victim's splits."""
    for problem in _problems(splits):
        raise UsageError(f"--victim {reference}: splits{problem} is allowed")


def _problems(splits: Any) -> Iterator[str]:
    """Yield what is wrong, as ".PART is VALUE; what"; each check relies on those before it."""
    if not isinstance(splits, Splits):
        yield f" is {_kind(splits)}; a moatbench.Splits"
    classes = splits.classes
    if isinstance(classes, bool) or not isinstance(classes, int | np.integer) or classes < 2:
        yield f".classes is {shown(classes)}; an integer of 2 or more"
    if splits.space is not None and not isinstance(splits.space, InputSpace):
        yield f".space is {_kind(splits.space)}; a moatbench.InputSpace"
    there = [*PARTS, *(name for name in MORE if getattr(splits, name) is not None)]
    for name in there:
        yield from _problems_of(name, getattr(splits, name), classes)
    inputs = splits.inputs
    for name in there:
        x = getattr(splits, name).x
        if x.shape[1:] != inputs.shape:
            which = "test inputs" if splits.space is None else "space"
            yield f".{name}.x is {_kind(x)}; the shape of the {which}, {inputs.shape},"
        if inputs.unit and not 0 <= x.min() <= x.max() <= 1:  # also where there are NaN
            yield f".{name}.x is from {x.min():g} to {x.max():g}; [0, 1] without NaN"
        if problem := inputs.problem(x):
            yield f".{name}.x {problem}; what splits.space declares"


def _problems_of(name: str, part: Any, classes: int) -> Iterator[str]:
    if not isinstance(part, Labelled):
        yield f".{name} is {_kind(part)}; a moatbench.Labelled"
    x, y = part.x, part.y
    if not isinstance(x, np.ndarray) or x.dtype != np.float32 or x.ndim - 1 not in LAYOUTS or not x.size:
        yield (
            f".{name}.x is {_kind(x)}; a float32 array (n, channels, height, width) of images, (n, steps, "
            "features) of sequences or (n, columns) of a table that is not empty"
        )
    if not isinstance(y, np.ndarray) or y.dtype.kind not in "iu" or y.shape != (len(x),):
        yield f".{name}.y is {_kind(y)}; an integer array ({len(x)},)"
    if not 0 <= y.min() <= y.max() < classes:
        yield f".{name}.y is from {y.min()} to {y.max()}; [0, {classes - 1}]"


def _kind(value: Any) -> str:
    return f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__


def _import_dotted(module_name: str, name: str, folder: Path, origin: str) -> Any:
    """Return the module, which may lie in ``folder``; installed modules come first."""
    top = module_name.partition(".")[0]
    here = Path.cwd() / folder
    # These hide modules of the same name in the working directory.
    if top in OWN_PACKAGES and ((here / top).is_dir() or (here / f"{top}.py").is_file()):
        file = module_name.replace(".", "/") + ".py"
        if not Path(importlib.import_module(top).__file__ or "").resolve().is_relative_to(here.resolve()):
            raise UsageError(
                f"{origin} {module_name}:{name}: module {top!r} is moatbench's own and hides yours; "
                f"name the file: {origin} {file}:{name}"
            )
    if str(here) not in sys.path:
        sys.path.append(str(here))
    with user_code(f"{origin} {module_name}:{name}"):
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
                raise  # something that this module imports is missing
            raise UsageError(
                f"{origin} {module_name}:{name}: no module {error.name!r}; name the file: FILE.py:{name}"
            ) from error
    return module
