"""Inverses of defenses, one file each: a module has the name of the defense and holds one ``Inverse``."""

from __future__ import annotations

import importlib
import pkgutil

from attacks.inverse.base import Inverse
from attacks.inverse.label_only import LabelOnlyInverse


class UnknownDefenseInverse(LabelOnlyInverse):
    """Stands in for a defense without an inverse: of each answer only the label is used."""

    has_forward = False


def _defined_in(name: str) -> type[Inverse]:
    module = importlib.import_module(f"{__name__}.{name}")
    (cls,) = (
        each
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, Inverse) and each.__module__ == module.__name__
    )
    return cls


# Imported here and not on request, so that the digest of an attack's source covers all of them.
INVERSES: dict[str, type[Inverse]] = {
    module.name: _defined_in(module.name)
    for module in pkgutil.iter_modules(__path__)
    if not module.ispkg and module.name != "base"
}
"""Inverses by the name of the defense."""


def inverse_of(defense: str) -> type[Inverse]:
    """Return the inverse of the defense called ``defense``; the label-only fallback where there is none."""
    return INVERSES.get(defense, UnknownDefenseInverse)
