"""What the evidence for the gate draws its runs from: its true effects have to be what it says."""

import numpy as np
import pytest
from draws import REPEATS, SHIPPED, Bank, Draw, lower
from measure import APART, ELSEWHERE, PAIRED, PLANTED, TEMPERED, caught, coverage, detection_power, everywhere

from bench.gate.baseline import Baseline
from bench.gate.rows import RowKind
from bench.records import ClaimsRecord, Info, PredicateRecord, Record, task_of
from bench.run_facts import Meta, VictimFacts

INPUTS, WHOLE, STREAMS = 120, 40, 3
SOFT = "copycat(use_probability=true)"
SPEC = {
    "data": "digits",
    "victim": "mlp",
    "victim_seed": 0,
    "splits": "disjoint",
    "pool": "in-distribution",
    "access": "in-distribution",
    "knowledge": "none",
    "surrogate": "mlp",
    "shows": "probabilities",
    "budget": 200,
    "repeats": WHOLE,
    "seed": 0,
    "training": "rule",
}
NOISE = "gaussian_noise(scale=0.2)"


@pytest.fixture(scope="module")
def whole():
    """A bank in which every changed defense is twenty points weaker, and noise costs what it draws."""
    rng = np.random.default_rng(0)
    changed = {new for changes in PLANTED.values() for new in changes.values()} - set(SHIPPED)
    records, streams = [], []
    for defense in (*SHIPPED, TEMPERED, *sorted(changed)):
        stack = [] if defense == "none" else [defense]
        for repeat in range(WHOLE):
            hits = (rng.random(INPUTS) < (0.9 if defense in changed else 0.7)).astype(np.uint8)
            task = task_of("cell", {**SPEC, "defense": stack, "attack": SOFT, "repeat": repeat})
            records.append(Record("", task, "ok", {}, {"agreement": hits}))
        noisy = defense == NOISE or defense.startswith("gaussian_noise")
        task = task_of("audit", {**SPEC, "defense": stack, "pools": ["synthetic"]})
        name, rate = defense.partition("(")[0], 0.7 if "lenient" in defense else 0.9
        for number in range(STREAMS + 1):
            drawn = {"honest.accuracy": list(rng.normal(0.9, 0.01, REPEATS))} if noisy else {}
            metrics = {"honest.accuracy": float(np.mean(drawn.get("honest.accuracy", 0.9)))}
            broken = int("leaking" in defense)
            claim = PredicateRecord(worst=float(broken), broken=broken, answers=9)
            info = Info(
                drawn=drawn,
                claims=ClaimsRecord(stochastic=noisy, may_flag="mahalanobis" in defense),
                predicates={f"{name}: one-hot": claim} if "label_only" in name else {},
                retrained={"detection.synthetic": [rate + error for error in rng.normal(0, 0.004, 10)]},
            )
            found = metrics | ({"detection.synthetic": rate} if "mahalanobis" in name else {})
            record = Record("", task, "ok", found, {}, info)
            if number == 0:
                records.append(record)
            elif noisy:
                streams.append(record)
    facts = VictimFacts(victim="digits/mlp", fingerprint="one", recipe="as ever", data="the same")
    return Bank.of(Baseline(Meta(sentinels=[SOFT], victims=[facts]), records, []), streams)


@pytest.mark.parametrize("points", [0.0, 0.02, 0.05, 0.3])
def test_a_table_is_lowered_by_just_what_was_asked(points):
    rng = np.random.default_rng(1)
    table = (rng.random((30, 50)) < 0.8).astype(np.uint8)
    found = lower(table, points, rng)
    assert table.sum() - found.sum() == round(points * table.size)
    assert (found <= table).all()


def test_half_of_what_goes_is_whole_inputs():
    table = np.ones((40, 100), dtype=np.uint8)
    lost = (1 - lower(table, 0.1, np.random.default_rng(2))).sum(axis=0)
    assert (lost == 40).sum() == 5
    assert ((lost > 0) & (lost < 40)).sum() > 20


def test_a_mean_that_cannot_be_lowered_so_far_is_an_error():
    with pytest.raises(ValueError, match=r"cannot be lowered by 0\.5"):
        lower(np.zeros((2, 10), dtype=np.uint8), 0.5, np.random.default_rng(0))


def test_a_drawn_run_has_the_repeats_of_a_run_and_the_inputs_of_its_pair(whole):
    bank, rng = whole.cut(), np.random.default_rng(3)
    draw = Draw.of(bank, rng)
    other = draw.other_repeats(bank, rng)
    assert (draw.inputs == other.inputs).all()
    assert (draw.repeats != other.repeats).any()
    run = draw.run(bank)
    group = [r for r in run.records if r.kind == "cell" and r.spec["defense"] == ["label_only"]]
    assert [r.spec["repeat"] for r in group] == list(range(REPEATS))
    table = bank.hits["in-distribution", SOFT, "label_only"]
    assert (group[3].arrays["agreement"] == table[draw.repeats[3], draw.inputs]).all()
    (noisy,) = (r for r in run.records if r.kind == "audit" and r.spec["defense"] == [NOISE])
    streams = bank.streams[NOISE]
    assert noisy.info == streams[draw.stream % STREAMS].info
    assert noisy.info != streams[other.stream % STREAMS].info


def test_a_bank_with_gaps_is_rejected():
    with pytest.raises(ValueError, match="lacks 1 results"):
        Bank.of(Baseline({}, [], [SPEC]))


@pytest.mark.slow
def test_a_large_change_is_caught_and_none_is_not(whole):
    found = caught(whole, {"label_only": "label_only_of_rounded"}, PAIRED, 4)
    assert found.strength == pytest.approx(20, abs=3)
    assert found.by[RowKind.strength] == 1
    assert found.default == found.strict == 1
    bank = whole.cut()
    assert everywhere(bank, APART, 0, 4) == {RowKind.strength: 0, RowKind.sentinel: 0, RowKind.honest: 0}
    assert everywhere(bank, APART, 30, 4)[RowKind.strength] == 1


def test_a_change_has_the_name_of_what_it_stands_for(whole):
    found = caught(whole, {"label_only": "label_only_leaking(size=0.0001)"}, PAIRED, 2)
    assert found.by[RowKind.claim] == 1
    same = whole.cut({"label_only": "label_only_hiding(size=1e-06)"}).evaluations["label_only"]
    assert list(same.info.predicates) == ["label_only: one-hot"]


def test_with_a_retrained_victim_a_detection_rate_is_tested(whole):
    lenient = PLANTED["Mahalanobis flags a fifth less of synthetic queries"]
    assert caught(whole, lenient, ELSEWHERE, 3).by[RowKind.detection] == 1
    assert caught(whole, {}, ELSEWHERE, 3).by[RowKind.detection] == 0
    assert [detection_power(whole.cut(), effect, 3).alarm for effect in (0, 20)] == [0, 1]


def test_intervals_of_independent_hits_cover(whole):
    told = coverage(whole.cut(), whole, 60)
    assert {name for name, _ in told} >= {"gate, in pairs", "gate, not in pairs"}
    assert all(each.mean > 0.85 for each in told.values())
