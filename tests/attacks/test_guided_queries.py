"""Queries are guided by surrogates of labels until the known defense is seen to mislead them."""

import numpy as np
import pytest

from attacks.base import Known
from attacks.recover import RecoveredAnswers
from attacks.transfer_sets.guided_queries import GuidedQueries, changed_labels

CLASSES = 3


def mad_answers(number, changed, eps=0.95):
    """Return answers under MAD, which moves them to the second class; the label of unsure ones changes.

    By hand: of .98 the label keeps .98 (1 - .475 / .99) = .51; of .85 it keeps .85 (1 - .475 / .925) = .41.
    """
    spread = np.isin(np.arange(number), np.arange(changed) * number // max(1, changed))
    clean = np.where(spread[:, None], [[0.85, 0.075, 0.075]], [[0.98, 0.01, 0.01]])
    target = np.eye(CLASSES)[1]
    share = eps / np.abs(clean - target).sum(axis=1, keepdims=True)
    answers = (1 - share) * clean + share * target
    assert (answers.argmax(axis=1) == 1).sum() == changed
    return answers


MAD = (Known("mad", {"eps": 0.95, "proxy": "scratch"}),)


@pytest.mark.parametrize(
    ("known", "number", "changed", "guided"),
    [
        (MAD, 100, 5, True),
        (MAD, 100, 20, False),
        (MAD, 19, 19, True),  # too few to judge
        ((Known("mad", None),), 100, 20, True),  # nobody knows how strong it is
        ((), 100, 20, True),
    ],
)
def test_changed_labels_guide_no_query(known, number, changed, guided):
    answers = mad_answers(number, changed)
    useful = GuidedQueries(known).useful(answers)
    assert useful.all() if guided else not useful.any()


def test_rejected_answers_are_not_judged():
    answers = mad_answers(100, 5)
    unsure = np.flatnonzero(answers.argmax(axis=1) == 1)
    answers[np.setdiff1d(np.arange(80), unsure)] = np.nan
    assert not GuidedQueries(MAD).useful(answers).any()  # 5 of the 25 that were answered
    answers[np.setdiff1d(np.arange(100), unsure)] = np.nan
    useful = GuidedQueries(MAD).useful(answers)
    assert useful.sum() == 5


def test_once_misled_no_query_is_guided_again():
    """Batches end at 25 and 35 answers; none of the next is changed, and the share falls to 7 %."""
    answers = mad_answers(100, 0)
    answers[[0, 5, 10, 15, 20, 26, 30]] = mad_answers(1, 1)
    assert (answers.argmax(axis=1) == 1).mean() == 0.07
    assert not GuidedQueries(MAD).useful(answers).any()
    # As many, but of no batch more than a tenth.
    answers = mad_answers(100, 0)
    answers[[0, 40, 50, 60, 70, 80, 90]] = mad_answers(1, 1)
    assert GuidedQueries(MAD).useful(answers).all()


def test_changed_are_other_labels_and_answers_that_say_nothing():
    answers = np.array([[0.7, 0.2, 0.1]] * 4)
    rows = answers[:, [1, 0, 2]].copy()
    usable, explained = np.ones(4, dtype=bool), np.zeros(4, dtype=bool)
    explained[0] = True
    found = changed_labels(RecoveredAnswers(rows, usable, explained, None), answers)
    assert found.tolist() == [True, False, False, False]
    usable[1] = False
    found = changed_labels(RecoveredAnswers(rows, usable, explained, None), answers)
    assert found.tolist() == [True, True, False, False]


def test_tied_answers_are_not_judged():
    """6 changed ones of 100 are few; of the 40 that have a label, they would be many."""
    answers = mad_answers(100, 6)
    plain = answers.argmax(axis=1) == 0
    answers[plain & (np.arange(100) % 3 > 0)] = [0.4, 0.4, 0.2]
    assert not GuidedQueries(MAD).useful(answers).any()
