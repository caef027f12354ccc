"""The matrices that come with moatbench: TOML files in ``bench/matrices``."""

from __future__ import annotations

from importlib import resources
from typing import Any


def shipped() -> dict[str, Any]:
    """Return the matrices that come with moatbench, by name (``studies/NAME`` for replications)."""
    folder = resources.files("bench") / "matrices"
    found = {}
    for entry in folder.iterdir():
        if entry.name.endswith(".toml"):
            found[entry.name.removesuffix(".toml")] = entry
        elif entry.is_dir():
            for inner in entry.iterdir():
                if inner.name.endswith(".toml"):
                    found[f"{entry.name}/{inner.name.removesuffix('.toml')}"] = inner
    return dict(sorted(found.items()))
