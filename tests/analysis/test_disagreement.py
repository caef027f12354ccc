"""Disagreement of the repeats of a cell, by the labels in its records."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from records import INSIDE, NONE, ROUNDED, SOFT, cell, evaluation, failed

from bench.analysis.disagreement import disagreement, disagreement_by_record

LABELS = np.array([[0, 1, 2, 3], [0, 1, 2, 0], [0, 9, 2, 3]], dtype=np.uint8)


def labelled(defense=NONE, labels=LABELS, budget=200):
    return [
        replace(
            record := cell(INSIDE, defense, SOFT, budget, repeat),
            arrays=record.arrays | {"surrogate_label": row},
        )
        for repeat, row in enumerate(labels)
    ]


def values(found):
    return {name.removeprefix("extraction."): interval.value for name, interval in found.items()}


def test_it_is_that_of_all_repeats_of_a_cell():
    assert values(disagreement(labelled())) == {"ambiguity": 0.5, "discrepancy": 0.5}
    assert values(disagreement(labelled()[:2])) == {"ambiguity": 0.25, "discrepancy": 0.25}


def test_without_the_labels_of_two_repeats_there_is_none():
    one, *others = labelled()
    assert disagreement([]) == disagreement([one]) == {}
    older = cell(INSIDE, NONE, SOFT, 200, 3)
    assert disagreement([one, *others, older]) == {}


def test_each_record_has_that_of_its_own_cell():
    first, other = labelled(), labelled(ROUNDED, LABELS[[0, 0, 1]])
    single = labelled(budget=800)[:1]
    records = [evaluation(NONE), *first, *other, *single, failed(cell(INSIDE, NONE, SOFT, 50, 0), "no")]
    found = disagreement_by_record(records)
    assert set(found) == {record.key for record in (*first, *other)}
    assert all(values(found[record.key])["ambiguity"] == 0.5 for record in first)
    assert all(values(found[record.key])["ambiguity"] == 0.25 for record in other)


def test_a_confirmation_run_is_no_further_repeat():
    usual = labelled()
    confirming = [
        replace(each, key=f"confirmed {each.key}", task=replace(each.cell, confirmation=True))
        for each in labelled(labels=LABELS[[0, 0, 0]])
    ]
    found = disagreement_by_record([*usual, *confirming])
    assert values(found[usual[0].key])["ambiguity"] == 0.5
    assert values(found[confirming[0].key])["ambiguity"] == 0
