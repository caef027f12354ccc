"""The export: one tidy table, equal in all formats, with columns that METHOD lists."""

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pyarrow import parquet
from records import AUDITS, INSIDE, NONE, SOFT, cell, failed

from bench.errors import UsageError
from bench.metrics.definitions import METRICS
from bench.records import Info
from bench.report.export import COLUMNS, SCHEMA_VERSION, export, table

ROOT = Path(__file__).parents[2]
RUN = (*AUDITS, cell(INSIDE, NONE, SOFT, 50, 0, flags=["still_moving"]), cell(INSIDE, NONE, SOFT, 50, 1))
FAILED = failed(cell(INSIDE, NONE, SOFT, 200, 0), 'ValueError: two\nlines, "quoted"; and =SUM(1)')
READERS = {
    ".parquet": pd.read_parquet,
    ".csv": pd.read_csv,
    ".json": lambda path: pd.DataFrame(json.loads(path.read_text())["rows"]),
}


def exported(path, records=(*RUN, FAILED), missing=()):
    export(records, path, missing)
    return READERS[path.suffix](path)


@pytest.mark.parametrize("suffix", READERS)
def test_each_metric_of_each_task_is_one_row(tmp_path, suffix):
    rows = exported(tmp_path / f"run{suffix}", missing=[cell(INSIDE, NONE, SOFT, 800, 0).task])
    assert list(rows.columns) == [column.name for column in COLUMNS]
    assert set(rows.schema_version) == {SCHEMA_VERSION}
    for record in RUN:
        own = rows[rows.key == record.key]
        own = own[~own.metric.str.startswith("latency.")]
        expected = {name: value for name, value in record.metrics.items() if value is not None}
        assert dict(own.dropna(subset=["value"]).set_index("metric")["value"]) == pytest.approx(expected)
        assert set(own.metric) == set(record.metrics)
    (broken,) = rows[rows.status == "failed"].to_dict("records")
    assert (broken["error"], broken["budget"]) == (FAILED.error, 200)
    (absent,) = rows[rows.status == "missing"].to_dict("records")
    assert (absent["attack"], absent["budget"]) == (SOFT, 800)
    evaluations = rows[rows.kind == "defense evaluation"]
    assert evaluations[["attack", "budget", "repeat", "confirmation"]].isna().all(axis=None)


def test_a_row_has_the_interval_the_unit_and_the_costs_that_are_stored(tmp_path):
    rows = exported(tmp_path / "run.parquet")
    lost = rows[(rows.metric == "honest.accuracy_lost") & rows.defense.str.startswith("mahalanobis")].iloc[0]
    assert (lost.value, lost.low, lost.high) == pytest.approx((0.045, 0.035, 0.055))
    assert lost.unit == "difference of fractions"
    fidelity = rows[rows.metric == "extraction.fidelity"].iloc[0]
    assert (fidelity.unit, fidelity.sent, fidelity.warnings) == ("fraction", 50, "still_moving")
    assert fidelity.seconds == pytest.approx(0.542)
    latency = rows[rows.metric == "latency.256"].iloc[0]
    assert (latency.value, latency.unit) == (0.4, "µs")


def test_disagreement_of_repeats_is_in_the_rows_of_each_of_them(tmp_path):
    labels = np.zeros((2, 300), np.uint8)
    labels[1, :30] = 7
    repeats = [
        replace(
            made := cell(INSIDE, NONE, SOFT, 50, repeat),
            arrays=made.arrays | {"surrogate_label": labels[repeat]},
        )
        for repeat in range(2)
    ]
    rows = exported(tmp_path / "run.parquet", [*AUDITS, *repeats, cell(INSIDE, NONE, SOFT, 200, 0)])
    for metric in ("extraction.ambiguity", "extraction.discrepancy"):
        found = rows[rows.metric == metric]
        assert sorted(found.repeat) == [0, 1]
        assert (found.value == 0.1).all()
        assert found.low.between(0.06, 0.1).all()
        assert found.high.between(0.1, 0.15).all()
        assert set(found.unit) == {"fraction"}
    own = rows[rows.key == repeats[0].key].metric
    assert list(own) == sorted(own)


def test_parquet_has_types_and_says_what_columns_mean(tmp_path):
    export(RUN, tmp_path / "run.parquet")
    schema = parquet.read_schema(tmp_path / "run.parquet")
    assert schema.metadata[b"moatbench.schema_version"] == str(SCHEMA_VERSION).encode()
    for column in COLUMNS:
        field = schema.field(column.name)
        expected = {"text": "string", "integer": "int64", "number": "double", "boolean": "bool"}
        assert str(field.type) == expected[column.type]
        assert field.metadata[b"meaning"].decode() == column.meaning


@pytest.mark.parametrize("suffix", READERS)
def test_equal_records_give_equal_bytes(tmp_path, suffix):
    for name in ("a", "b"):
        export((*RUN, FAILED), tmp_path / f"{name}{suffix}")
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_a_run_without_records_has_columns_and_no_row(tmp_path):
    for suffix in READERS:
        assert len(exported(tmp_path / f"none{suffix}", records=())) == 0
    assert table([]).column_names == [column.name for column in COLUMNS]


def test_text_without_utf_8_and_values_that_are_none_are_written(tmp_path):
    info = Info(intervals={"extraction.fidelity": [float("nan"), float("inf")]})
    odd = replace(RUN[-1], error="caf\udce9.py", info=info)
    for suffix in READERS:
        (row,) = exported(tmp_path / f"odd{suffix}", [odd]).query("metric == 'extraction.fidelity'").iloc
        assert row["error"] == "caf\\udce9.py"
        assert pd.isna(row["low"])
        assert pd.isna(row["high"])


@pytest.mark.parametrize("name", ["run", "run.xlsx", "run.parquet.gz", ".csv"])
def test_another_suffix_is_one_sentence_that_names_those_allowed(tmp_path, name):
    with pytest.raises(UsageError, match=r"\.parquet, \.csv or \.json") as raised:
        export(RUN, tmp_path / name)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / name).exists()


def test_method_lists_every_column_with_its_type_and_unit():
    text = (ROOT / "METHOD.md").read_text().split("## Exported results", 1)[1].split("\n## ", 1)[0]
    listed = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) \| (.*?) \|$", text, re.MULTILINE)
    assert listed == [(each.name, each.type, each.unit or "–", each.meaning) for each in COLUMNS]
    assert f"version {SCHEMA_VERSION}" in text


def test_published_columns_stay_the_first_ones_of_their_version():
    """Another change of them needs a new version: raise SCHEMA_VERSION, then this list."""
    assert SCHEMA_VERSION == 1
    names = "schema_version kind key status victim data splits victim_seed defense pool access knowledge "
    names += "surrogate shows attack training budget repeat repeats seed confirmation metric value unit low "
    names += "high standard_error sent answered rejected flagged warnings seconds cpu_seconds memory error"
    assert [column.name for column in COLUMNS][: len(names.split())] == names.split()


def test_every_defined_unit_has_a_word():
    from bench.report.export import _unit

    known = {"fraction", "difference of fractions", "nats", ""}
    assert {_unit(name.replace("*", "noise")) for name in METRICS} <= known | {"queries"}


def test_csv_quotes_every_text(tmp_path):
    export([FAILED], tmp_path / "run.csv")
    assert list(pd.read_csv(io.StringIO((tmp_path / "run.csv").read_text())).error) == [FAILED.error]
