"""Check of `auto`: where it is shown to match the best of the other attacks, and where not."""

from dataclasses import replace

import pytest
from records import INSIDE, META, REPEATS, cell, evaluation

from bench.analysis import adaptive_check
from bench.analysis.findings import Findings
from bench.report.page import write_report

ADAPTIVE_CHECK = "## Check of `auto`"
NONE, SIGMOID, ROUNDED = (), ("reverse_sigmoid(beta=1.0, gamma=0.5)",), ("rounded(decimals=1)",)
SOFT, LABELS, AUTO = "copycat(use_probability=true)", "labels", "auto"
FULL = INSIDE | {"knowledge": "full"}
AUDITS = [evaluation(NONE), evaluation(SIGMOID), evaluation(ROUNDED)]
SHARES = {
    (NONE, SOFT): 0.80,
    (NONE, LABELS): 0.70,
    (NONE, AUTO): 0.82,
    (SIGMOID, SOFT): 0.30,
    (SIGMOID, LABELS): 0.70,
    (SIGMOID, AUTO): 0.45,
    (ROUNDED, SOFT): 0.75,
    (ROUNDED, LABELS): 0.70,
    (ROUNDED, AUTO): 0.78,
}


def records(threat=INSIDE, budget=200, facts=None, shares=SHARES):
    made = [
        cell(threat, defense, attack, budget, repeat, share=share)
        for (defense, attack), share in shares.items()
        for repeat in range(REPEATS)
    ]
    facts = facts or {"read_as_labels": 1.0, "read_as_as_is": 0.0}
    told = {f"extraction.{name}": value for name, value in facts.items()}
    return [
        replace(each, metrics=each.metrics | told) if each.spec["attack"] == AUTO else each for each in made
    ]


def by_defense(found):
    return {match.defense: match for match in adaptive_check.comparisons(found)}


def test_it_is_compared_with_the_best_of_the_other_attacks():
    met = by_defense(Findings([*AUDITS, *records()], {"digits": 200}))
    assert set(met) == {NONE, SIGMOID, ROUNDED}
    assert met[NONE].other.startswith("copycat")
    assert met[SIGMOID].other == "labels"
    assert met[NONE].supported
    assert met[ROUNDED].supported
    assert not met[SIGMOID].supported
    assert met[SIGMOID].difference.value == pytest.approx(-0.25, abs=0.06)


def test_the_report_says_where_it_is_behind_and_which_interpretation_it_chose(tmp_path):
    write_report([*AUDITS, *records()], META, tmp_path)
    text = (tmp_path / "attacks.md").read_text(encoding="utf-8")
    told = text[text.index(ADAPTIVE_CHECK) :]
    assert "In 2 of 3 conditions it is shown to be less than 1.5 pp behind." in told
    assert "In the 1 below it is not: in 1 it is shown to be further behind" in told
    row = next(
        line
        for line in told.splitlines()
        if line.startswith("| digits/mlp: has") and "reverse_sigmoid" in line
    )
    assert f"labels {REPEATS}" in row


def test_the_section_is_named_after_whichever_attack_declares_that_it_matches_the_others(tmp_path):
    renamed = [
        replace(each, task=replace(each.task, attack="allround(depth=2)"))
        if each.spec["attack"] == AUTO
        else each
        for each in records()
    ]
    write_report([*AUDITS, *renamed], META, tmp_path)
    text = (tmp_path / "attacks.md").read_text(encoding="utf-8")
    assert "## Check of `allround`" in text
    assert ADAPTIVE_CHECK not in text


def test_budgets_that_it_calls_too_small_are_left_out():
    few = records(budget=50, facts={"small_budget": 1.0})
    assert not list(adaptive_check.comparisons(Findings([*AUDITS, *few], {"digits": 200})))


def test_a_stronger_threat_model_is_compared_with_the_attacks_of_weaker_ones():
    shares = {(SIGMOID, "recover"): 0.8, (SIGMOID, AUTO): 0.8, (NONE, "recover"): 0.8, (NONE, AUTO): 0.82}
    found = Findings([*AUDITS, *records(), *records(FULL, shares=shares)], {"digits": 200})
    met = [match for match in adaptive_check.comparisons(found) if match.threat.knowledge == "full"]
    named = {match.defense: match.other for match in met}
    assert named[SIGMOID] == "recover"
    assert named[NONE].startswith(("copycat", "recover"))


def test_without_such_an_attack_the_report_has_no_such_section(tmp_path):
    plain = [each for each in records() if each.spec["attack"] != AUTO]
    write_report([*AUDITS, *plain], META, tmp_path)
    text = (tmp_path / "attacks.md").read_text(encoding="utf-8")
    assert ADAPTIVE_CHECK not in text
