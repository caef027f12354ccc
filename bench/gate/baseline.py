"""The baseline of the regression gate: a store, or its JSON export, which is small enough for git."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import pydantic
from numpy.typing import NDArray

from bench.analysis.label_weights import LABELS, imbalanced_victims, victim_labels
from bench.analysis.threat_models import victim_of
from bench.errors import StoreError, UsageError
from bench.files import write_atomically
from bench.records import Costs, Info, Record, Status, kind_of, task_of
from bench.run_facts import Meta
from bench.store import Store
from bench.tasks import Cell, Task

log = logging.getLogger(__name__)

FORMAT = 3
"""Version of the file. Files of versions 1, which has no checksum, and 2 are still read."""
NAME = "moatbench baseline"
EXPORTED_METRICS = ("extraction.fidelity", "honest.", "contract.", "detection.")
"""Metrics that a comparison needs, or how their names begin."""
EXPORTED_ARRAYS = ("agreement", "flagged.")
"""Arrays that a comparison needs, or how their names begin."""
SHARES = {"honest.accuracy", "honest.accuracy_undefended", "honest.top1_kept"}
"""Metrics of a defense evaluation that are shares, as all fidelities are."""
INFO = {
    "claims",
    "flags",
    "resolved",
    "drawn",
    "predicates",
    "independence",
    "retrained",
    "broken_claim",
}
"""Fields of ``Record.info`` that a comparison needs."""
META = {"matrix", "matrix_text", "reference_budget", "sentinels", "victims", "versions", "machine", "commit"}
"""Fields of the run's meta data that a comparison needs."""


@dataclass(frozen=True)
class Baseline:
    """Records and meta data of a run; ``planned``: tasks that were planned and have no record.

    ``balanced``: the victims whose fidelity is balanced fidelity, as an export says; None where the records
    decide.
    """

    meta: Meta
    records: Sequence[Record]
    planned: Sequence[Task]
    balanced: tuple[str, ...] | None = None

    def without_confirmation(self) -> Baseline:
        """Return the run without its confirmation run, whose cells depend on what was selected."""
        return Baseline(
            self.meta,
            [each for each in self.records if not _confirms(each.task)],
            [task for task in self.planned if not _confirms(task)],
            self.balanced,
        )


def _confirms(task: Task) -> bool:
    return isinstance(task, Cell) and task.confirmation


def _decoded(text: Any) -> Any:
    if not isinstance(text, str):
        return text
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"no base64: {error}") from error


class _Strict(pydantic.BaseModel):
    # What a newer version adds is left out; a newer format is refused by its number.
    model_config = pydantic.ConfigDict(extra="ignore", strict=True)


class PackedBits(_Strict):
    """An array (size,) of 0 and 1; ``bits``: packed, and in base64."""

    size: Annotated[int, pydantic.Field(ge=0)]
    bits: Annotated[bytes, pydantic.BeforeValidator(_decoded)]

    @classmethod
    def of(cls, array: NDArray[np.uint8]) -> Self:
        """Return an array of 0 and 1, packed."""
        return cls(size=int(array.size), bits=np.packbits(array).tobytes())

    @pydantic.model_validator(mode="after")
    def _complete(self) -> Self:
        if len(self.bits) != (self.size + 7) // 8:
            raise ValueError(f"an array holds {len(self.bits)} bytes for {self.size} inputs")
        return self

    @pydantic.field_serializer("bits")
    def _encoded(self, bits: bytes) -> str:
        return base64.b64encode(bits).decode()

    def array(self) -> NDArray[np.uint8]:
        """Return the array."""
        return np.unpackbits(np.frombuffer(self.bits, dtype=np.uint8), count=self.size)


class PackedLabels(_Strict):
    """An array of class numbers up to 255; ``labels``: a byte each, in base64."""

    labels: Annotated[bytes, pydantic.BeforeValidator(_decoded)]

    @classmethod
    def of(cls, array: NDArray[np.uint8]) -> Self:
        """Return an array of class numbers, packed."""
        return cls(labels=array.astype(np.uint8).tobytes())

    @pydantic.field_serializer("labels")
    def _encoded(self, labels: bytes) -> str:
        return base64.b64encode(labels).decode()

    def array(self) -> NDArray[np.uint8]:
        """Return the array."""
        return np.frombuffer(self.labels, dtype=np.uint8)


class ExportedRepeat(_Strict):
    """One record of a group: its results.

    ``arrays``: by name, for a cell on which test inputs the surrogate agrees ("agreement"), for a defense
    evaluation which inputs it flags ("flagged.POOL"). ``victim_label``: the victim's labels of the test
    inputs, once for each victim whose fidelity is balanced fidelity.
    """

    repeat: Annotated[int, pydantic.Field(ge=0)]
    status: Status
    metrics: dict[str, pydantic.FiniteFloat | None]
    info: Info
    costs: Costs = Costs()
    arrays: dict[str, PackedBits] = {}
    victim_label: PackedLabels | None = None

    @classmethod
    def of(cls, record: Record, *, labels: bool = False) -> Self:
        """Return what a comparison needs of a record, numbers with ten digits; ``labels``: those as well."""
        metrics = {
            name: _plain(value) for name, value in record.metrics.items() if name.startswith(EXPORTED_METRICS)
        }
        info = {name: value for name, value in record.info.values().items() if name in INFO and value}
        found: dict[str, Any] = {"metrics": metrics, "info": Info(**info)}
        if taken := record.costs.latency_us:
            # To the next power of ten: finer differences occur between runs of the same code.
            rounded = {batch: 10.0 ** round(math.log10(max(us, 0.1))) for batch, us in taken.items()}
            found["costs"] = Costs(latency_us=rounded)
        arrays = {
            name: PackedBits.of(array)
            for name, array in record.arrays.items()
            if name.startswith(EXPORTED_ARRAYS)
        }
        if arrays:
            found["arrays"] = arrays
        if labels:
            found["victim_label"] = PackedLabels.of(record.arrays[LABELS])
        return cls(repeat=record.repeat, status=record.status, **found)

    @pydantic.model_validator(mode="after")
    def _has_shares(self) -> Self:
        for name, value in self.metrics.items():
            if value is not None and _is_share(name) and not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}, which is no share in [0, 1]")
        return self


class ExportedGroup(_Strict):
    """Repeats of one cell or defense evaluation (kind "audit"), with the spec that they share."""

    kind: Literal["cell", "audit"]
    spec: dict[str, Any]
    repeats: Annotated[list[ExportedRepeat], pydantic.Field(min_length=1)]

    def records(self) -> Iterator[Record]:
        """Yield a record for each repeat."""
        for each in self.repeats:
            spec = self.spec | ({"repeat": each.repeat} if self.kind == "cell" else {})
            task = task_of(self.kind, spec)
            arrays = {name: bits.array() for name, bits in each.arrays.items()}
            if each.victim_label is not None:
                arrays[LABELS] = each.victim_label.array()
            yield Record("", task, each.status, each.metrics, arrays, each.info, each.costs)


class Export(_Strict):
    """An exported baseline, the whole file. A change of these models needs a new ``FORMAT``.

    ``checksum``: of everything else in the file, however it is laid out.
    """

    format: str
    version: Literal[1, 2, 3]
    checksum: str = ""
    meta: Meta
    planned: list[dict[str, Any]]
    groups: list[ExportedGroup]

    def baseline(self) -> Baseline:
        """Return the run; raises ValueError for a spec that is none, and for two results of one task."""
        records = [record for group in self.groups for record in group.records()]
        for task, times in Counter(record.task for record in records).items():
            if times > 1:
                raise ValueError(f"it has {times} results of {task.kind} {json.dumps(task.spec())}")
        planned = [task_of(kind_of(spec), spec) for spec in self.planned]
        return Baseline(self.meta, records, planned, tuple(victim_labels(records)))


def read(path: Path) -> Baseline:
    """Return the run in a store or in an exported baseline.

    Raises StoreError for a file that is neither, is damaged, or was written by a newer program.
    """
    if not path.is_file():
        raise StoreError(f"no file {path}; moatbench run makes a store, moatbench baseline exports one")
    with path.open("rb") as file:
        binary = file.read(16).startswith(b"SQLite format 3")
    return _of_store(path) if binary else _of_export(path)


def export(baseline: Baseline, out: Path, *, force: bool = False) -> None:
    """Write a run as JSON, without its confirmation run: the same run gives the same bytes.

    A group of repeats is one line. Raises UsageError if the file is there, unless ``force``, and for a run
    without results.
    """
    if out.exists() and not force:
        raise UsageError(f"{out} is there already; --force writes over it")
    baseline = baseline.without_confirmation()
    groups = [each.model_dump(exclude_unset=True) for each in _groups(baseline.records)]
    if not groups:
        raise UsageError("the run has no results to export; moatbench run makes some")
    lost = len(baseline.planned) + sum(record.status == "failed" for record in baseline.records)
    if lost:
        log.warning("warning: %d results failed or are missing; the gate cannot compare them", lost)
    meta = {name: value for name, value in baseline.meta.values().items() if name in META}
    head = {"format": NAME, "version": FORMAT, "meta": meta}
    head["planned"] = [task.spec() for task in baseline.planned]
    lines = sorted(json.dumps(group, sort_keys=True, allow_nan=False) for group in groups)
    head["checksum"] = _checksum(head | {"groups": [json.loads(line) for line in lines]})
    text = json.dumps(head, sort_keys=True, allow_nan=False)
    body = ",\n".join(lines)
    write_atomically(out, f'{text[:-1]}, "groups": [\n{body}\n]}}\n')


def _checksum(content: Mapping[str, Any]) -> str:
    """Return the checksum of an exported baseline's content, without the checksum in it."""
    rest = {name: value for name, value in content.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _of_store(path: Path) -> Baseline:
    with Store(path) as store:
        meta, records, missing = store.meta(), store.records(), store.missing()
    if not records:
        raise StoreError(f"{path} has no results; moatbench run makes some")
    return Baseline(meta, records, missing)


def _of_export(path: Path) -> Baseline:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(f"{path} is neither a store nor complete JSON ({error}); export it again") from error
    if not isinstance(content, dict) or content.get("format") != NAME:
        raise StoreError(f"{path} is no baseline of moatbench; moatbench baseline STORE --out F writes one")
    version = content.get("version")
    if isinstance(version, int) and version > FORMAT:
        raise StoreError(f"{path} was written by a newer moatbench (format {version} > {FORMAT}); upgrade")
    if version != 1 and content.get("checksum") != _checksum(content):
        raise StoreError(f"{path} is damaged (it does not match its checksum); export it again")
    try:
        baseline = Export.model_validate(_upgraded(content)).baseline()
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise StoreError(f"{path} is damaged ({where}: {first['msg'].lower()}); export it again") from error
    except ValueError as error:
        raise StoreError(f"{path} is damaged ({error}); export it again") from error
    if not baseline.records:
        raise StoreError(f"{path} has no results; export another run")
    return baseline


def _upgraded(content: dict[str, Any]) -> dict[str, Any]:
    """Return a file's content as this format has it.

    Up to format 2 a repeat has one array, ``agreement``, of ``inputs`` values. Format 1 has latencies in
    ``info``, and null for what the run did not know.
    """
    version = content.get("version")
    if version == 1 and isinstance(meta := content.get("meta"), dict):
        content["meta"] = {name: value for name, value in meta.items() if value is not None}
    for each in _repeats(content):
        if version in (1, 2) and each.get("agreement") is not None:
            each["arrays"] = {"agreement": {"size": each.get("inputs", 0), "bits": each["agreement"]}}
        if version == 1 and isinstance(info := each.get("info"), dict) and "latency_us" in info:
            each["costs"] = {"latency_us": info["latency_us"]}
    return content


def _repeats(content: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield all repeats of a file's content, which may be damaged."""
    for group in groups if isinstance(groups := content.get("groups"), list) else ():
        repeats = group.get("repeats") if isinstance(group, dict) else None
        yield from (each for each in (repeats if isinstance(repeats, list) else ()) if isinstance(each, dict))


def _groups(records: Sequence[Record]) -> Iterator[ExportedGroup]:
    """Yield each group of repeats once: the shared spec, and the results of each repeat."""
    found: dict[Task, list[Record]] = {}
    for record in records:
        task = record.task
        found.setdefault(replace(task, repeat=0) if isinstance(task, Cell) else task, []).append(record)
    imbalanced = set(imbalanced_victims(records))
    for task, group in found.items():
        spec = {name: value for name, value in task.spec().items() if name != "repeat"}
        kind: Literal["cell", "audit"] = "cell" if isinstance(task, Cell) else "audit"
        labelled = victim_of(task) in imbalanced and LABELS in group[0].arrays
        if labelled:
            imbalanced.remove(victim_of(task))  # once is enough
        ordered = sorted(group, key=lambda each: each.repeat)
        repeats = [
            ExportedRepeat.of(record, labels=labelled and LABELS in record.arrays) for record in ordered
        ]
        yield ExportedGroup(kind=kind, spec=spec, repeats=repeats)


def _is_share(metric: str) -> bool:
    return metric.startswith("extraction.fidelity") or metric in SHARES


def _plain(value: float | None) -> float | None:
    """Return ``value`` with ten digits, more than any comparison needs; None if JSON has no such number."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.10g}")
