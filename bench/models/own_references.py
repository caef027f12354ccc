"""Where the user's own victims of a run are described, and which files they come from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Self

from bench.errors import UsageError, nearest
from bench.files import user_path
from bench.models import user_victims
from bench.models.victim_options import VictimOptions
from bench.tasks import OWN, VictimSpec


@dataclass(frozen=True)
class OwnVictims:
    """The user's own victims of a run: ``described`` by a matrix, with paths relative to ``folder``."""

    folder: Path = Path()
    described: Mapping[str, VictimOptions] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def of(cls, folder: Path, described: tuple[tuple[str, str], ...]) -> Self:
        """Return them from their descriptions as JSON, by name."""
        return cls(folder, {name: VictimOptions.model_validate_json(text) for name, text in described})

    def options(self, spec: VictimSpec) -> VictimOptions:
        """Return the description of ``own:NAME``; raises UsageError where there is none."""
        name = spec.data.removeprefix(OWN)
        if name not in self.described:
            known = nearest(name, self.described) if self.described else "the matrix describes none"
            raise UsageError(f"no victim {name!r} is described by [victims.{name}]; {known}")
        return self.described[name]

    def _reference(self, spec: VictimSpec) -> str:
        """Return ``file.py:NAME`` or ``package.module:NAME`` of the code; "" where a file holds the model."""
        if not spec.data.startswith(OWN):
            return spec.data
        model = self.options(spec).model
        return model if ":" in model and Path(model).suffix not in (".skops", ".onnx", ".pt2") else ""

    def module(self, spec: VictimSpec) -> str:
        """Return the name of the module of a victim's code, which is loaded; "" where it has none."""
        reference = self._reference(spec)
        return user_victims.module_of(reference, self.folder) if reference else ""

    def python_file(self, spec: VictimSpec) -> Path | None:
        """Return the Python file that a victim names, or None."""
        name = self._reference(spec).rpartition(":")[0]
        return self.folder / user_path(name) if name.endswith(".py") else None

    def files(self, spec: VictimSpec) -> list[Path]:
        """Return the files, and folders, of a described victim, that are there, besides Python files."""
        if not spec.data.startswith(OWN):
            return []
        options = self.options(spec)
        files = (options.train, options.pool, options.public, options.columns, options.label)
        named = [name for name in (options.model, options.data, *files) if name and ":" not in name]
        paths = [self.folder / user_path(name) for name in named]
        return [path for path in paths if path.exists()]


def stamp(path: Path) -> str:
    """Return a digest of the content of a file, or of all files in a folder; "" where one cannot be read."""
    files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
    whole = hashlib.sha256()
    try:
        for each in files:
            with each.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").digest()
            whole.update(str(each.relative_to(path)).encode("utf-8", "surrogateescape") + digest)
    except OSError:
        return ""
    return whole.hexdigest()
