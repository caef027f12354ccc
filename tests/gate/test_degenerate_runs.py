"""The gate decides, or says that it cannot, with single repeats, no variance or undefined metrics."""

import json
import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.gate import render
from bench.gate.baseline import Baseline
from bench.gate.command import exit_code
from bench.gate.compare import compare
from bench.gate.decisions import decide, repeats_needed
from bench.gate.rows import Decision, RowKind
from bench.gate.spread import noise_error
from bench.metrics.pooled_difference import Contrast, Prior
from bench.records import Costs, Info, Record, task_of
from bench.run_facts import Meta

SPEC = {"victim": "digits/mlp", "victim_seed": 0, "data": "digits", "splits": "disjoint", "seed": 0}
THREAT = {"pool": "p", "access": "near", "knowledge": "none", "surrogate": "mlp", "shows": "probabilities"}
MANY = settings(max_examples=60, deadline=None, derandomize=True, database=None)
NUMBERS = st.none() | st.floats(-1, 2) | st.sampled_from([math.nan, math.inf, -math.inf, 0.0])


def cells(hits, defense="top_k(k=1)", repeats=1, inputs=30):
    """One attack's repeats; repeat r agrees with the victim on ``hits[r]`` of the inputs."""
    made = []
    for repeat in range(repeats):
        spec = SPEC | THREAT | {"defense": [defense], "attack": "labels", "budget": 50, "training": "rule"}
        spec |= {"repeat": repeat, "repeats": repeats}
        agreement = (np.arange(inputs) < hits[repeat]).astype(np.uint8)
        metrics = {"extraction.fidelity": float(agreement.mean())}
        made.append(Record("", task_of("cell", spec), "ok", metrics, {"agreement": agreement}))
    return made


def evaluation(drawn=None, latency=3.0, **metrics):
    spec = SPEC | {"defense": ["top_k(k=1)"], "pools": [], "repeats": 2}
    costs = Costs(latency_us={"1": 80.0, "256": latency})
    values = {"honest.accuracy": 0.9} | {name.replace("__", "."): value for name, value in metrics.items()}
    return Record("", task_of("audit", spec), "ok", values, {}, Info(drawn=drawn or {}), costs)


def compared(before, after):
    meta = Meta(matrix="made")
    comparison = compare(*(Baseline(meta, records, []) for records in (before, after)))
    assert exit_code(comparison, strict=True) in (0, 1, 3)
    json.loads(render.as_json(comparison))
    assert render.summary(comparison)
    assert render.terminal(comparison)
    return comparison


@MANY
@given(
    hits=st.lists(st.integers(0, 30), min_size=6, max_size=6),
    repeats=st.integers(1, 3),
    paired=st.booleans(),
)
def test_every_pair_of_runs_gets_a_decision(hits, repeats, paired):
    """Paired: both runs hold the same undefended surrogates."""
    anchor = cells([20, 22, 21], "none", repeats) if paired else []
    rows = compared(
        [*anchor, *cells(hits[:3], repeats=repeats), evaluation()],
        [*anchor, *cells(hits[3:], repeats=repeats), evaluation()],
    ).rows
    assert RowKind.strength in {row.kind for row in rows}


def test_a_single_repeat_is_inconclusive_and_says_why():
    comparison = compared(
        [*cells([400], inputs=2000), evaluation()], [*cells([401], inputs=2000), evaluation()]
    )
    row = next(row for row in comparison.rows if row.kind is RowKind.strength)
    assert row.decision is Decision.cannot_tell
    assert "single repeat" in row.note


@MANY
@given(before=NUMBERS, after=NUMBERS, noise=st.booleans())
def test_every_pair_of_metrics_gets_a_decision(before, after, noise):
    drawn = [
        {"honest.nll": [value, value + 0.1]} if noise and value is not None else {}
        for value in (before, after)
    ]
    old, new = (
        evaluation(draws, honest__nll=value, contract__entropy=value)
        for draws, value in zip(drawn, (before, after), strict=True)
    )
    rows = {row.what: row for row in compared([old], [new]).rows}
    known = [value is not None and math.isfinite(value) for value in (before, after)]
    if known[0] != known[1]:
        assert rows["negative log-likelihood"].decision is Decision.missing
        assert rows["entropy (nats)"].decision is Decision.changed


@pytest.mark.parametrize(("before", "after"), [(0.2, math.nan), (math.nan, 0.2), (0.2, math.inf)])
def test_a_metric_that_became_undefined_is_not_the_same(before, after):
    comparison = compared([evaluation(honest__nll=before)], [evaluation(honest__nll=after)])
    assert exit_code(comparison) == 3
    (row,) = comparison.of(Decision.missing)
    assert row.what == "negative log-likelihood"


@pytest.mark.parametrize("latency", [0.0, -1.0, math.nan, math.inf])
def test_a_latency_that_is_no_positive_number_does_not_stop_the_comparison(latency):
    compared([evaluation()], [evaluation(latency=latency)])


@MANY
@given(
    value=st.floats(-1, 1),
    spread=st.sampled_from([0.0, 1e-320, 1e-6, 1.0]),
    freedom=st.integers(0, 4),
    inputs=st.sampled_from([0.0, 1e-12, 1e-3]),
)
def test_the_repeats_that_a_decision_needs_are_a_text(value, spread, freedom, inputs):
    each = Contrast(value, spread, freedom, 0.5, inputs, 2)
    for tolerance, prior in product((0.0, 0.02), (Prior(), Prior(spread, math.inf), Prior(1.0, 2.0))):
        assert "repeat" in repeats_needed(each, prior, tolerance, 0.01)


@MANY
@given(
    st.lists(st.floats(-1, 1) | st.just(0.5), max_size=4), st.lists(st.just(0.5), max_size=4), st.booleans()
)
def test_noise_without_variance_is_none(old, new, paired):
    found = noise_error(old, new, paired=paired)
    assert found is None or found[0] >= 0
    if len(set(old)) < 2 and len(set(new)) < 2:
        assert found is None


def test_no_rows_need_no_decision():
    assert decide([]) == []
