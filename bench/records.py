"""Records: what is stored, exported and sent between processes, as types with one writer and one reader.

A field that no record has to have has a default, which is what records without it mean. Fields that a newer
version may have added are ignored. Metrics are an open mapping of names to numbers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
import pydantic
from numpy.typing import NDArray

from bench.tasks import Cell, DefenseEvaluation, Task, ThreatModel, VictimSpec, architecture_and_splits

Status = Literal["ok", "failed", "not_applicable"]
Metrics = dict[str, float | None]
Arrays = dict[str, NDArray[np.uint8]]

SURROGATE_LABEL = "surrogate_label"
"""Array of an extraction cell: the surrogate's label of every test input; missing above 256 classes."""


class Typed(pydantic.BaseModel):
    """Base of the records. Only fields that were set are written, so that readers see what a run knew."""

    model_config = pydantic.ConfigDict(frozen=True, extra="ignore")

    def values(self) -> dict[str, Any]:
        """Return the fields that were set, as JSON values."""
        return self.model_dump(exclude_unset=True)

    def as_json(self) -> str:
        """Return the fields that were set, as JSON; NaN and infinity as Python writes them."""
        return json.dumps(self.values())

    def with_values(self, **values: Any) -> Self:
        """Return a copy with some fields changed, all checked again."""
        return self.model_validate(self.values() | values)


class QueryCounts(Typed):
    """What an attack sent to the API: all inputs, those answered, those rejected, those flagged."""

    sent: int
    answered: int
    refused: int
    flagged: int


class AttackDeclarations(Typed):
    """What an attack declares: the knowledge it can use, and whether it claims to match all others.

    ``simulates``: whether it adapts to any defense that it can simulate.
    """

    knowledge: list[str] = pydantic.Field(default_factory=list)
    universal: bool = False
    simulates: bool = False


class ClaimsRecord(Typed):
    """What a stack of defenses claims, as :class:`defenses.base.Claims`; False where a record lacks it.

    ``one_hot`` is None in records that were written before it was claimed.
    """

    keeps_label: bool = False
    ties: bool = False
    distribution: bool = False
    normalises: bool = False
    one_hot: bool | None = None
    stochastic: bool = False
    consistent_noise: bool = False
    continuous: bool = False
    counts_queries: bool = False
    may_refuse: bool = False
    may_flag: bool = False


class PredicateRecord(Typed):
    """What came of a predicate that a defense claims of every answer.

    ``worst``: the largest violation; up to ``tolerance`` the predicate holds. ``broken``: how many of the
    ``answers`` that were checked exceed it.
    """

    worst: float
    broken: int
    answers: int
    tolerance: float = 0.0


class AdaptationRecord(Typed):
    """Whether what an attack knows of the defense changes what it queries or learns.

    ``differs``: whether its transfer set (queries or targets) differs from that of the same attack with the
    same seeds that knows nothing; an attack that always has to know something is told that there is no
    defense. ``reason``: why they need not differ, in a clause, for example that answers are labels alone, or
    that the attack evaluated an inverse and did not keep it; empty without. Of repeat 0, and the same in the
    records of all repeats.
    """

    differs: bool
    reason: str = ""

    @property
    def proven(self) -> bool:
        """Whether the attack is adaptive, by its queries and targets or by a reason."""
        return self.differs or bool(self.reason)


class IndependenceRecord(Typed):
    """Whether noise is drawn anew: how far residuals of the same input agree where one thing differs.

    ``agreement``: their correlation, 0 if they are independent. ``chance``: the one-sided p-value of it, by
    permutation. ``inputs``: number of inputs. ``equal``: how many answers are equal to the bit; None where
    noise is discrete, so that coincidences are normal.
    """

    agreement: float
    chance: float
    inputs: int
    equal: int | None = None


# Records without them share these: making one for each takes as long as reading all the rest.
_UNDECLARED = AttackDeclarations()
_NO_CLAIMS = ClaimsRecord()


class Info(Typed):
    """What a record says besides its metrics; equal to the bit in two runs of one task.

    Cells: ``queries``; ``learnt``, the size of the transfer set; ``steps`` of training, the ``rows`` that
    the network evaluated in them, and, of a semi-supervised one, how many ``unlabelled`` inputs it had;
    ``flags``, the reliability warnings; ``attack``, what it declares; of an extraction the ``confusion``
    matrix (true class, surrogate's class) and, where knowledge is not "none", its ``adaptation``; of
    membership inference the standard ``errors`` of metrics and the ``roc`` as [false-positive rate,
    true-positive rate]
    pairs.

    Defense evaluations: 95 % ``intervals`` by metric; ``drawn``, the value of each repeat by metric, where
    noise is drawn; ``claims``; ``resolved``, the defense that was found for one given by its utility loss;
    ``known_by``, the attacks that are declared to know each defense, by its plugin; ``predicates``, what came
    of each that the stack claims, by its name with parameters; ``independence`` of noise across "queries",
    "repeats", "clients" and "inputs"; ``retrained``, the value of each metric for each victim that was
    trained anew by the same recipe with other rounding errors.

    Failures: the ``traceback``; ``broken_claim``, the name of a claim that answers broke, if that was it.
    """

    queries: QueryCounts | None = None
    learnt: int | None = None
    steps: int | None = None
    rows: int | None = None
    unlabelled: int | None = None
    flags: list[str] = pydantic.Field(default_factory=list)
    attack: AttackDeclarations = pydantic.Field(default_factory=lambda: _UNDECLARED)
    confusion: list[list[int]] | None = None
    adaptation: AdaptationRecord | None = None
    errors: dict[str, float | None] = pydantic.Field(default_factory=dict)
    roc: list[list[float]] = pydantic.Field(default_factory=list)
    intervals: dict[str, list[float]] = pydantic.Field(default_factory=dict)
    drawn: dict[str, list[float]] = pydantic.Field(default_factory=dict)
    claims: ClaimsRecord = pydantic.Field(default_factory=lambda: _NO_CLAIMS)
    resolved: dict[str, str] = pydantic.Field(default_factory=dict)
    known_by: dict[str, list[str]] = pydantic.Field(default_factory=dict)
    predicates: dict[str, PredicateRecord] = pydantic.Field(default_factory=dict)
    independence: dict[str, IndependenceRecord] = pydantic.Field(default_factory=dict)
    retrained: dict[str, list[float]] = pydantic.Field(default_factory=dict)
    traceback: str | None = None
    broken_claim: str | None = None


EVALUATION = "evaluation"
"""The name of a defense evaluation's seconds among its costs."""


class Costs(Typed):
    """What differs between two runs of one task.

    Wall and CPU ``seconds`` by part of the cell; whether its training was ``shared``; the peak
    ``memory_mib``; ``latency_us``: microseconds that a defense adds to a query, by batch size;
    ``undone``: what plugins changed of the process' settings, a sentence each.
    """

    seconds: dict[str, float] = pydantic.Field(default_factory=dict)
    cpu_seconds: dict[str, float] = pydantic.Field(default_factory=dict)
    shared: bool = False
    memory_mib: float | None = None
    latency_us: dict[str, float] = pydantic.Field(default_factory=dict)
    undone: list[str] = pydantic.Field(default_factory=list)


@dataclass(frozen=True)
class Outcome:
    """The result of a task. ``arrays`` hold 0 and 1, or labels below 256; ``costs`` differ from run to run.

    Raises ValueError for a metric that is NaN or infinite: what cannot be measured is None.
    """

    metrics: Metrics
    arrays: Arrays = field(default_factory=dict)
    info: Info = field(default_factory=Info)
    costs: Costs = field(default_factory=Costs)

    def __post_init__(self) -> None:
        for name, value in self.metrics.items():
            if value is not None and not math.isfinite(value):
                raise ValueError(
                    f"metric {name} is {value}; a metric must be a finite number, "
                    "or None where it cannot be measured"
                )


@dataclass(frozen=True)
class Record:
    """A task's result as it is stored. ``error``: why there is none, in a sentence."""

    key: str
    task: Task
    status: Status
    metrics: Metrics = field(default_factory=dict)
    arrays: Arrays = field(default_factory=dict)
    info: Info = field(default_factory=Info)
    costs: Costs = field(default_factory=Costs)
    error: str | None = None

    @property
    def kind(self) -> str:
        """The kind of the task: "cell" or "audit"."""
        return self.task.kind

    @property
    def cell(self) -> Cell:
        """The task of a cell; raises TypeError for a defense evaluation."""
        if not isinstance(self.task, Cell):
            raise TypeError(f"the record of a defense evaluation, {self.key}, has no cell")
        return self.task

    @property
    def repeat(self) -> int:
        """The repeat of a cell; 0 for a defense evaluation."""
        return self.task.repeat if isinstance(self.task, Cell) else 0

    @cached_property
    def spec(self) -> dict[str, Any]:
        """The task as JSON values."""
        return self.task.spec()

    def comparable(self) -> tuple[Any, ...]:
        """Return everything that must be equal bit for bit in two runs of the same task."""
        arrays = {name: value.tobytes() for name, value in self.arrays.items()}
        info = self.info.values()
        return self.key, self.kind, self.spec, self.status, self.metrics, arrays, info, self.error


@dataclass(frozen=True)
class PlannedTask:
    """A task of a plan, or of a record that is stored already.

    ``ingredients``: what went into the key, a digest or a text by name; empty for records of stores that
    were written before ingredients were kept.
    """

    key: str
    task: Task
    ingredients: Mapping[str, str] = field(default_factory=dict)


_TASKS: dict[str, pydantic.TypeAdapter[Any]] = {
    task.kind: pydantic.TypeAdapter(task) for task in (Cell, DefenseEvaluation)
}
_AXES = tuple(axis.name for axis in fields(ThreatModel))


def task_of(kind: str, spec: Mapping[str, Any]) -> Task:
    """Return the task that ``task.spec()`` wrote; ``kind``: "cell" or "audit".

    Raises ValueError for anything else. Stores written before there were splits have the victim's name alone.
    """
    if kind not in _TASKS:
        raise ValueError(f"no task is of kind {kind!r}")
    values = dict(spec)
    name, data = str(values.pop("victim", "")), str(values.get("data", ""))
    architecture, splits = architecture_and_splits(name, data)
    values["victim"] = {
        "data": values.pop("data", None),
        "architecture": architecture,
        "seed": values.pop("victim_seed", 0),
        "splits": values.pop("splits", splits),
    }
    if kind == Cell.kind:
        values["threat"] = {axis: values.pop(axis, None) for axis in _AXES}
    task: Task = _TASKS[kind].validate_python(values)
    return task


def kind_of(spec: Mapping[str, Any]) -> str:
    """Return the kind of the task that has this spec."""
    return Cell.kind if "attack" in spec else DefenseEvaluation.kind


def victim_name(victim: VictimSpec) -> str:
    """Return the victim's name with its splits, and with its seed where that is not 0."""
    return victim_identity(str(victim), victim.seed)


def victim_identity(name: str, seed: int) -> str:
    """Return a victim's name, in which its splits stand, with its seed where that is not 0."""
    return f"{name} (seed {seed})" if seed else name
