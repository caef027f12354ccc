"""Keys of stored and cached values, each made of everything that the value depends on.

The ingredients of each kind of key are declared here, in one place, and named, so that a change of a key can
be explained.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from typing import Any

VERSION = "version of "
"""How the names of ingredients begin that are versions of libraries and of Python."""
SOURCE = "source of "
"""How the names of ingredients begin that are digests of the code of plugins, and of a user's victim."""
DATA = "data set "
"""How the names of ingredients begin that are digests of the files of data sets."""
INGREDIENTS: dict[str, frozenset[str]] = {
    "result": frozenset({"kind", "spec", "victim", "harness", "device"}),
    "victim": frozenset({"spec", "schedule", "data", "code", "numerical rules"}),
    "training": frozenset(
        {"transfer sets", "architecture", "schedule", "scale", "seeds", "device", "code", "numerical rules"}
        | {"method", "unlabelled"}
    ),
    "images": frozenset({"files", "rows", "code"}),
    "list": frozenset({"kind", "files", "docstrings"}),
}
"""What a key is made of, besides versions, sources and data sets: of results, and of cached victims,
trainings, images and lists."""


def compose(kind: str, ingredients: Mapping[str, Any]) -> str:
    """Return the key of ``ingredients``, JSON values by name: a SHA-256.

    Raises ValueError unless they are those that :data:`INGREDIENTS` declares for this ``kind``, with the
    version of Python and any other versions, sources and data sets.
    """
    given = {name for name in ingredients if not name.startswith((VERSION, SOURCE, DATA))}
    if different := sorted(given ^ INGREDIENTS[kind]):
        raise ValueError(f"the key of a {kind} and its declaration differ in {', '.join(different)}")
    if f"{VERSION}Python" not in ingredients:
        raise ValueError(f"the key of a {kind} needs the version of Python")
    return hashlib.sha256(json.dumps([kind, ingredients], sort_keys=True).encode()).hexdigest()


def versions_of(libraries: Mapping[str, str]) -> dict[str, str]:
    """Return the ingredients for libraries with these versions, and for Python."""
    python = ".".join(platform.python_version_tuple()[:2])
    return {f"{VERSION}{name}": version for name, version in {**libraries, "Python": python}.items()}


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Return how the stored ingredients of two results of the same task differ, in words.

    ``before`` is empty for a result that was stored without them.
    """
    if not before:
        return ["made by an older moatbench"]
    found = []
    other_python = before.get(f"{VERSION}Python") != after.get(f"{VERSION}Python")
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name, "none"), after.get(name, "none")
        code = name == "harness" or name.startswith(SOURCE)
        if old == new or (code and other_python):
            continue  # digests of the same code may differ between versions of Python
        if name == "harness":
            found.append("moatbench's own source changed")
        elif code or name == "victim" or name.startswith(DATA):
            found.append(f"the {name} changed")
        else:
            found.append(f"{name.removeprefix(VERSION)} {old} -> {new}")
    return found
