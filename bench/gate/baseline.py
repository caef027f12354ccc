"""What is kept of a run to hold later runs to: a store, or its export, small enough for git."""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import StoreError, UsageError
from bench.files import write_atomically
from bench.store import Record, Store

FORMAT = 1
NAME = "moatbench baseline"
KEPT = ("extraction.fidelity", "honest.", "contract.", "detection.")
"""Metrics that a comparison looks at, or how their names begin."""
TOLD = ("claims", "flags", "resolved", "drawn")
"""What else of a record's facts it needs."""
META = ("matrix", "matrix_text", "reference_budget", "sentinels", "victims", "versions", "machine", "commit")
"""What it needs of the run's."""


@dataclass(frozen=True)
class Baseline:
    """Records of a run with its facts; ``planned``: the specs that it was asked for and has no record of."""

    meta: Mapping[str, Any]
    records: Sequence[Record]
    planned: Sequence[Mapping[str, Any]]


def read(path: Path) -> Baseline:
    """Return the run in a store or in an exported baseline.

    Raises StoreError for a file that is neither, is damaged, or was written by a newer program.
    """
    if not path.is_file():
        raise StoreError(f"no file {path}; moatbench run makes a store, moatbench baseline exports one")
    with path.open("rb") as file:
        binary = file.read(16).startswith(b"SQLite format 3")
    return _of_store(path) if binary else _of_text(path)


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


def _of_text(path: Path) -> Baseline:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise StoreError(f"{path} is neither a store nor whole JSON ({error}); export it again") from error
    if not isinstance(told, dict) or told.get("format") != NAME:
        raise StoreError(f"{path} is no baseline of moatbench; moatbench baseline STORE --out F writes one")
    version = told.get("version")
    if not isinstance(version, int) or version > FORMAT:
        raise StoreError(f"{path} was written by a newer moatbench (format {version} > {FORMAT}); upgrade")
    try:
        records = [record for group in told["groups"] for record in _records(group)]
        found = Baseline(dict(told["meta"]), records, list(told["planned"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(f"{path} is damaged ({type(error).__name__}: {error}); export it again") from error
    if not records:
        raise StoreError(f"{path} has no results; export another run")
    return found


def _groups(records: Sequence[Record]) -> Iterator[dict[str, Any]]:
    """Give each group of repeats once: what they share, and what each repeat has of its own."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for record in records:
        spec = {name: value for name, value in record.spec.items() if name != "repeat"}
        place = (record.kind, json.dumps(spec, sort_keys=True))
        group = found.setdefault(place, {"kind": record.kind, "spec": spec, "repeats": []})
        group["repeats"].append(_of_record(record))
    for group in found.values():
        group["repeats"].sort(key=lambda each: each["repeat"])
        yield group


def _of_record(record: Record) -> dict[str, Any]:
    told: dict[str, Any] = {
        "repeat": record.spec.get("repeat", 0),
        "status": record.status,
        "metrics": {name: _plain(value) for name, value in record.metrics.items() if name.startswith(KEPT)},
        "info": {name: record.info[name] for name in TOLD if record.info.get(name)},
    }
    if taken := record.info.get("latency_us"):
        # To the next power of ten: what is finer differs from run to run.
        rounded = {batch: 10.0 ** round(math.log10(max(us, 0.1))) for batch, us in taken.items()}
        told["info"]["latency_us"] = rounded
    if "agreement" in record.arrays:
        hits = record.arrays["agreement"]
        told["inputs"] = int(hits.size)
        told["agreement"] = base64.b64encode(np.packbits(hits).tobytes()).decode()
    return told


def _plain(value: float | None) -> float | None:
    """Return a number that JSON has; ten digits are more than any comparison looks at."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.10g}")


def _records(group: Mapping[str, Any]) -> Iterator[Record]:
    kind, spec = str(group["kind"]), dict(group["spec"])
    if kind not in ("cell", "audit"):
        raise ValueError(f"a group of kind {kind!r}")
    if not group["repeats"]:
        raise ValueError("a group without repeats")
    for told in group["repeats"]:
        own = spec | {"repeat": int(told["repeat"])} if kind == "cell" else spec
        metrics = {str(name): _number(value) for name, value in told["metrics"].items()}
        arrays = {"agreement": _hits(told)} if "agreement" in told else {}
        yield Record("", kind, own, str(told["status"]), metrics, arrays, dict(told["info"]))


def _number(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no number")
    return float(value)


def _hits(told: Mapping[str, Any]) -> NDArray[np.uint8]:
    try:
        packed = np.frombuffer(base64.b64decode(told["agreement"], validate=True), dtype=np.uint8)
    except binascii.Error as error:
        raise ValueError(f"agreement: {error}") from error
    size = int(told["inputs"])
    if len(packed) != (size + 7) // 8:
        raise ValueError(f"agreement holds {len(packed)} bytes for {size} inputs")
    return np.unpackbits(packed, count=size)
