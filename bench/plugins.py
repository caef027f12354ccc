"""Finds attacks and defenses, and builds instances from text such as ``rounded(decimals=1)``.

A plugin is a class with a ``name``. The registry finds it in the packages ``attacks`` and ``defenses`` and
their sub-packages, through the entry points ``moatbench.attacks`` and ``moatbench.defenses``, or in a
Python file that a matrix names.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import keyword
import os
import pkgutil
import sys
from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, ClassVar, Generic, TypeVar

from bench.calls import format_call, parse_call
from bench.errors import UsageError, nearest, one_line, shown, user_code
from bench.files import user_file, user_path
from bench.parameters import check_parameters, keyword_parameters, validate
from bench.sources import FILE_PREFIX, PLUGIN_PACKAGES, code


class Plugin:
    """A named class with parameters that a matrix can use.

    A subclass that sets ``name`` in its own body is registered by the registry that finds its
    module. Parameters are the keyword-only arguments of ``__init__``, stored unchanged under the
    same names. Annotate them with ``Annotated[type, pydantic.Field(ge=…, le=…)]`` or ``Literal``;
    the registry checks values against these before it calls ``__init__``, and ``moatbench list``
    prints them.
    """

    name: ClassVar[str]
    paper: ClassVar[str] = ""
    """Where the idea comes from: authors, year, arXiv number or venue."""

    @classmethod
    def parameters(cls) -> dict[str, inspect.Parameter]:
        """Return the parameters of ``__init__`` by name, in order, with their annotations resolved."""
        return keyword_parameters(cls.__init__)

    def __repr__(self) -> str:
        """Return the call that builds this plugin, with every parameter."""
        values = {name: getattr(self, name) for name in self.parameters()}
        return format_call(self.name, values)


P = TypeVar("P", bound=Plugin)


class Registry(Generic[P]):
    """All plugins of one kind, found when first asked for."""

    def __init__(self, kind: str, package: str, base: str, builder: str = "") -> None:
        """Search ``package`` for subclasses of ``base`` (``module:class``); messages call them ``kind``.

        ``builder`` (``module:function``) is called first when a plugin is built. It gets kind, class and
        given values. It returns an instance if they include values that are no parameters of the class,
        else None.
        """
        self.kind, self.package, self._base, self._builder = kind, package, base, builder
        self._extra: dict[str, type[P]] = {}

    @cached_property
    def _found(self) -> dict[str, type[P]]:
        found: dict[str, type[P]] = {}
        for name in _module_names(importlib.import_module(self.package)):
            found |= self._plugins(importlib.import_module(name))
        for entry in importlib.metadata.entry_points(group=f"moatbench.{self.package}"):
            origin = f"the installed {self.kind} plugin {entry.name!r} ({entry.value})"
            with user_code(f"{origin} cannot be loaded; mend it or uninstall its package"):
                loaded = entry.load()
                whole = isinstance(loaded, ModuleType)
                theirs = self._plugins(loaded) if whole else self._one(loaded, origin)
                self._check(theirs, found, origin)
            found |= theirs
        return found

    def _plugins(self, module: ModuleType) -> dict[str, type[P]]:
        base = _import_named(self._base)
        classes: list[Any] = [thing for thing in vars(module).values() if inspect.isclass(thing)]
        found: dict[str, type[P]] = {}
        for cls in dict.fromkeys(classes):
            if issubclass(cls, base) and "name" in vars(cls) and cls.__module__ == module.__name__:
                other = found.setdefault(cls.name, cls)
                if other is not cls:
                    raise UsageError(
                        f"{module.__file__}: {other.__name__} and {cls.__name__} are both called "
                        f"{cls.name!r}; give one another name"
                    )
        return found

    def _one(self, loaded: Any, origin: str) -> dict[str, type[P]]:
        classes: list[Any] = [loaded] if inspect.isclass(loaded) else []
        for cls in classes:
            if issubclass(cls, _import_named(self._base)):
                return {cls.name: cls}
        raise UsageError(f"{origin} is {shown(loaded)}, no subclass of {self._base.replace(':', '.')}")

    def _check(self, theirs: dict[str, type[P]], known: Mapping[str, type[P]], origin: str) -> None:
        """Raise UsageError for a class that no matrix can name or build, or that hides one of ``known``."""
        for name, cls in theirs.items():
            if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
                raise UsageError(
                    f"{origin}: class {cls.__name__} has name = {shown(name)}; letters, digits and _ are "
                    "allowed"
                )
            if name in known and known[name] is not cls:
                raise UsageError(
                    f"{origin}: the name {name!r} is taken ({known[name].__module__}); "
                    f"give {cls.__name__} another name"
                )
            missing = [
                each for each in dir(cls) if getattr(getattr(cls, each, 0), "__isabstractmethod__", False)
            ]
            if missing:
                raise UsageError(
                    f"{origin}: class {cls.__name__} has no {missing[0]}; every {self.kind} needs one"
                )
            try:
                check_parameters(cls)
            except UsageError as error:
                raise UsageError(f"{origin}: {error}") from error

    def add_file(self, path: Path) -> list[str]:
        """Register the plugins of this kind in a Python file, and return their names.

        Raises UsageError, with the file, the line and the error, for a file that is missing or cannot be
        imported, and for a plugin that cannot be built or has the name of a shipped or installed one.
        """
        module = load_file(path)
        with user_code(f"plugin file {path}", path):
            theirs = self._plugins(module)
            self._check(theirs, self._found, f"plugin file {path}")
        self._extra |= theirs
        return list(theirs)

    def names(self) -> list[str]:
        """Return the names of all known plugins, sorted."""
        return sorted(self._found | self._extra)

    def get(self, name: str) -> type[P]:
        """Return the class called ``name``; raises UsageError with the nearest names."""
        found = self._found | self._extra
        if name not in found:
            raise UsageError(f"unknown {self.kind} {shown(name)}; {nearest(name, found)}")
        return found[name]

    def build(self, text: str) -> P:
        """Return the instance that ``text`` describes; raises UsageError naming key, value and range."""
        name, values = parse_call(text)
        cls = self.get(name)
        with user_code(f"{self.kind} {name!r} cannot be built"):
            try:
                other = _import_named(self._builder)(self.kind, cls, values) if self._builder else None
                built: P = cls(**validate(self.kind, cls, values)) if other is None else other
            except ValueError as error:
                raise UsageError(f"{self.kind} {name!r}: {error}") from error
        return built

    def canonical(self, text: str) -> str:
        """Return ``text`` with every parameter written out: equal texts mean equal plugins.

        Raises UsageError as :meth:`build` does, and for a plugin that does not keep its parameters, so
        that the text would build another one.
        """
        built = self.build(text)
        try:
            written = repr(built)
            again = repr(self.build(written))
        except Exception as error:
            raise UsageError(
                f"{self.kind} {shown(text)}: its parameters cannot be written down ({one_line(error)}); "
                "store each unchanged as an attribute of the same name"
            ) from error
        if again != written:
            raise UsageError(f"{self.kind} {shown(text)}: {shown(written)} builds {shown(again)}")
        return written

    def modules(self, text: str) -> tuple[str, ...]:
        """Return the modules of the class of the plugin that ``text`` describes, and of its bases.

        If the instance is of another class (see ``builder``), that class's modules count too.
        """
        classes: list[type] = [self.get(parse_call(text)[0]), type(self.build(text))]
        bases = [base for cls in classes for base in cls.__mro__ if issubclass(base, Plugin)]
        return tuple(dict.fromkeys(base.__module__ for base in bases if base is not Plugin))

    def source_digest(self, text: str) -> str:
        """Return a SHA-256 of a plugin's code: the modules of :meth:`modules`, and all they import."""
        return code(*self.modules(text), plugin_packages=(*PLUGIN_PACKAGES, self.package)).digest()


def _import_named(reference: str) -> Any:
    """Return the object that ``module:name`` refers to."""
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)


def _module_names(package: ModuleType) -> Iterator[str]:
    """Yield the full names of a package's modules, those of its sub-packages included."""
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        yield module.name
        if module.ispkg:
            yield from _module_names(importlib.import_module(module.name))


def file_module(path: Path) -> str:
    """Return the name that :func:`load_file` would give the file, as it is now."""
    return _read_file(path)[-1]


def _read_file(path: Path) -> tuple[Path, bytes, str]:
    """Return a Python file's whole path, its content, and its name as a module."""
    path = user_file(user_path(path).resolve(), "Python file")
    if path.suffix != ".py":
        raise UsageError(f"{path} is not a Python file; its name has to end in .py")
    with user_code(f"Python file {path}", path):
        content = path.read_bytes()
    digest = hashlib.sha256(os.fsencode(path) + b"\0" + content).hexdigest()
    return path, content, f"{FILE_PREFIX}{path.stem}_{digest[:16]}"


class _LoadedFile(SourceFileLoader):
    """Loads a file from the content that was read, not from a compiled file that may be older."""

    def __init__(self, name: str, path: str, content: bytes) -> None:
        super().__init__(name, path)
        self._content = content

    def get_data(self, path: str) -> bytes:
        """Return the content of the file, as it was when it was read."""
        return self._content

    def get_code(self, fullname: str) -> CodeType:
        """Return the compiled content."""
        code: CodeType = self.source_to_code(self._content, self.path)
        return code


def load_file(path: Path) -> ModuleType:
    """Return a Python file as a module, imported under a name that is unique for its path and content.

    So an edited file is another module, also in a process that has loaded it before. Raises UsageError if it
    is missing, and, with the line, for whatever it raises while it is imported.
    """
    path, content, name = _read_file(path)
    if name in sys.modules:
        return sys.modules[name]
    loader = _LoadedFile(name, str(path), content)
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    if spec is None:
        raise UsageError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with user_code(f"Python file {path}", path):
            loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


# The bases are defined next to the plugins; named by text, so that this module imports neither.
attacks: Registry[Any] = Registry("attack", "attacks", "attacks.base:Attack")
defenses: Registry[Any] = Registry(
    "defense", "defenses", "defenses.base:Defense", "defenses.tuning.utility_loss:with_utility_loss"
)
