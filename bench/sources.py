"""Digests of code: the modules that a piece of code imports, each as a hash of its syntax tree.

Docstrings, comments and layout do not count, so that a corrected typo changes no digest. Imports are followed
statically, those inside functions included and those for type checkers alone excluded; nothing is imported
for it. Followed are moatbench's own packages, and a user's modules that are not installed as a library.
A digest may differ between versions of Python, whose syntax trees differ.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import pkgutil
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from typing import Any, NamedTuple

PLUGIN_PACKAGES = ("attacks", "defenses")
"""Packages whose sub-packages count with all their modules where they are imported: they look for modules by
name."""
OWN_PACKAGES = (*PLUGIN_PACKAGES, "bench", "moatbench")
UNRELATED = ("bench.keys", "bench.sources", "bench.metrics.definitions")
"""Modules that compute no result: a change of the first two that matters changes the keys themselves, and the
last holds what reports call metrics and how they format them."""
INSTALLED = ("site-packages", "dist-packages")
"""Folders of installed libraries. What depends on a library depends on its version, not on its source."""


@dataclass(frozen=True)
class Code:
    """The modules that some code consists of.

    ``modules``: digest of the syntax tree by module. ``libraries``: top-level modules of installed libraries
    that they import.
    """

    modules: dict[str, str]
    libraries: frozenset[str] = frozenset()

    def digest(self, without: Collection[str] = ()) -> str:
        """Return a SHA-256 of the modules and their names, except for those named in ``without``."""
        lines = (f"{name} {self.modules[name]}\n" for name in sorted(self.modules) if name not in without)
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def code(
    *roots: str, without: Collection[str] = (), plugin_packages: Collection[str] = PLUGIN_PACKAGES
) -> Code:
    """Return the modules ``roots`` and all that they import, directly or through others.

    ``roots`` are names of modules; a module that was loaded from a file by path has to be loaded. Modules in
    the packages ``without`` are not followed.
    """
    tops = {root.partition(".")[0] for root in roots} | set(OWN_PACKAGES)
    search = _Search(tuple(folder for root in roots if (folder := _folder_of_file(root))))
    left, seen = list(roots), set[str]()
    modules: dict[str, str] = {}
    libraries: set[str] = set()
    while left:
        name = left.pop()
        top, dot, _ = name.partition(".")
        if name in seen or top in sys.stdlib_module_names or _within(name, (*without, *UNRELATED)):
            continue
        seen.add(name)
        if dot:
            left.append(name.rpartition(".")[0])  # importing a module runs its packages first
        spec = search.find(name)
        if top not in tops and (spec is None or _is_installed(spec)):
            libraries.add(top)
        elif spec is not None:
            parsed = _parsed(spec)
            modules[_label(name, spec)] = parsed.digest
            for imported in _imported(parsed, spec):
                left.append(imported)
                if imported.partition(".")[0] in plugin_packages and "." in imported:
                    left += search.modules_of(imported)
    return Code(modules, frozenset(libraries))


def module_digest(name: str) -> str:
    """Return the digest of one of moatbench's own modules, without what it imports."""
    spec = _Search(()).find(name)
    if spec is None:
        raise ModuleNotFoundError(name)
    return _parsed(spec).digest


def modules_of(package: str) -> list[str]:
    """Return the full names of a package's modules, those of its sub-packages included."""
    return list(_Search(()).modules_of(package))


def tree(text: bytes) -> str:
    """Return a SHA-256 of the syntax tree of Python source, without docstrings, comments and positions."""
    return _parse(text).digest


class _Import(NamedTuple):
    level: int
    module: str
    names: tuple[str, ...]


class _Parsed(NamedTuple):
    digest: str
    imports: tuple[_Import, ...]


_known: dict[bytes, _Parsed] = {}


def _parsed(spec: ModuleSpec) -> _Parsed:
    text = _text(spec)
    digest = hashlib.sha256(text).digest()
    if digest not in _known:  # parsing is what takes time
        _known[digest] = _parse(text)
    return _known[digest]


def _text(spec: ModuleSpec) -> bytes:
    if not spec.has_location or not spec.origin:
        return b""
    if spec.name.startswith(FILE_PREFIX) and isinstance(spec.loader, SourceFileLoader):
        return spec.loader.get_data(spec.origin)  # as it was when it was loaded
    return _read(spec.origin)


def _read(path: str) -> bytes:
    return Path(path).read_bytes()


def _parse(text: bytes) -> _Parsed:
    """Return the digest of a syntax tree, and its imports; ast.dump takes twice as long."""
    parts: list[str] = []
    imports: list[_Import] = []

    def read(value: object) -> None:
        if isinstance(value, ast.AST):
            if isinstance(value, ast.ImportFrom):
                names = tuple(alias.name for alias in value.names)
                imports.append(_Import(value.level, value.module or "", names))
            elif isinstance(value, ast.Import):
                imports.extend(_Import(0, alias.name, ()) for alias in value.names)
            parts.append(f"{value.__class__.__name__}(")
            for field in value._fields:
                read(getattr(value, field, None))
            parts.append(")")
        elif isinstance(value, list):
            parts.append("[")
            for each in _without_text(value):
                read(each)
            parts.append("]")
        else:
            parts.append(f"{value!r},")

    try:
        read(ast.parse(text))
    except (SyntaxError, ValueError, RecursionError):  # compiled, or nobody can import it
        return _Parsed(hashlib.sha256(text).hexdigest(), ())
    return _Parsed(
        hashlib.sha256("".join(parts).encode("utf-8", "backslashreplace")).hexdigest(), tuple(imports)
    )


def _without_text(values: list[Any]) -> Iterator[Any]:
    """Yield the statements without docstrings and without what only a type checker reads."""
    for value in values:
        if isinstance(value, ast.If) and _is_type_checking(value.test):
            yield from _without_text(value.orelse)
        elif not (isinstance(value, ast.Expr) and _is_text(value.value)):
            yield value


def _is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def _is_text(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def _imported(parsed: _Parsed, spec: ModuleSpec) -> list[str]:
    """Return the full names of what a module imports; a name from a module may be a module itself."""
    package = spec.name if spec.submodule_search_locations is not None else spec.name.rpartition(".")[0]
    names = []
    for level, module, imported in parsed.imports:
        origin = module
        if level:
            parents = package.split(".")
            base = ".".join(parents[: len(parents) - level + 1])
            origin = f"{base}.{module}" if module else base
        names += [origin, *(f"{origin}.{name}" for name in imported)]
    return [name for name in names if name and not name.endswith(".*")]


class _Search:
    """Finds modules without importing them: where Python finds them, then in the folders ``beside``."""

    def __init__(self, beside: Sequence[Path]) -> None:
        self._beside = [str(folder) for folder in beside]
        self._found: dict[str, ModuleSpec | None] = {}

    def find(self, name: str) -> ModuleSpec | None:
        """Return where a module lies; None where there is none."""
        if name not in self._found:
            parent, dot, _ = name.rpartition(".")
            self._found[name] = self._below(parent, name) if dot else self._top(name)
        return self._found[name]

    def _top(self, name: str) -> ModuleSpec | None:
        try:
            spec = importlib.util.find_spec(name)
        except (ValueError, ImportError):  # a module without a spec, as a program's main module
            spec = None
        return spec or PathFinder.find_spec(name, self._beside)

    def _below(self, parent: str, name: str) -> ModuleSpec | None:
        package = self.find(parent)
        if package is None or package.submodule_search_locations is None:
            return None
        return PathFinder.find_spec(name, list(package.submodule_search_locations))

    def modules_of(self, name: str) -> Iterator[str]:
        """Yield the full names of a package's modules, those of its sub-packages included."""
        package = self.find(name)
        places = list(package.submodule_search_locations or ()) if package else []
        for found in pkgutil.iter_modules(places, f"{name}."):
            yield found.name
            if found.ispkg:
                yield from self.modules_of(found.name)


def _is_installed(spec: ModuleSpec) -> bool:
    places = [spec.origin] if spec.has_location else spec.submodule_search_locations
    return any(folder in INSTALLED for place in places or () for folder in Path(place or "").parts)


def _folder_of_file(name: str) -> Path | None:
    """Return the folder of a top-level module that is loaded."""
    file = getattr(sys.modules.get(name), "__file__", None)
    return Path(file).parent if file and "." not in name else None


def _label(name: str, spec: ModuleSpec) -> str:
    """Return a module's name, the same for a file that was loaded by path, wherever it lies."""
    return Path(spec.origin or "").stem if name.startswith(FILE_PREFIX) else name


def _within(name: str, packages: Collection[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


FILE_PREFIX = "moatbench_file_"
"""How the names of modules start that were loaded from a file by path."""
