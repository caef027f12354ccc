"""Adds a table of options to a command, so that several commands share them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

Command = Callable[..., None]


def with_options(options: Mapping[str, tuple[Any, Any]]) -> Callable[[Command], Command]:
    """Return a decorator that adds ``options``: an annotation and a default by name; ``...``: required.

    The command gets the values that are not None as its argument ``options``, a mapping by name; those of an
    enumeration as their values. Its other arguments become keyword-only.
    """

    def decorated(command: Command) -> Command:
        @functools.wraps(command)
        def wrapped(**values: Any) -> None:
            chosen = {name: values.pop(name) for name in options}
            given = {name: getattr(each, "value", each) for name, each in chosen.items() if each is not None}
            command(**values, options=given)

        signature = inspect.signature(command, eval_str=True)
        # Keyword-only, so that those without a default may come after those with one.
        own = [
            each.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for each in signature.parameters.values()
            if each.name != "options"
        ]
        added = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if default is ... else default,
                annotation=annotation,
            )
            for name, (annotation, default) in options.items()
        ]
        wrapped.__signature__ = signature.replace(parameters=[*own, *added])  # type: ignore[attr-defined]  # inspect reads it
        wrapped.__annotations__ = {each.name: each.annotation for each in (*own, *added)}
        return wrapped

    return decorated
