"""Of a victim whose answers are mostly one label, the gate compares balanced fidelity."""

import numpy as np
import pytest

from bench.gate.baseline import Baseline, export, read
from bench.gate.compare import compare
from bench.gate.render import basis
from bench.gate.rows import Decision, RowKind
from bench.records import Info, Record, task_of
from bench.run_facts import Meta, VictimFacts

INPUTS, REPEATS = 800, 10
RARE = np.arange(INPUTS) % 16 == 0
SPEC = {
    "data": "my.py:model",
    "victim": "my.py:model",
    "victim_seed": 0,
    "splits": "disjoint",
    "seed": 0,
}
CELL = {
    "pool": "in-distribution",
    "access": "in-distribution",
    "knowledge": "none",
    "surrogate": "mlp",
    "shows": "probabilities",
    "training": "rule",
    "budget": 200,
    "repeats": REPEATS,
    "attack": "labels",
}


def run(rare, common, labels=RARE):
    """A run with one defense: ``rare`` and ``common`` are the agreement on inputs of each label."""
    rng, records = np.random.default_rng(0), []
    for defense in ([], ["label_only"]):
        for repeat in range(REPEATS):
            share = np.where(RARE, rare if defense else 0.9, common)
            task = task_of("cell", {**SPEC, **CELL, "defense": defense, "repeat": repeat})
            hits = (rng.random(INPUTS) < share).astype(np.uint8)
            info = Info(confusion=[[0, 0], [0, 0]])
            records.append(
                Record("", task, "ok", {"extraction.fidelity": float(hits.mean())}, {"agreement": hits}, info)
            )
        task = task_of("audit", {**SPEC, "defense": defense, "pools": [], "repeats": REPEATS})
        records.append(Record("", task, "ok", {}, {"victim_label": labels.astype(np.uint8)}))
    victim = VictimFacts(victim="my.py:model", fingerprint="one", data="same")
    return Baseline(Meta(victims=[victim]), records, [])


def strength(before, after):
    """The row on the defense of a comparison."""
    comparison = compare(before, after)
    return comparison, next(
        row for row in comparison.rows if row.kind is RowKind.strength and "label_only" in row.condition
    )


def test_a_defense_that_got_weaker_on_the_rare_label_alone_is_found():
    # In plain fidelity one and a half points, below the tolerance; in balanced fidelity twelve.
    comparison, row = strength(run(0.5, 0.97), run(0.74, 0.97))
    assert row.decision is Decision.weaker
    assert row.before == pytest.approx((0.5 + 0.97) / 2, abs=0.03)
    assert any("mean over the victim's labels" in sentence for sentence in basis(comparison, []))


def test_a_balanced_victim_is_compared_in_plain_fidelity():
    half = np.arange(INPUTS) % 2 == 0
    comparison, row = strength(run(0.5, 0.97, half), run(0.74, 0.97, half))
    assert row.decision is not Decision.weaker
    assert row.before == pytest.approx(0.5 / 16 + 0.97 * 15 / 16, abs=0.02)
    assert not comparison.balanced


def test_an_exported_baseline_gives_the_same_rows(tmp_path):
    before, after = run(0.5, 0.97), run(0.74, 0.97)
    export(before, tmp_path / "baseline.json")
    exported = read(tmp_path / "baseline.json")
    assert exported.balanced == ("my.py:model",)
    assert compare(exported, after).rows == compare(before, after).rows


def test_the_labels_of_a_balanced_victim_are_not_exported(tmp_path):
    export(run(0.5, 0.97, np.arange(INPUTS) % 2 == 0), tmp_path / "baseline.json")
    assert "victim_label" not in (tmp_path / "baseline.json").read_text()
    assert read(tmp_path / "baseline.json").balanced == ()


def test_the_baseline_decides_where_the_candidates_labels_are_less_uneven():
    less = np.arange(INPUTS) % 3 == 0
    comparison, _ = strength(run(0.5, 0.97), run(0.5, 0.97, less))
    assert comparison.balanced == ("my.py:model",)
