"""The gate is silent where nothing changed, loud where something did, and says where it cannot tell."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from bench.analysis.multiple_tests import holm
from bench.errors import StoreError, UsageError
from bench.gate import render
from bench.gate.baseline import Baseline, _checksum, export, read
from bench.gate.command import exit_code, gate
from bench.gate.compare import compare
from bench.gate.rows import Decision, RowKind
from bench.gate.runs import differences
from bench.metrics.pooled_difference import Contrast, Prior, common_prior, contrast
from bench.records import Costs, Info, PredicateRecord, Record, task_of
from bench.run_facts import Meta, VictimFacts

SOFT, LABELS = "copycat(use_probability=true)", "labels"
REPEATS, INPUTS = 20, 447
SPEC = {
    "victim": "digits/mlp",
    "victim_seed": 0,
    "data": "digits",
    "splits": "disjoint",
    "seed": 0,
}


def cells(attack, defense, fidelity, seed, *, repeats=REPEATS, pool="in-distribution", spread=0.01):
    """Records of one attacker: repeats scatter by ``spread`` around a mean fidelity."""
    rng = np.random.default_rng([seed, len(attack), *defense.encode(), *pool.encode()])
    hard = np.random.default_rng(7).random(INPUTS)  # some inputs are missed by every copy
    stack = [] if defense == "none" else [defense]
    found = []
    for repeat in range(repeats):
        level = np.clip(fidelity + spread * rng.standard_normal(), 0, 1)
        misses = np.quantile(hard + 0.3 * rng.random(INPUTS), level)
        hits = (hard + 0.3 * rng.random(INPUTS) <= misses).astype(np.uint8)
        spec = SPEC | {
            "defense": stack,
            "pool": pool,
            "access": pool,
            "knowledge": "none",
            "surrogate": "mlp",
        }
        spec |= {"shows": "probabilities", "attack": attack, "training": "rule", "budget": 200}
        spec |= {"repeat": repeat, "repeats": repeats}
        metrics = {"extraction.fidelity": float(hits.mean())}
        found.append(Record("", task_of("cell", spec), "ok", metrics, {"agreement": hits}))
    return found


def evaluation(defense, **metrics):
    stack = [] if defense == "none" else [defense]
    values = {"honest.accuracy": 0.95, "honest.top1_kept": 1.0, "honest.nll": 0.2, "honest.l1_mean": 0.1}
    values |= {name.replace("__", "."): value for name, value in metrics.items()}
    task = task_of("audit", SPEC | {"defense": stack, "pools": [], "repeats": 5})
    info = Info(predicates={"mass": PredicateRecord(worst=0.0, broken=0, answers=INPUTS)})
    return Record("", task, "ok", values, info=info, costs=Costs(latency_us={"1": 80.0, "256": 3.0}))


def run(*parts, sentinels=(SOFT,), **meta):
    records = [record for part in parts for record in (part if isinstance(part, list) else [part])]
    facts = {
        "matrix": "made",
        "sentinels": list(sentinels),
        "versions": {"torch": "2.13.0", "moatbench": "0.1.0"},
        "victims": [VictimFacts(victim="digits/mlp", fingerprint="abc", accuracy=0.95)],
    }
    return Baseline(Meta(**(facts | meta)), records, [])


def standard(seed, *, none=0.97, soft=0.70, labels=0.92):
    return run(
        cells(SOFT, "none", none, 0),
        cells(SOFT, "reverse_sigmoid", soft, seed),
        cells(LABELS, "reverse_sigmoid", labels, seed),
        evaluation("none"),
        evaluation("reverse_sigmoid", honest__l1_mean=1.5, detection__synthetic=0.8),
    )


def verdicts(comparison, family):
    return {row.what: row.decision for row in comparison.rows if row.kind is family}


def test_a_run_is_the_same_as_itself():
    comparison = compare(standard(1), standard(1))
    assert comparison.paired
    assert {row.decision for row in comparison.rows} == {Decision.same}
    assert {row.kind for row in comparison.rows} == set(RowKind)
    assert exit_code(comparison, strict=True) == 0


def test_a_stronger_attack_is_an_alarm():
    comparison = compare(standard(1), standard(1, labels=0.97))
    row = next(row for row in comparison.rows if row.decision is Decision.weaker)
    assert row.kind is RowKind.strength
    assert row.difference.low > 0.02
    assert exit_code(comparison) == 1


def test_a_tracked_attack_detects_a_change_that_the_best_attack_does_not():
    comparison = compare(standard(1), standard(1, soft=0.85))
    assert verdicts(comparison, RowKind.strength)["labels"] is Decision.same
    assert verdicts(comparison, RowKind.sentinel)["copycat on probabilities"] is Decision.weaker
    assert exit_code(comparison) == 1
    quiet = compare(
        *(
            Baseline(side.meta.with_values(sentinels=[]), side.records, [])
            for side in (standard(1), standard(1, soft=0.85))
        )
    )
    assert exit_code(quiet) == 0


def test_a_weaker_attack_is_no_alarm():
    comparison = compare(standard(1), standard(1, labels=0.80))
    assert verdicts(comparison, RowKind.strength)["labels"] is Decision.stronger
    assert exit_code(comparison, strict=True) == 0


def test_another_attack_may_become_the_best():
    comparison = compare(standard(1), standard(1, soft=0.98))
    assert Decision.weaker in [row.decision for row in comparison.rows if row.kind is RowKind.strength]
    assert "labels, now copycat on probabilities" in verdicts(comparison, RowKind.strength)


def test_few_scattered_repeats_are_inconclusive_with_the_number_needed():
    few = {"repeats": 3, "spread": 0.05}
    sides = [
        run(cells(SOFT, "none", 0.97, 0, repeats=3), cells(LABELS, "reverse_sigmoid", level, seed, **few))
        for level, seed in ((0.90, 1), (0.90, 2))
    ]
    comparison = compare(*sides)
    row = next(row for row in comparison.rows if row.decision is Decision.cannot_tell)
    assert "repeats would" in row.note
    assert exit_code(comparison) == 0
    assert exit_code(comparison, strict=True) == 3


def test_repeats_are_paired_only_if_undefended_surrogates_are_equal():
    other = standard(1)
    drifted = [record for record in other.records if record.spec["defense"] or record.kind == "audit"]
    candidate = Baseline(other.meta, [*cells(SOFT, "none", 0.97, 5), *drifted], [])
    comparison = compare(standard(1), candidate)
    assert not comparison.paired
    assert exit_code(comparison) == 0


def test_changed_answers_are_reported_and_fail_only_if_strict():
    before, after = (
        run(evaluation("top_k", contract__support=3.0)),
        run(evaluation("top_k", contract__support=10.0)),
    )
    comparison = compare(before, after)
    assert verdicts(comparison, RowKind.contract) == {"entries that are not zero": Decision.changed}
    assert exit_code(comparison) == 0
    assert exit_code(comparison, strict=True) == 1


def test_a_higher_utility_loss_is_an_alarm():
    comparison = compare(run(evaluation("gate")), run(evaluation("gate", honest__accuracy=0.92)))
    assert verdicts(comparison, RowKind.honest)["accuracy"] is Decision.costlier
    assert exit_code(comparison) == 1
    better = compare(run(evaluation("gate")), run(evaluation("gate", honest__accuracy=0.98)))
    assert verdicts(better, RowKind.honest)["accuracy"] is Decision.stronger
    assert exit_code(better) == 0


def noisy(mean, values, **more):
    record = evaluation("noise", honest__nll=mean, **more)
    return replace(record, info=Info(drawn={"honest.nll": values}))


def test_utility_loss_by_noise_has_the_error_of_its_draws():
    values = [0.70, 0.85, 0.95, 0.80, 1.0]
    assert compare(run(noisy(0.86, values)), run(noisy(0.93, values[::-1]))).of(Decision.costlier) == []
    far = [value + 1 for value in values]
    assert compare(run(noisy(0.86, values)), run(noisy(1.86, far))).of(Decision.costlier)
    # Noise that is drawn once and for all has drawn once, however often it is asked.
    once = compare(run(noisy(0.86, values)), run(noisy(1.06, [1.06] * 5)))
    assert verdicts(once, RowKind.honest)["negative log-likelihood"] is Decision.cannot_tell


def test_what_failed_or_is_missing_is_named():
    whole = standard(1)
    gone = [record for record in whole.records if record.spec.get("attack") != LABELS]
    comparison = compare(whole, Baseline(whole.meta, gone, []))
    assert [row.what for row in comparison.of(Decision.missing)] == ["labels"]
    assert exit_code(comparison) == 3
    broken = [
        record
        if record.spec.get("attack") != LABELS
        else Record("", record.task, "failed", error="ValueError: no\nTraceback")
        for record in whole.records
    ]
    comparison = compare(whole, Baseline(whole.meta, broken, []))
    assert [row.note for row in comparison.of(Decision.failed)] == ["ValueError: no"]
    assert "not everything was compared" in render.headline(comparison)


def test_one_lost_repeat_is_named_and_the_others_are_compared():
    whole = standard(1)
    lost = [r for r in whole.records if (r.spec.get("attack"), r.spec.get("repeat")) != (LABELS, 3)]
    comparison = compare(whole, Baseline(whole.meta, lost, []))
    assert comparison.paired
    assert [row.what for row in comparison.of(Decision.missing)] == ["labels"]
    assert verdicts(comparison, RowKind.sentinel)["copycat on probabilities"] is Decision.same
    assert comparison.of(Decision.weaker, Decision.stronger) == []


def test_an_attack_that_falls_to_chance_is_still_compared():
    flagged = [replace(r, info=Info(flags=["near_chance"])) for r in cells(SOFT, "none", 0.15, 3)]
    before = run(cells(SOFT, "none", 0.97, 0), evaluation("none"))
    comparison = compare(before, run(flagged, evaluation("none")))
    assert verdicts(comparison, RowKind.strength) == {"copycat on probabilities": Decision.stronger}


def test_noise_that_was_taken_away_has_no_error_of_its_own():
    values = [0.70, 0.85, 0.95, 0.80, 1.0]
    comparison = compare(run(noisy(0.86, values)), run(evaluation("noise", honest__nll=1.2)))
    assert verdicts(comparison, RowKind.honest)["negative log-likelihood"] is Decision.costlier


def test_a_cost_just_at_the_tolerance_is_not_beyond_it():
    before, after = (run(evaluation("none", honest__accuracy=value)) for value in (0.93, 0.91))
    assert 0.93 - 0.91 > 0.02  # as floats have it
    assert verdicts(compare(before, after), RowKind.honest)["accuracy"] is Decision.same


def test_noise_from_the_same_streams_is_compared_draw_by_draw():
    # On its own each side varies by far more than the tolerance.
    values = [0.60, 0.95, 0.70, 0.85, 0.90]
    worse = [value + 0.08 + place / 1000 for place, value in enumerate(values)]
    before = run(cells(SOFT, "none", 0.97, 0), noisy(0.80, values))
    after = run(cells(SOFT, "none", 0.97, 0), noisy(0.882, worse))
    comparison = compare(before, after)
    assert comparison.paired
    assert verdicts(comparison, RowKind.honest)["negative log-likelihood"] is Decision.costlier
    apart = compare(before, run(cells(SOFT, "none", 0.97, 9), noisy(0.882, worse)))
    assert not apart.paired
    assert verdicts(apart, RowKind.honest)["negative log-likelihood"] is Decision.cannot_tell


def test_a_baseline_survives_its_export(tmp_path):
    whole = standard(1)
    export(whole, tmp_path / "a.json")
    back = read(tmp_path / "a.json")
    assert exit_code(compare(whole, back), strict=True) == 0
    assert compare(whole, back).paired
    shuffled = Baseline(whole.meta, list(reversed(whole.records)), [])
    export(shuffled, tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    with pytest.raises(UsageError, match="--force"):
        export(whole, tmp_path / "a.json")
    export(whole, tmp_path / "a.json", force=True)


def first_format(text, spoil=lambda _: None):
    """Return an exported baseline as version 1 of the format had it."""
    content = json.loads(text) | {"version": 1}
    del content["checksum"]
    for group in content["groups"]:
        for each in group["repeats"]:
            each["info"] |= each.pop("costs", {})
            for array in each.pop("arrays", {}).values():
                each |= {"inputs": array["size"], "agreement": array["bits"]}
    spoil(content)
    return json.dumps(content)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda text: text[: len(text) // 2], "nor complete JSON"),
        (lambda _: "[1, 2]", "no baseline of moatbench"),
        (lambda _: '{"version": 1, "packages": {}}', "no baseline of moatbench"),
        (lambda text: text.replace('"version": 3', '"version": 4'), "newer"),
        (lambda text: text.replace('"honest.accuracy": 0.95', '"honest.accuracy": NaN'), "damaged"),
        (lambda text: text.replace('"bits": "', '"bits": "AAAA'), "damaged"),
        (lambda text: text.replace('"kind": "cell"', '"kind": "sell"'), "damaged"),
        (lambda text: text.replace('"groups"', '"loops"'), "damaged"),
        (lambda text: first_format(text, lambda content: content["groups"].clear()), "no results"),
        (lambda text: first_format(text, lambda content: content["planned"].append({})), "damaged"),
        (lambda _: "\x00\xff", "nor complete JSON"),
    ],
)
def test_a_file_that_is_no_baseline_is_rejected_in_one_sentence(spoil, said, tmp_path):
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    export(standard(1), good)
    bad.write_text(spoil(good.read_text()), encoding="latin-1")
    with pytest.raises(StoreError, match=said) as caught:
        gate(good, bad, tolerance=2, summary=tmp_path / "summary.md")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "summary.md").exists()


def share(group, metric, value):
    def spoil(content):
        each = next(each for each in content["groups"] if each["kind"] == group)
        each["repeats"][0]["metrics"][metric] = value

    return spoil


def repeat(number):
    def spoil(content):
        next(each for each in content["groups"] if each["kind"] == "cell")["repeats"][1]["repeat"] = number

    return spoil


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda content: content["groups"].append(content["groups"][0]), r"it has 2 results of \w+ \{"),
        (repeat(0), r"it has 2 results of cell \{"),
        (repeat(-1), r"repeats.1.repeat: input should be greater than or equal to 0"),
        (share("cell", "extraction.fidelity", 97.0), r"extraction.fidelity is 97.0, which is no share in"),
        (share("audit", "honest.accuracy", -0.5), r"honest.accuracy is -0.5, which is no share in \[0, 1\]"),
    ],
)
@pytest.mark.parametrize("version", [1, 2])
def test_results_that_cannot_be_are_refused_in_every_format(spoil, said, version, tmp_path):
    path = tmp_path / "base.json"
    export(standard(1), path)
    content = json.loads(first_format(path.read_text(), spoil)) | {"version": version}
    content["checksum"] = _checksum(content)
    path.write_text(json.dumps(content))
    with pytest.raises(StoreError, match=f"is damaged .*{said}") as caught:
        read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("victims", [[], [VictimFacts(victim="digits/mlp")]])
def test_a_victim_that_one_run_does_not_know_is_not_taken_for_the_same(victims):
    whole = standard(1)
    unknown = run(*[whole.records[:]], victims=victims)
    assert differences(unknown, whole) == {"victim": "digits/mlp is unknown in the baseline"}
    assert differences(whole, unknown) == {"victim": "digits/mlp is unknown in the candidate"}


def test_runs_about_other_things_are_not_compared_unless_allowed(tmp_path, capsys):
    whole = standard(1)
    another = VictimFacts(victim="digits/mlp", fingerprint="xyz", accuracy=0.5)
    assert differences(whole, whole) == {}
    others = {
        "victim": run(*[whole.records[:]], victims=[another]),
        "versions": run(*[whole.records[:]], versions={"torch": "3.0.0", "moatbench": "0.1.0"}),
        "matrix": Baseline(whole.meta, [*whole.records, evaluation("top_k")], []),
    }
    export(whole, tmp_path / "base.json")
    for kind, other in others.items():
        assert list(differences(whole, other)) == [kind]
        export(other, tmp_path / f"{kind}.json")
        with pytest.raises(UsageError, match=f"--allow {kind}"):
            gate(tmp_path / "base.json", tmp_path / f"{kind}.json", tolerance=2)
        assert gate(tmp_path / "base.json", tmp_path / f"{kind}.json", tolerance=2, allow=[kind]) == 0
        assert f"The runs differ in their {kind}" in capsys.readouterr().out
    assert (
        differences(whole, run(*[whole.records[:]], versions={"torch": "2.14.1", "moatbench": "0.1.3"})) == {}
    )
    with pytest.raises(UsageError, match="did you mean 'victim'"):
        gate(tmp_path / "base.json", tmp_path / "base.json", tolerance=2, allow=["victims"])


def test_a_kind_without_rows_is_an_error(tmp_path):
    cases = {
        "no defense evaluations": run(cells(SOFT, "none", 0.97, 0)),
        "no attacked cells": run(evaluation("none"), sentinels=()),
        "sentinel 'labels' is no attack": run(
            cells(SOFT, "none", 0.97, 0), evaluation("none"), sentinels=("labels",)
        ),
    }
    for number, (said, side) in enumerate(cases.items()):
        path = tmp_path / f"{number}.json"
        export(side, path)
        with pytest.raises(UsageError, match=said):
            gate(path, path, tolerance=2)


def test_the_json_is_read_back_as_it_was_written():
    comparison = compare(standard(1), standard(1, labels=0.97))
    text = render.as_json(comparison, ["a note"])
    back = render.JsonComparison.model_validate_json(text)
    assert back.rows == [render.JsonRow.of(row) for row in render.ordered(comparison)]
    assert json.loads(text) == back.values()
    assert (back.version, back.notes) == (2, ["a note"])


def test_a_summary_goes_where_it_is_asked_for(tmp_path, monkeypatch):
    export(standard(1), tmp_path / "a.json")
    export(standard(1, labels=0.97), tmp_path / "b.json")
    job = tmp_path / "job.md"
    job.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(job))
    written = {"summary": tmp_path / "out" / "s.md", "json": tmp_path / "out" / "s.json"}
    assert gate(tmp_path / "a.json", tmp_path / "b.json", tolerance=2, **written) == 1
    text = written["summary"].read_text()
    assert job.read_text() == "before\n" + text
    assert "**Regression: 1 easier to extract" in text
    assert "| weaker" in text
    told = json.loads(written["json"].read_text())
    worst = told["rows"][0]
    assert worst["verdict"] == "weaker"
    assert worst["after"] - worst["before"] == pytest.approx(worst["difference"][0])


def test_holm_rejects_in_order_and_stops():
    assert holm([0.04, 0.01, 0.2]) == [False, True, False]
    assert holm([0.02, 0.01, 0.024]) == [True, True, True]
    assert holm([]) == []
    assert holm([math.nan, 0.01]) == [False, True]


def test_rows_that_agree_are_pooled_and_rows_that_do_not_keep_their_own():
    rng = np.random.default_rng(0)

    def drawn(sizes):
        return [Contrast(0.0, s * rng.chisquare(9) / 9, 9, 0.1, 0.0, 10) for s in sizes]

    alike = common_prior(drawn([1.0] * 200))
    assert alike.freedom > 100
    assert alike.spread == pytest.approx(1, rel=0.1)
    apart = common_prior(drawn(np.exp(3 * rng.standard_normal(200))))
    assert apart.freedom < 1
    small = Contrast(0.0, 0.01, 9, 0.1, 0.0, 10)
    assert apart.error(small).size < 0.5 * alike.error(small).size


def test_the_error_of_a_contrast_is_that_of_its_resamples():
    rng = np.random.default_rng(1)
    hard = rng.random(300)

    def table(seed):
        inner = np.random.default_rng(seed)
        shift = 0.05 * inner.standard_normal(12)[:, None]
        return (inner.random((12, 300)) < np.clip(hard + shift, 0, 1)).astype(float)

    found = [contrast(table(seed), table(seed + 10_000), paired=False) for seed in range(400)]
    sizes = [Prior().error(each).size for each in found]
    # The inputs are the same in all of these, so that the repeats alone make them differ.
    scatter = np.std([each.value for each in found])
    assert math.sqrt(np.mean(np.square(sizes))) == pytest.approx(scatter, rel=0.15)
