"""A replication: a matrix that repeats published work, and which cells belong to which published number.

This module defines the table ``[study]`` of a matrix file and how a row selects its cells.
:mod:`bench.plan.study_validation` checks that every row selects some,
:mod:`bench.analysis.study_results` computes the measured values.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NoReturn

import pydantic

from bench.calls import parse_call
from bench.errors import UsageError, shown
from bench.tasks import architecture_and_splits

MOST_CHOICES = 1_000
"""Largest number of combinations of alternatives that a row can name."""
EVALUATION_PREFIXES = ("honest.", "detection.")
"""Prefixes of the metrics of defense evaluations, which have no attack, pool or budget."""
COST_PREFIXES = ("seconds.", "cpu_seconds.")
"""Prefixes of costs, for example ``seconds.train``."""
SLOT = re.compile(r"\{([^{}]*)\}")
"""A slot in the texts of a replication, filled with a number."""


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True)


Texts = str | Annotated[list[str], pydantic.Field(min_length=1)] | None
Pair = Annotated[list[str], pydantic.Field(min_length=2, max_length=2)] | None
Name = Annotated[str, pydantic.Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]


class Where(_Strict):
    """Selects the group of repeats that a row shows. Axes that are not named may have any value.

    A list holds alternatives, of which the first with records is used; for ``defense`` it is one stack.
    An attack, defense or training may omit parameters if the rest is unique.
    """

    data: Texts = None
    victim: Texts = None
    splits: Texts = None
    defense: str | list[str] | None = None
    attack: Texts = None
    pool: Texts = None
    knowledge: Texts = None
    surrogate: Texts = None
    shows: Texts = None
    training: Texts = None
    budget: int | Annotated[list[int], pydantic.Field(min_length=1)] | None = None

    @pydantic.model_validator(mode="after")
    def _few_choices(self) -> Where:
        lists = (value for axis, value in self if isinstance(value, list) and axis != "defense")
        number = math.prod(len(value) for value in lists)
        if number > MOST_CHOICES:
            raise ValueError(f"{number:,} combinations of alternatives; at most {MOST_CHOICES:,} are allowed")
        return self

    def choices(self) -> Iterator[dict[str, Any]]:
        """Yield every combination of alternatives, value by axis, the preferred one first."""
        axes: dict[str, list[Any]] = {}
        for axis in Where.model_fields:
            value = getattr(self, axis)
            if axis == "defense" and value is not None:
                axes[axis] = [tuple(text for text in as_list(value) if text != "none")]
            elif value is not None:
                axes[axis] = as_list(value)
        for values in itertools.product(*axes.values()):
            yield dict(zip(axes, values, strict=True))


class PublishedValue(_Strict):
    """One row of a table: a published number, or none, and a measured one.

    ``unit``: measured shares are shown times 100 for "%". ``digits``: decimals, instead of the
    unit's own. A row is either measured, by ``metric`` and ``where``, or derived from two measured
    ones: ``relative_drop``, (a - b) / a, or ``difference``, a - b, repeat by repeat. ``confusion``:
    its confusion matrix is drawn.
    """

    id: Name
    label: str
    published: int | float | None = None
    unit: Literal["%", "s", ""] = "%"
    digits: Annotated[int, pydantic.Field(ge=0, le=6)] | None = None
    metric: str = ""
    where: Where | None = None
    relative_drop: Pair = None
    difference: Pair = None
    confusion: bool = False

    @property
    def parts(self) -> Sequence[str]:
        """The rows that this one is derived from; none if it is measured."""
        return self.relative_drop or self.difference or ()

    @property
    def audited(self) -> bool:
        """Whether the metric is one of a defense evaluation."""
        return self.metric.startswith(EVALUATION_PREFIXES)


class Table(_Strict):
    """Rows under one heading."""

    heading: str
    intro: str = ""
    row: Annotated[list[PublishedValue], pydantic.Field(min_length=1)]


class Headline(_Strict):
    """The row that the publication is known for, and that of a tuned attack."""

    published: str
    competent: str


class Study(_Strict):
    """What was published, and which cells of the matrix are compared with it.

    In ``verdict`` and ``meaning`` the slots ``{row-id}`` and ``{row-id.published}`` are filled with the
    number that was measured and that which was published, without their unit; ``{row-id.interval}``
    with the measured one as tables show it, ``88.7 % (88.1–89.3)``; ``{row-id.prediction}`` with where one
    further repeat would lie, ``53.7 to 89.2``.

    ``page``: whether the report is a page on the replication only; else it is a section of the usual report.
    """

    title: str
    source: str
    page: bool = True
    choices: list[str] = []
    verdict: str
    meaning: str
    headline: Headline | None = None
    table: Annotated[list[Table], pydantic.Field(min_length=1)]

    @property
    def rows(self) -> dict[str, PublishedValue]:
        """All rows by their names, in order."""
        return {row.id: row for table in self.table for row in table.row}

    def complain(self, row: PublishedValue | None, problem: str) -> NoReturn:
        """Raise UsageError that names the replication, the row and the problem."""
        where = f", row {row.id!r}" if row else ""
        raise UsageError(f"study {shown(self.title)}{where}: {problem}")


def axis_values(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record's spec by the axes of a matrix; the victim by architecture, a stack as a tuple."""
    victim, data = str(spec["victim"]), str(spec["data"])
    architecture, splits = architecture_and_splits(victim, data)
    found = {axis: spec[axis] for axis in Where.model_fields if axis in spec}
    return found | {
        "victim": architecture or victim,
        "splits": spec.get("splits", splits),
        "defense": tuple(text for text in spec["defense"] if text != "none"),
        **({"training": spec.get("training", "rule")} if "attack" in spec else {}),
    }


def matching_calls(wanted: str, known: Collection[str]) -> set[str]:
    """Return which of the ``known`` calls match ``wanted``: the equal one, else all with its parameters."""
    name, values = parse_call(wanted)
    calls = {text: parse_call(text) for text in known}
    equal = {text for text, call in calls.items() if call == (name, values)}
    return equal or {
        text for text, (other, having) in calls.items() if other == name and values.items() <= having.items()
    }


def matching_specs(choice: Mapping[str, Any], specs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the specs that have every value of ``choice``, an element of :meth:`Where.choices`."""
    known = [axis_values(spec) for spec in specs]
    tests: dict[str, Callable[[Any], bool]] = {}
    for axis, value in choice.items():
        tests[axis] = _test(axis, value, {fact[axis] for fact in known if axis in fact})
    return [
        spec
        for spec, fact in zip(specs, known, strict=True)
        if all(axis in fact and test(fact[axis]) for axis, test in tests.items())
    ]


def _test(axis: str, value: Any, known: set[Any]) -> Callable[[Any], bool]:
    if axis in ("attack", "training"):
        return matching_calls(value, known).__contains__
    if axis == "defense":
        stacks = {stack for stack in known if len(stack) == len(value)}
        matches = [
            matching_calls(text, {stack[place] for stack in stacks}) for place, text in enumerate(value)
        ]
        return lambda stack: (
            len(stack) == len(value)
            and all(text in allowed for text, allowed in zip(stack, matches, strict=True))
        )
    return lambda having: bool(having == value)


def repeat_groups(specs: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return each group of repeats once: the specs without their repeat."""
    found: dict[str, dict[str, Any]] = {}
    for spec in specs:
        kept = {name: value for name, value in spec.items() if name != "repeat"}
        found[repr(kept)] = kept
    return list(found.values())


def as_list(value: Any) -> list[Any]:
    """Return a list as it is, any other value as a list of one."""
    return value if isinstance(value, list) else [value]
