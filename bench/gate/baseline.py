"""The baseline of the regression gate: a store, or its JSON export, which is small enough for git."""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import pydantic
from numpy.typing import NDArray

from bench.errors import StoreError, UsageError
from bench.files import write_atomically
from bench.records import Record
from bench.store import Store

FORMAT = 1
NAME = "moatbench baseline"
METRICS = ("extraction.fidelity", "honest.", "contract.", "detection.")
"""Metrics that a comparison needs, or how their names begin."""
INFO = ("claims", "flags", "resolved", "drawn")
"""Keys of ``Record.info`` that a comparison needs."""
META = ("matrix", "matrix_text", "reference_budget", "sentinels", "victims", "versions", "machine", "commit")
"""Keys of the run's meta data that a comparison needs."""


@dataclass(frozen=True)
class Baseline:
    """Records and meta data of a run; ``planned``: specs that were planned and have no record."""

    meta: Mapping[str, Any]
    records: Sequence[Record]
    planned: Sequence[Mapping[str, Any]]


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


class ExportedRepeat(_Strict):
    """One record of a group: its results, and for a cell on which test inputs the surrogate agrees.

    ``agreement`` holds one bit for each of ``inputs`` test inputs, packed and in base64.
    """

    repeat: int
    status: str
    metrics: dict[str, pydantic.FiniteFloat | None]
    info: dict[str, Any]
    inputs: Annotated[int, pydantic.Field(ge=0)] = 0
    agreement: Annotated[bytes, pydantic.BeforeValidator(_decoded)] | None = None

    @pydantic.model_validator(mode="after")
    def _complete(self) -> Self:
        if self.agreement is not None and len(self.agreement) != (self.inputs + 7) // 8:
            raise ValueError(f"agreement holds {len(self.agreement)} bytes for {self.inputs} inputs")
        return self

    def arrays(self) -> dict[str, NDArray[np.uint8]]:
        """Return the agreement as an array (inputs,) of 0 and 1 by its name; empty if there is none."""
        if self.agreement is None:
            return {}
        packed = np.frombuffer(self.agreement, dtype=np.uint8)
        return {"agreement": np.unpackbits(packed, count=self.inputs)}


class ExportedGroup(_Strict):
    """Repeats of one cell or defense evaluation (kind "audit"), with the spec that they share."""

    kind: Literal["cell", "audit"]
    spec: dict[str, Any]
    repeats: Annotated[list[ExportedRepeat], pydantic.Field(min_length=1)]

    def records(self) -> Iterator[Record]:
        """Yield a record for each repeat."""
        for each in self.repeats:
            spec = self.spec | ({"repeat": each.repeat} if self.kind == "cell" else {})
            yield Record("", self.kind, spec, each.status, each.metrics, each.arrays(), each.info)


class Export(_Strict):
    """An exported baseline, the whole file. A change of these models needs a new ``FORMAT``."""

    format: str
    version: Literal[1]
    meta: dict[str, Any]
    planned: list[dict[str, Any]]
    groups: list[ExportedGroup]


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
    """Write a run as JSON: the same run gives the same bytes, a group of repeats is one line.

    Raises UsageError if the file is there, unless ``force``, and for a run without results.
    """
    if out.exists() and not force:
        raise UsageError(f"{out} is there already; --force writes over it")
    groups = [json.dumps(group, sort_keys=True, allow_nan=False) for group in _groups(baseline.records)]
    if not groups:
        raise UsageError("the run has no results to export; moatbench run makes some")
    head = {"format": NAME, "version": FORMAT, "meta": {name: baseline.meta.get(name) for name in META}}
    head["planned"] = [dict(spec) for spec in baseline.planned]
    text = json.dumps(head, sort_keys=True, allow_nan=False)
    lines = ",\n".join(sorted(groups))
    write_atomically(out, f'{text[:-1]}, "groups": [\n{lines}\n]}}\n')


def _of_store(path: Path) -> Baseline:
    with Store(path) as store:
        meta, records, missing = store.meta(), store.records(), store.missing()
    if not records:
        raise StoreError(f"{path} has no results; moatbench run makes some")
    return Baseline({name: meta.get(name) for name in META}, records, missing)


def _of_export(path: Path) -> Baseline:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise StoreError(f"{path} is neither a store nor complete JSON ({error}); export it again") from error
    if not isinstance(content, dict) or content.get("format") != NAME:
        raise StoreError(f"{path} is no baseline of moatbench; moatbench baseline STORE --out F writes one")
    version = content.get("version")
    if not isinstance(version, int) or version > FORMAT:
        raise StoreError(f"{path} was written by a newer moatbench (format {version} > {FORMAT}); upgrade")
    try:
        exported = Export.model_validate(content)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise StoreError(f"{path} is damaged ({where}: {first['msg'].lower()}); export it again") from error
    records = [record for group in exported.groups for record in group.records()]
    if not records:
        raise StoreError(f"{path} has no results; export another run")
    return Baseline(exported.meta, records, exported.planned)


def _groups(records: Sequence[Record]) -> Iterator[dict[str, Any]]:
    """Yield each group of repeats once: the shared spec, and the results of each repeat."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for record in records:
        spec = {name: value for name, value in record.spec.items() if name != "repeat"}
        key = (record.kind, json.dumps(spec, sort_keys=True))
        group = found.setdefault(key, {"kind": record.kind, "spec": spec, "repeats": []})
        group["repeats"].append(_of_record(record))
    for group in found.values():
        group["repeats"].sort(key=lambda each: each["repeat"])
        yield group


def _of_record(record: Record) -> dict[str, Any]:
    metrics = {name: _plain(value) for name, value in record.metrics.items() if name.startswith(METRICS)}
    exported: dict[str, Any] = {
        "repeat": record.spec.get("repeat", 0),
        "status": record.status,
        "metrics": metrics,
        "info": {name: record.info[name] for name in INFO if record.info.get(name)},
    }
    if taken := record.info.get("latency_us"):
        # To the next power of ten: finer differences occur between runs of the same code.
        rounded = {batch: 10.0 ** round(math.log10(max(us, 0.1))) for batch, us in taken.items()}
        exported["info"]["latency_us"] = rounded
    if "agreement" in record.arrays:
        agreement = record.arrays["agreement"]
        exported["inputs"] = int(agreement.size)
        exported["agreement"] = base64.b64encode(np.packbits(agreement).tobytes()).decode()
    return exported


def _plain(value: float | None) -> float | None:
    """Return ``value`` with ten digits, more than any comparison needs; None if JSON has no such number."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.10g}")
