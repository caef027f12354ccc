"""The time of tasks is estimated from what finished tasks took that are like them."""

from dataclasses import replace

import pytest
from records import AUDITS, INSIDE, LABELS, NONE, ROUNDED, SOFT, cell

from bench.plan.durations import Durations
from bench.records import Costs


def took(record, **seconds):
    return replace(record, costs=Costs(seconds=seconds))


def test_a_task_takes_what_the_same_attack_took_at_the_nearest_description():
    done = [
        took(cell(INSIDE, NONE, SOFT, 50, 0), acquire=1.0, train=2.0, query_model=0.5),
        took(cell(INSIDE, NONE, SOFT, 200, 0), acquire=1.0, train=6.0),
        took(cell(INSIDE, NONE, LABELS, 50, 0), train=1.0),
    ]
    known = Durations.of(done)
    assert known.of_task(cell(INSIDE, NONE, SOFT, 50, 1).task) == 3.0
    assert known.of_task(cell(INSIDE, NONE, SOFT, 200, 1).task) == 7.0
    assert known.of_task(cell(INSIDE, NONE, SOFT, 800, 1).task) == 5.0
    assert known.of_task(cell(INSIDE, ROUNDED, LABELS, 800, 1).task) == 1.0


def test_an_attack_with_a_slower_surrogate_takes_longer_by_as_much_as_one_that_ran_with_both():
    slow = INSIDE | {"surrogate": "cnn"}
    done = [
        took(cell(INSIDE, NONE, SOFT, 50, 0), train=2.0),
        took(cell(slow, NONE, SOFT, 50, 0), train=20.0),
        took(cell(INSIDE, NONE, LABELS, 50, 0), train=3.0),
    ]
    known = Durations.of(done)
    assert known.of_task(cell(slow, NONE, LABELS, 50, 0).task) == pytest.approx(30.0)
    assert known.of_task(cell(slow, NONE, SOFT, 200, 0).task) == 20.0
    assert known.of_task(cell(INSIDE, NONE, LABELS, 200, 0).task) == 3.0


def test_an_informed_attack_on_a_defense_acquires_once_more_for_all_repeats():
    record = cell(INSIDE | {"knowledge": "full"}, ROUNDED, SOFT, 50, 0)
    known = Durations.of([took(record, acquire=5.0, train=2.0)])
    assert known.of_task(record.task) == pytest.approx(7.0 + 5.0 / record.task.repeats)


def test_failed_records_and_those_without_a_time_count_for_nothing():
    failed = replace(took(cell(INSIDE, NONE, SOFT, 50, 0), train=9.0), status="failed")
    known = Durations.of([failed, took(cell(INSIDE, NONE, SOFT, 50, 1)), AUDITS[0]])
    assert known.means == {}


def test_an_estimate_names_how_many_tasks_are_unknown():
    done = [took(AUDITS[0], evaluation=2.0)]
    tasks = [AUDITS[0].task, AUDITS[1].task, cell(INSIDE, NONE, SOFT, 50, 0).task]
    found = Durations.of(done).estimate(tasks)
    assert (found.seconds, found.unknown) == (4.0, 1)
