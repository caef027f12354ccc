"""Victims that users bring: the factory behind ``file.py:factory`` or ``package.module:factory``."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from bench.data.datasets import Splits
from bench.errors import UsageError
from bench.plugins import load_file

OWN_PACKAGES = {"bench", "attacks", "defenses", "moatbench"}
"""Top-level modules of moatbench, which hide modules of the same name in the working directory."""


def call_factory(reference: str) -> Any:
    """Return what the factory returns that ``reference`` names.

    Raises UsageError where there is no such file, module or function.
    """
    module_name, _, name = reference.rpartition(":")
    if module_name.endswith(".py"):
        module = load_file(Path(module_name))
    else:
        module = _import_dotted(module_name, name)
    if not hasattr(module, name):
        raise UsageError(f"--victim {reference}: {module_name} has no {name!r}")
    return getattr(module, name)()


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
    return returned


def _import_dotted(module_name: str, name: str) -> Any:
    """Return the module, which may lie in the working directory; installed modules come first."""
    top = module_name.partition(".")[0]
    here = Path.cwd()
    if top in OWN_PACKAGES and ((here / top).is_dir() or (here / f"{top}.py").is_file()):
        file = module_name.replace(".", "/") + ".py"
        if not Path(importlib.import_module(top).__file__ or "").resolve().is_relative_to(here.resolve()):
            raise UsageError(
                f"--victim {module_name}:{name}: module {top!r} is moatbench's own and hides yours; "
                f"name the file: --victim {file}:{name}"
            )
    if str(here) not in sys.path:
        sys.path.append(str(here))
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"--victim {module_name}:{name}: no module {error.name!r}; name the file: FILE.py:{name}"
        ) from error
