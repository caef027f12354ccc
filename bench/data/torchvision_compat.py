"""Makes ``import torchvision`` work where its compiled part does not fit the installed torch.

The package index serves torchvision built for CUDA. With a CPU-only torch its library cannot be loaded,
and the import fails with ``operator torchvision::nms does not exist``, because torchvision describes two
operators without checking whether they exist. Data sets and models need neither.
"""

import importlib
import importlib.util
import os
import sys
from contextlib import suppress
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, FileFinder
from pathlib import Path
from types import ModuleType

import torch

SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
"""The operators that torchvision describes unconditionally, as its C++ source declares them."""

# torch drops a schema when the Library that defined it is garbage-collected.
_libraries: list[torch.library.Library] = []


def load_torchvision() -> ModuleType:
    """Return the module torchvision, after defining the operators that it lacks (schemas only).

    Calling such an operator still raises NotImplementedError. Raises ImportError where torchvision
    is not installed.
    """
    if "torchvision" not in sys.modules:
        _load_extension()
        define_missing()
    return importlib.import_module("torchvision")


def define_missing() -> list[str]:
    """Define the schemas of the missing operators; return their names."""
    missing = [name for name in SCHEMAS if not hasattr(torch.ops.torchvision, name)]
    if missing:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in missing:
            library.define(SCHEMAS[name])
        _libraries.append(library)
    return missing


def _load_extension() -> None:
    """Load torchvision's compiled operators as torchvision does, to find out which are missing."""
    package = importlib.util.find_spec("torchvision")
    if package is None or package.origin is None:
        return
    folder = str(Path(package.origin).parent)
    found = FileFinder(folder, (ExtensionFileLoader, EXTENSION_SUFFIXES)).find_spec("_C")
    if found is None or found.origin is None:
        return
    if sys.platform == "win32":
        os.add_dll_directory(folder)
    with suppress(OSError):  # built for another torch: the case that this module handles
        torch.ops.load_library(found.origin)
