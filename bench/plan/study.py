"""A study: a matrix that repeats published work, and which of its cells stand beside which number.

Here is what the table ``[study]`` of a matrix file may say, and how a row finds its cells. That every
row finds some is checked in :mod:`bench.plan.study_validation`, what was measured is in
:mod:`bench.analysis.study_results`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NoReturn

import pydantic

from bench.calls import parse_call
from bench.errors import UsageError

OFFICIAL = " (official splits)"
AUDITED = ("honest.", "detection.")
"""What metrics of audits begin with; they have no attack, pool or budget."""
SECONDS = ("seconds.", "cpu_seconds.")
"""What costs begin with: ``seconds.train`` and the like."""
SLOT = re.compile(r"\{([^{}]*)\}")
"""A place in a study's texts that takes a number."""


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True)


Texts = str | Annotated[list[str], pydantic.Field(min_length=1)] | None
Pair = Annotated[list[str], pydantic.Field(min_length=2, max_length=2)] | None
Name = Annotated[str, pydantic.Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]


class Where(_Strict):
    """Which group of repeats a row shows. Axes that are not named may have any value.

    A list holds alternatives, the first that has records counts; for ``defense`` it is one stack.
    An attack, a defense or a training may leave out parameters where what is left is unique.
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

    def choices(self) -> Iterator[dict[str, Any]]:
        """Give every combination of alternatives, value by axis, the preferred one first."""
        axes: dict[str, list[Any]] = {}
        for axis in Where.model_fields:
            value = getattr(self, axis)
            if axis == "defense" and value is not None:
                axes[axis] = [tuple(text for text in listed(value) if text != "none")]
            elif value is not None:
                axes[axis] = listed(value)
        for values in itertools.product(*axes.values()):
            yield dict(zip(axes, values, strict=True))


class PublishedValue(_Strict):
    """One line of a table: a published number, or none, beside a measured one.

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
        """Whether the metric is one of an audit."""
        return self.metric.startswith(AUDITED)


class Table(_Strict):
    """Rows under one heading."""

    heading: str
    intro: str = ""
    row: Annotated[list[PublishedValue], pydantic.Field(min_length=1)]


class Headline(_Strict):
    """The row that is known from the publication, and that of a competent attacker."""

    published: str
    competent: str


class Study(_Strict):
    """What was published, and what of this matrix stands beside it.

    In ``verdict`` and ``meaning`` the slots ``{row-id}`` and ``{row-id.published}`` are filled with the
    number that was measured and that which was published, without their unit; ``{row-id.interval}``
    with the measured one as tables show it, ``88.7 % [88.1, 89.3]``.

    ``page``: whether the report is the study's page; else the study is a section of the usual report.
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
        """Raise UsageError with the study and the row that have the problem."""
        where = f", row {row.id!r}" if row else ""
        raise UsageError(f"study {self.title!r}{where}: {problem}")


def facts(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record's spec by the axes of a matrix: the victim is its architecture, a stack a tuple."""
    victim, data = str(spec["victim"]), str(spec["data"])
    found = {axis: spec[axis] for axis in Where.model_fields if axis in spec}
    return found | {
        "victim": victim.removesuffix(OFFICIAL).removeprefix(f"{data}/"),
        "splits": spec.get("splits", "official" if victim.endswith(OFFICIAL) else "disjoint"),
        "defense": tuple(text for text in spec["defense"] if text != "none"),
        **({"training": spec.get("training", "rule")} if "attack" in spec else {}),
    }


def means(wanted: str, known: Collection[str]) -> set[str]:
    """Return which of the ``known`` calls a text means: the equal one, else all that it leaves open."""
    name, values = parse_call(wanted)
    calls = {text: parse_call(text) for text in known}
    equal = {text for text, call in calls.items() if call == (name, values)}
    return equal or {
        text for text, (other, having) in calls.items() if other == name and values.items() <= having.items()
    }


def matching(choice: Mapping[str, Any], specs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the specs that have every value of ``choice``, an element of :meth:`Where.choices`."""
    known = [facts(spec) for spec in specs]
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
        return means(value, known).__contains__
    if axis == "defense":
        stacks = {stack for stack in known if len(stack) == len(value)}
        meant = [means(text, {stack[place] for stack in stacks}) for place, text in enumerate(value)]
        return lambda stack: (
            len(stack) == len(value)
            and all(text in allowed for text, allowed in zip(stack, meant, strict=True))
        )
    return lambda having: bool(having == value)


def groups(specs: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return each group of repeats once: the specs without their repeat."""
    found: dict[str, dict[str, Any]] = {}
    for spec in specs:
        kept = {name: value for name, value in spec.items() if name != "repeat"}
        found[repr(kept)] = kept
    return list(found.values())


def listed(value: Any) -> list[Any]:
    """Return a list as it is, any other value as a list of one."""
    return value if isinstance(value, list) else [value]
