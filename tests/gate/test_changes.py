"""``moatbench compare``: what changed from one run to another."""

from dataclasses import replace

import numpy as np
import pytest
from records import AUDITS, INSIDE, LABEL_ONLY, LABELS, META, NONE, ROUNDED, SOFT, cell, evaluation

from bench.gate.baseline import Baseline
from bench.gate.changes import changes
from bench.gate.changes_page import changes_page
from bench.gate.runs import Pairing

DEFENSES = (NONE, LABEL_ONLY, ROUNDED)
RUN = [
    cell(INSIDE, defense, attack, budget, repeat)
    for defense in DEFENSES
    for attack in (LABELS, SOFT)
    for budget in (50, 200)
    for repeat in range(5)
]


def run(cells=RUN, audits=AUDITS, **meta):
    return Baseline(META.with_values(**meta), [*audits, *cells], [])


def with_fidelity(record, share):
    return cell(
        INSIDE, record.cell.defense, record.cell.attack, record.cell.budget, record.repeat, share=share
    )


def row_of(found, defense, budget=200):
    (row,) = [row for row in found.rows if (row.defense, row.budget) == (defense, budget)]
    return row


WEAKER = [with_fidelity(each, 0.78) if each.cell.defense == ROUNDED else each for each in RUN]


def test_a_run_compared_with_itself_has_not_changed():
    found = changes(run(), run())
    assert len(found.rows) == len(DEFENSES) * 2
    assert {row.fidelity.value for row in found.rows} == {0}
    assert not any(row.is_significant for row in found.rows)
    assert found.utility == {}
    assert found.only == ({}, {})
    assert "the same in each of 6 comparisons" in changes_page(run(), run(), ("a", "b"))[0]


def test_a_defense_that_lost_strength_is_the_one_that_changed():
    found = changes(run(), run(WEAKER))
    assert found.pairing is Pairing.equal
    assert {row.defense for row in found.rows if row.is_significant} == {ROUNDED}
    row = row_of(found, ROUNDED)
    assert row.fidelity.value == pytest.approx(row.after.fidelity.value - row.before.fidelity.value)
    assert row.reduction.value == pytest.approx(row.after.reduction.value - row.before.reduction.value)
    assert row.reduction.value == pytest.approx(-row.fidelity.value)
    assert row.fidelity.low > 0.03
    text = changes_page(run(), run(WEAKER), ("a", "b"))[0]
    changed = text.split("## Changes that chance does not explain")[1].split("\n## ")[0]
    assert "rounded" in changed
    assert "label_only" not in changed


def test_rows_of_a_run_add_up():
    found = changes(run(), run(WEAKER))
    for row in found.rows:
        if row.defense != NONE:
            undefended = row_of(found, NONE, row.budget)
            for state, without in ((row.before, undefended.before), (row.after, undefended.after)):
                assert state.reduction.value == pytest.approx(without.fidelity.value - state.fidelity.value)


def test_an_attack_that_one_run_alone_has_changes_no_row_and_is_listed():
    better = [cell(INSIDE, ROUNDED, "recover", 200, repeat, share=0.9) for repeat in range(5)]
    found = changes(run(), run([*RUN, *better]))
    assert row_of(found, ROUNDED).fidelity.value == 0
    assert found.only == ({}, {"attacks": ["recover"]})
    assert "- after: attacks: `recover`" in changes_page(run(), run([*RUN, *better]), ("a", "b"))[0]


def test_defenses_victims_and_combinations_of_one_run_alone_are_listed():
    fewer = [each for each in RUN if each.cell.defense != LABEL_ONLY and each.cell.budget == 200]
    found = changes(run(), run(fewer, [each for each in AUDITS if each.task.defense != LABEL_ONLY]))
    assert found.only[0]["defenses"] == ["label_only"]
    assert found.only[0]["other combinations of defense, attack, budget and threat model"] == ["4"]
    assert found.only[1] == {}


def test_runs_with_other_random_seeds_are_not_compared_in_pairs():
    rng = np.random.default_rng(0)

    def other(record):
        agreement = record.arrays["agreement"]
        return replace(record, arrays={"agreement": rng.permutation(agreement)})

    again = run([other(record) for record in RUN])
    found = changes(run(), again)
    assert found.pairing is Pairing.broken
    row, paired = row_of(found, ROUNDED), row_of(changes(run(), run(WEAKER)), ROUNDED)
    assert row.fidelity.high - row.fidelity.low > paired.fidelity.high - paired.fidelity.low
    assert "not compared in pairs" in changes_page(run(), again, ("a", "b"))[0]


def test_utility_loss_that_differs_is_shown_with_both_values():
    dearer = [evaluation(ROUNDED, l1=0.03, lost=0.02) if a.task.defense == ROUNDED else a for a in AUDITS]
    text = changes_page(run(), run(audits=dearer), ("a", "b"))[0]
    loss = text.split("## What benign users lose")[1].split("\n## ")[0]
    (line,) = [line for line in loss.splitlines() if "rounded" in line]
    assert "0.0" in line
    assert "→ 2.0" in line


def test_runs_that_share_nothing_are_said_to():
    text = changes_page(run(), run([], []), ("a", "b"))[1]
    assert "share no result" in text
    assert "only" not in text or "before: " in text


def test_names_are_shown_as_text():
    strange = "a`|\n# b\x1b[31m<script>"
    text, whole = changes_page(run(), run(WEAKER), (strange, "b"))
    assert "\n# b" not in text
    assert whole.startswith(text.split("\n")[0])
    assert whole.count("\n### ") == 2
