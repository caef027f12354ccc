"""Which attacks `auto` is compared with at a place, over several runs, and the page about it."""

import re
from dataclasses import replace

import numpy as np
import pytest
from in_process import moatbench
from records import INSIDE, cell, evaluation, failed

from bench.analysis.claim_table import ClaimRun
from bench.analysis.findings import Findings
from bench.analysis.shortfall import shortfall
from bench.errors import UsageError
from bench.records import AttackDeclarations, PlannedTask
from bench.report.index import write_index
from bench.report.shortfall import shortfall_of, shortfall_page
from bench.run_facts import Meta
from bench.store import Store

NONE, LABEL_ONLY, SIGMOID = (), ("label_only",), ("reverse_sigmoid(beta=1.0, gamma=0.5)",)
SOFT, LABELS, AUTO = "copycat(use_probability=true)", "labels", "auto"
FULL = INSIDE | {"knowledge": "full"}
INPUTS = 400
META = Meta(matrix="made", command="moatbench run made", commit="a" * 40)


def cells(*args, **values):
    """Cells in which the first ``share`` of the inputs is right; one more in odd repeats."""
    return list(_cells(*args, **values))


def _cells(attack, share, *, threat=INSIDE, defense=NONE, budget=200, repeats=4, training="rule", **metrics):
    for repeat in range(repeats):
        right = np.zeros(INPUTS, np.uint8)
        right[: round(share * INPUTS) + repeat % 2] = 1
        made = cell(threat, defense, attack, budget, repeat, share=0.5, arrays={"agreement": right})
        declared = AttackDeclarations(universal=attack == AUTO)
        facts = {f"extraction.{name}": value for name, value in metrics.items()}
        yield replace(
            made,
            key=f"{made.key} {training}",
            task=replace(made.task, training=training),
            info=made.info.model_copy(update={"attack": declared}),
            metrics=made.metrics | facts,
        )


def found(*groups, audits=()):
    records = [*audits, *(record for group in groups for record in group)]
    return shortfall([("made", Findings(records, {}))])


def test_the_shortfall_is_that_against_the_best_rival():
    place = found(cells(AUTO, 0.7), cells(SOFT, 0.8), cells(LABELS, 0.6)).claimed.tested[0]
    assert place.same.shortfall == pytest.approx(0.1)
    assert place.same.favourite.startswith("copycat")
    assert (place.budget, place.defense, place.run, place.repeats) == (200, NONE, "made", (0, 1, 2, 3))


def test_rivals_of_another_training_are_in_the_second_column_alone():
    more = "rule(unlabelled=fixmatch)"
    place = found(
        cells(AUTO, 0.7), cells(SOFT, 0.8), cells(SOFT, 0.9, training=more), cells(AUTO, 0.85, training=more)
    )
    by_training = {each.own.training: each for each in place.claimed.tested}
    assert by_training[""].same.shortfall == pytest.approx(0.1)
    assert by_training[""].every.shortfall == pytest.approx(0.2)
    assert by_training[more].same.shortfall == pytest.approx(0.05)


def test_rivals_know_as_much_or_less_and_never_more():
    weak, strong = cells(AUTO, 0.7), cells(AUTO, 0.7, threat=FULL)
    places = found(weak, strong, cells(SOFT, 0.75), cells("recover", 0.9, threat=FULL)).claimed.tested
    by_knowledge = {place.threat.knowledge: place.same.shortfall for place in places}
    assert by_knowledge == pytest.approx({"none": 0.05, "full": 0.2})


def test_rivals_of_another_pool_or_defense_are_none():
    far = INSIDE | {"pool": "noise", "access": "none"}
    places = found(
        cells(AUTO, 0.7), cells(SOFT, 0.6), cells(SOFT, 0.9, threat=far), cells(SOFT, 0.9, defense=SIGMOID)
    )
    assert [place.same.shortfall for place in places.claimed.tested] == pytest.approx([-0.1])


def test_results_against_labels_carry_over_to_a_defense_that_keeps_the_label():
    labels = evaluation(LABEL_ONLY, one_hot=True)
    groups = (
        cells(AUTO, 0.7, defense=SIGMOID),
        cells(SOFT, 0.6, defense=SIGMOID),
        cells(SOFT, 0.9, defense=LABEL_ONLY),
    )
    kept, changed = evaluation(SIGMOID), evaluation(SIGMOID, kept=0.9, keeps_label=False)
    values = [
        {p.defense: p.same.shortfall for p in found(*groups, audits=(labels, sigmoid)).claimed.tested}
        for sigmoid in (kept, changed)
    ]
    assert values == [pytest.approx({SIGMOID: 0.2}), pytest.approx({SIGMOID: -0.1})]


def test_places_with_too_few_queries_are_apart():
    result = found(
        cells(AUTO, 0.4, budget=50, small_budget=1.0),
        cells(SOFT, 0.6, budget=50),
        cells(AUTO, 0.7),
        cells(SOFT, 0.7),
    )
    assert [place.budget for place in result.claimed.tested] == [200]
    assert [place.budget for place in result.small.tested] == [50]
    assert result.every.mean().value == pytest.approx(0.1)
    page = shortfall_page(result, [])
    assert "At 1 place more, with 50 queries, it reports that these are too few: there it is 20.0 pp" in page
    assert "With these, over 2 places, it is 10.0 pp (95 % CI " in page
    assert "| too few queries: 50 |        1 |" in page


def test_shipped_matrices_that_are_not_among_the_runs_are_named():
    result = found(cells(AUTO, 0.7), cells(SOFT, 0.7))
    page = shortfall_page(result, [])
    named = re.search(r"^Shipped matrices with `auto` that are not among .*: (.*)\.$", page, re.MULTILINE)[1]
    assert "`mnist`" in named
    assert "`ci`" not in named  # without auto


def test_runs_without_a_place_are_named_too():
    # One run is incomplete: its attack has no rival yet. One never had the attack.
    records = {"made": [*cells(AUTO, 0.7), *cells(SOFT, 0.7)], "mnist": cells(AUTO, 0.7, budget=500)}
    runs = [ClaimRun(name, made, META.with_values(matrix=name)) for name, made in records.items()]
    runs.append(ClaimRun("plain", cells(SOFT, 0.7, budget=600), META))
    page = shortfall_page(shortfall_of(runs), runs)
    named = re.search(
        r"^Runs that were read, but have no place of their own .*: (.*)\.$", page, re.MULTILINE
    )[1]
    assert named == "`mnist`, `plain` (without `auto`)"
    assert "`mnist`" not in re.search(r"^Shipped matrices .*", page, re.MULTILINE)[0]
    sources = page.partition("## How this was made")[2]
    assert all(f"- `{run.name}`: " in sources for run in runs)
    assert "Runs that were read" not in shortfall_page(shortfall_of(runs[:1]), runs[:1])


def test_a_place_without_a_comparison_is_counted_with_the_reason():
    assert found(cells(AUTO, 0.7)).left_out == {"no other attack was run there": 1}
    single = found(cells(AUTO, 0.7), cells(SOFT, 0.7, repeats=1))
    assert single.left_out == {"fewer than two repeats are shared by all attacks": 1}


def test_a_failed_repeat_of_a_rival_costs_a_repeat_and_not_the_rival():
    first, *others = cells(SOFT, 0.8)
    place = found(cells(AUTO, 0.7), [failed(first, "broken"), *others]).claimed.tested[0]
    assert place.repeats == (1, 2, 3)
    assert place.same.shortfall == pytest.approx(0.1)


def test_a_place_of_two_runs_counts_once_with_the_rivals_of_both():
    one = Findings([*cells(AUTO, 0.7), *cells(SOFT, 0.6)], {})
    other = Findings([*cells(AUTO, 0.7), *cells(LABELS, 0.8), *cells("recover", 0.9, repeats=3)], {})
    result = shortfall([("one", one), ("other", other)])
    (place,) = result.claimed.tested
    assert (place.run, place.same.favourite) == ("one", "labels")  # recover lacks a repeat
    assert place.same.shortfall == pytest.approx(0.1)


def test_a_place_far_below_is_shown_and_the_page_says_so():
    records = [
        *cells(AUTO, 0.7, defense=SIGMOID, read_as_labels=1.0),
        *cells(SOFT, 0.85, defense=SIGMOID),
        *cells(AUTO, 0.8),
        *cells(SOFT, 0.8),
    ]
    run = ClaimRun("made", records, META)
    result = shortfall_of([run])
    assert [place.defense for place in result.claimed.beyond] == [SIGMOID]
    page = shortfall_page(result, [run])
    first, second, third = page.split("\n")[2:5]
    assert first.startswith("**It does not keep the limit of 1 pp: on average it is 7.5 pp (95 % CI ")
    assert second.startswith("**At 1 place it is shown to be more than 3 pp below** (Holm's ")
    assert third == "At the others that much is excluded, each by its own 95 % interval."
    row = next(line for line in page.splitlines() if "`reverse_sigmoid" in line)
    assert row.split("|")[2].strip() == "70.1, 85.1: copycat on probabilities"
    assert "(beyond)" in row
    assert "labels 4" in row
    assert "| `made` |        2 |" in page
    assert len(page.splitlines()) < 80


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "store.sqlite", create=True) as opened:
        records = [*cells(AUTO, 0.8), *cells(SOFT, 0.7)]
        opened.set_meta(META)
        opened.set_plan(PlannedTask(each.key, each.task) for each in records)
        for record in records:
            opened.put(record)
    return tmp_path


def test_the_command_writes_the_page(store):
    code, text = moatbench(store, "shortfall", "store.sqlite", "--out", "pages")
    assert (code, text) == (0, "pages/auto.md\n")
    text = (store / "pages/auto.md").read_text(encoding="utf-8")
    assert "it is 10.0 pp (95 % CI " in text
    assert " above the best other attack**, over 1 place." in text
    assert "- `made`: `moatbench run made`, commit " + "a" * 40 in text


def test_the_index_of_reports_links_to_the_page(store):
    moatbench(store, "shortfall", "store.sqlite", "--out", "pages")
    (store / "pages/one").mkdir()
    (store / "pages/one/report.md").write_text("# One\n")
    text = write_index(store / "pages").read_text(encoding="utf-8")
    assert "- [Does `auto` keep up with the best other attack?](auto.md)" in text


def test_a_wrong_store_is_one_sentence_and_leaves_no_folder(store):
    for words in (["store.sqlite", "store.sqlite"], ["missing.sqlite"]):
        code, text = moatbench(store, "shortfall", *words, "--out", "pages")
        assert code == 2
        assert len(text.strip().splitlines()) == 1
    assert not (store / "pages").exists()


def test_runs_without_the_attack_or_a_rival_say_so():
    with pytest.raises(UsageError, match="no run has an attack that claims to match all others"):
        shortfall_of([ClaimRun("made", list(cells(SOFT, 0.7)), META)])
    with pytest.raises(UsageError, match="nothing to compare auto with: 1 × no other attack was run there"):
        shortfall_of([ClaimRun("made", list(cells(AUTO, 0.7)), META)])
