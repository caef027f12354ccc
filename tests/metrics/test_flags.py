"""Flags: which cells should not be trusted as they stand."""

import numpy as np
import pytest

from bench.metrics import flags as checks

# Six of ten inputs are of class 0: chance is .6.
VICTIM = np.eye(3)[[0] * 6 + [1] * 3 + [2]]


def flags(fidelity=0.9, half=0.9, *, defended=False, learnt=10):
    return checks.cell_flags(fidelity, half, VICTIM, defended=defended, learnt=learnt)


def test_a_sound_cell_has_none():
    assert flags() == []


@pytest.mark.parametrize("half", [0.9, 0.8951, 0.9049])
def test_half_a_point_is_still(half):
    assert flags(half=half) == []


@pytest.mark.parametrize("half", [0.89, 0.91])
def test_more_than_half_a_point_is_moving(half):
    assert flags(half=half) == ["still_moving"]


@pytest.mark.parametrize(
    ("fidelity", "expected"), [(0.69, ["near_chance"]), (0.71, []), (0.1, ["near_chance"])]
)
def test_an_undefended_surrogate_near_the_commonest_label_is_flagged(fidelity, expected):
    assert flags(fidelity, fidelity) == expected


def test_a_defended_surrogate_may_be_near_chance():
    assert flags(0.6, 0.6, defended=True) == []


def test_an_attacker_without_any_answer_is_flagged_as_that():
    assert flags(0.1, 0.9, defended=True, learnt=0) == ["nothing_learnt"]
    assert flags(0.1, 0.1, learnt=0) == ["nothing_learnt", "near_chance"]


def test_every_flag_of_a_cell_is_in_the_numbered_list():
    found = {*flags(0.1, 0.9), *flags(learnt=0), "overlap"}
    assert found == {"still_moving", "near_chance", "nothing_learnt", "overlap"}
    assert found <= set(checks.FLAGS)


def test_a_surrogate_that_took_no_steps_cannot_be_moving():
    assert flags(half=None) == []
