"""Finds attacks and defenses, and turns text like ``rounded(decimals=1)`` into instances.

A plugin is a class with a ``name``, found in the packages ``attacks`` and ``defenses``, behind the
entry points ``moatbench.attacks`` and ``moatbench.defenses``, or in a file that a matrix names.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Mapping
from functools import cache, cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Generic, TypeVar, get_type_hints

import pydantic

from bench.errors import UsageError, nearest


class Plugin:
    """A named, parametrised piece that a matrix can use.

    A subclass that sets ``name`` in its own body is registered by the registry that finds its
    module. Parameters are the keyword-only arguments of ``__init__``, stored verbatim under the
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
        hints = get_type_hints(cls.__init__, include_extras=True)
        signature = inspect.signature(cls.__init__)
        return {
            name: parameter.replace(annotation=hints.get(name, parameter.annotation))
            for name, parameter in signature.parameters.items()
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY
        }

    def __repr__(self) -> str:
        """Return the call that makes this plugin, every parameter spelled out."""
        values = {name: getattr(self, name) for name in self.parameters()}
        return format_call(self.name, values)


P = TypeVar("P", bound=Plugin)


def parse_call(text: str) -> tuple[str, dict[str, Any]]:
    """Split ``name(key=value, …)`` into name and values.

    Values are Python or TOML literals; ``true`` and ``false`` are booleans, a bare word, hyphens and
    all, is a string. Raises UsageError for anything else.
    """
    usage = f"cannot read {text!r}: write name or name(key=value, …)"
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        raise UsageError(usage) from error
    if isinstance(node, ast.Name):
        return node.id, {}
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.args:
        raise UsageError(usage)
    values: dict[str, Any] = {}
    for keyword in node.keywords:
        if keyword.arg is None or keyword.arg in values:
            raise UsageError(usage)
        values[keyword.arg] = _literal(keyword.value, usage)
    return node.func.id, values


def _literal(node: ast.expr, usage: str) -> Any:
    if isinstance(node, ast.Name):
        return {"true": True, "false": False}.get(node.id, node.id)
    if isinstance(node, ast.BinOp):
        word = ast.unparse(node).replace(" - ", "-")
        if word.replace("-", "_").isidentifier():
            return word
    try:
        return ast.literal_eval(node)
    except ValueError as error:
        raise UsageError(usage) from error


def format_call(name: str, values: dict[str, Any]) -> str:
    """Return ``name(key=value, …)`` as :func:`parse_call` reads it."""
    if not values:
        return name
    return f"{name}({', '.join(f'{key}={_written(value)}' for key, value in values.items())})"


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else repr(value)


class Registry(Generic[P]):
    """All plugins of one kind, found when first asked for."""

    def __init__(self, kind: str, package: str, base: str, otherwise: str = "") -> None:
        """Look in ``package`` for subclasses of ``base`` (``module:class``); ``kind`` is for messages.

        ``otherwise`` (``module:function``) is asked first when a plugin is built: it gets kind, class
        and given values, and returns an instance where these are not its parameters alone, or None.
        """
        self.kind, self.package, self._base, self._otherwise = kind, package, base, otherwise
        self._extra: dict[str, type[P]] = {}

    @cached_property
    def _found(self) -> dict[str, type[P]]:
        found: dict[str, type[P]] = {}
        folder = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(folder.__path__):
            found |= self._plugins(importlib.import_module(f"{self.package}.{module.name}"))
        for entry in importlib.metadata.entry_points(group=f"moatbench.{self.package}"):
            loaded = entry.load()
            found |= self._plugins(loaded) if isinstance(loaded, ModuleType) else {loaded.name: loaded}
        return found

    def _plugins(self, module: ModuleType) -> dict[str, type[P]]:
        base = _named(self._base)
        classes: list[Any] = [thing for thing in vars(module).values() if inspect.isclass(thing)]
        return {
            cls.name: cls
            for cls in classes
            if issubclass(cls, base) and "name" in vars(cls) and cls.__module__ == module.__name__
        }

    def add_file(self, path: Path) -> None:
        """Register the plugins of this kind in a Python file; raises UsageError if it is missing."""
        self._extra |= self._plugins(load_file(path))

    def names(self) -> list[str]:
        """Return the names of all known plugins, sorted."""
        return sorted(self._found | self._extra)

    def get(self, name: str) -> type[P]:
        """Return the class; raises UsageError with the nearest names."""
        found = self._found | self._extra
        if name not in found:
            raise UsageError(f"unknown {self.kind} {name!r}; {nearest(name, found)}")
        return found[name]

    def build(self, text: str) -> P:
        """Return the instance that ``text`` describes; raises UsageError naming key, value and range."""
        name, values = parse_call(text)
        cls = self.get(name)
        try:
            other: P | None = _named(self._otherwise)(self.kind, cls, values) if self._otherwise else None
            return cls(**checked(self.kind, cls, values)) if other is None else other
        except ValueError as error:
            raise UsageError(f"{self.kind} {name!r}: {error}") from error

    def canonical(self, text: str) -> str:
        """Return ``text`` with every parameter spelled out: equal texts mean equal plugins."""
        return repr(self.build(text))

    def source_digest(self, text: str) -> str:
        """Return the hash of the source files of the plugin's class, its bases, and what these import.

        Of what they import, what is in their own package counts: an attack's arithmetic, say.
        What is no instance of that class, but stands for one, counts with its own source too.
        """
        cls: Any = self.get(parse_call(text)[0])
        built: Any = type(self.build(text))
        digests = [_source_digest(each) for each in dict.fromkeys((cls, built))]
        return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _named(place: str) -> Any:
    """Return what ``module:name`` names."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


@cache
def _source_digest(cls: type[Plugin]) -> str:
    bases = [base for base in cls.__mro__ if issubclass(base, Plugin) and base is not Plugin]
    left, sources = [base.__module__ for base in bases], dict[str, str]()
    while left:
        name = left.pop()
        if name not in sources:
            sources[name] = inspect.getsource(sys.modules[name])
            left += _neighbours(name, sources[name])
    return hashlib.sha256("".join(sources[name] for name in sorted(sources)).encode()).hexdigest()


def _neighbours(module: str, source: str) -> list[str]:
    """Return the modules of the same package that a plugin's module imports from: its other half."""
    package = module.partition(".")[0] + "."
    named: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            named += [f"{node.module}", *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            named += [alias.name for alias in node.names]
    return [name for name in named if name.startswith(package) and name in sys.modules]


def checked(
    kind: str,
    cls: type[Plugin],
    values: dict[str, Any],
    parameters: Mapping[str, inspect.Parameter] | None = None,
) -> dict[str, Any]:
    """Return every parameter of ``cls``, given or default; raises UsageError naming key, value and range.

    ``kind`` says in the message what it is a parameter of. ``parameters``: others than those of ``cls``.
    """
    own = parameters is None
    parameters = cls.parameters() if parameters is None else parameters
    for key in values:
        if key not in parameters:
            known = nearest(key, parameters) if parameters else "it takes none"
            raise UsageError(f"{kind} {cls.name!r} has no parameter {key!r}; {known}")
    # mypy takes a class for as little hashable as its instances are.
    model = _own_model(cls) if own else _model(cls.name, parameters)  # type: ignore[arg-type]
    try:
        valid = model(**values)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        got = f"{key}={values[key]!r}" if key in values else f"{key} is missing"
        raise UsageError(f"{kind} {cls.name!r}: {got}; {describe(parameters[key])} is allowed") from error
    return {key: getattr(valid, key) for key in parameters}


@cache
def _own_model(cls: type[Plugin]) -> type[pydantic.BaseModel]:
    # Making one takes milliseconds, and every cell builds its plugins anew.
    return _model(cls.name, cls.parameters())


def _model(name: str, parameters: Mapping[str, inspect.Parameter]) -> type[pydantic.BaseModel]:
    fields: dict[str, Any] = {
        key: (parameter.annotation, ... if parameter.default is parameter.empty else parameter.default)
        for key, parameter in parameters.items()
    }
    # TOML writes 1 for 1.0; strict mode takes an int for a float, never a bool or a string.
    return pydantic.create_model(name, __config__=pydantic.ConfigDict(strict=True), **fields)


def describe(parameter: inspect.Parameter) -> str:
    """Return what a parameter takes, in words: its type and range, or its choices."""
    schema = pydantic.TypeAdapter(parameter.annotation).json_schema()
    # Of "a number or None", what the number may be.
    schema = schema["anyOf"][0] if "anyOf" in schema else schema
    if "enum" in schema:
        return "one of " + ", ".join(map(str, schema["enum"]))
    if "const" in schema:
        return str(schema["const"])
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    left = "(" if low is None or "exclusiveMinimum" in schema else "["
    right = ")" if high is None or "exclusiveMaximum" in schema else "]"
    kind = str(schema.get("type", "value"))
    if low is None and high is None:
        return kind
    return f"{kind} in {left}{'-inf' if low is None else low}, {'inf' if high is None else high}{right}"


def load_file(path: Path) -> ModuleType:
    """Import a Python file under a name of its own; raises UsageError if there is none."""
    path = path.expanduser().resolve()
    if not path.is_file():
        raise UsageError(f"no Python file {path}")
    name = f"moatbench_file_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


# The bases live beside the plugins; Any, so that this module imports neither package.
attacks: Registry[Any] = Registry("attack", "attacks", "attacks.base:Attack")
defenses: Registry[Any] = Registry("defense", "defenses", "defenses.base:Defense", "defenses.cost:by_cost")
