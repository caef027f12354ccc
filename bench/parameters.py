"""Parameters of plugins: read from signatures, validated by pydantic, described in words."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, ClassVar, Protocol, get_type_hints

import pydantic

from bench.errors import UsageError, nearest, one_line, shown


class Parametrised(Protocol):
    """A class with a name and parameters; every plugin is one."""

    name: ClassVar[str]

    @classmethod
    def parameters(cls) -> dict[str, inspect.Parameter]:
        """Return the parameters by name, with their annotations resolved."""


def keyword_parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the keyword-only parameters of ``function`` by name, in order, with annotations resolved."""
    hints = get_type_hints(function, include_extras=True)
    return {
        name: parameter.replace(annotation=hints.get(name, parameter.annotation))
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }


def check_parameters(cls: type[Parametrised]) -> None:
    """Raise UsageError, naming the parameter, if those of a class cannot be given by name and checked."""
    for name, parameter in inspect.signature(cls).parameters.items():
        by_position = parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        if by_position and parameter.default is parameter.empty:
            raise UsageError(
                f"parameter {name!r} of {cls.__name__} is not keyword-only; write __init__(self, *, …)"
            )
    parameters = cls.parameters()
    try:
        _model(cls.name, parameters)
        for parameter in parameters.values():
            describe(parameter)
    except Exception as error:
        raise UsageError(f"the parameters of {cls.__name__} cannot be checked: {one_line(error)}") from error


def validate(
    kind: str,
    cls: type[Parametrised],
    values: Mapping[str, Any],
    parameters: Mapping[str, inspect.Parameter] | None = None,
) -> dict[str, Any]:
    """Return the value of every parameter, given in ``values`` or default.

    ``parameters``: those to check against, by default those of ``cls``. Raises UsageError that names key,
    value and range; ``kind`` and the name of ``cls`` say in the message what the parameter belongs to.
    """
    own = parameters is None
    parameters = cls.parameters() if parameters is None else parameters
    for key in values:
        if key not in parameters:
            known = nearest(key, parameters) if parameters else "it takes none"
            raise UsageError(f"{kind} {cls.name!r} has no parameter {shown(key)}; {known}")
    model = _own_model(cls) if own else _model(cls.name, parameters)
    try:
        valid = model(**values)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        got = f"{key}={shown(values[key])}" if key in values else f"{key} is missing"
        raise UsageError(f"{kind} {cls.name!r}: {got}; {describe(parameters[key])} is allowed") from error
    return {key: getattr(valid, key) for key in parameters}


@cache
def _own_model(cls: type[Parametrised]) -> type[pydantic.BaseModel]:
    # Making a model takes milliseconds, and every cell builds its plugins anew.
    return _model(cls.name, cls.parameters())


def _model(name: str, parameters: Mapping[str, inspect.Parameter]) -> type[pydantic.BaseModel]:
    fields: dict[str, Any] = {
        key: (parameter.annotation, ... if parameter.default is parameter.empty else parameter.default)
        for key, parameter in parameters.items()
    }
    # TOML writes 1 for 1.0; strict mode accepts an int for a float, never a bool or a string.
    return pydantic.create_model(name, __config__=pydantic.ConfigDict(strict=True), **fields)


def describe(parameter: inspect.Parameter) -> str:
    """Return in words what a parameter accepts: its type and range, or its choices."""
    try:
        schema = pydantic.TypeAdapter(parameter.annotation).json_schema()
    except pydantic.PydanticUserError:  # a type that JSON does not have, of somebody else's plugin
        return inspect.formatannotation(parameter.annotation)
    # For "a number or None", describe the number.
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
