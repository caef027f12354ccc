"""Queries are guided by surrogates of labels until the known defense is seen to mislead them."""

import numpy as np
import pytest

from attacks.base import Known
from attacks.recover import RecoveredAnswers
from attacks.transfer_sets.guided_queries import GuidedQueries, share_changed

CLASSES = 3


def mad_answers(number, changed, eps=0.95):
    """Return answers under MAD, which moves them to the second class; the label of unsure ones changes.

    By hand: of .98 the label keeps .98 (1 - .475 / .99) = .51; of .85 it keeps .85 (1 - .475 / .925) = .41.
    """
    clean = np.where(np.arange(number)[:, None] < changed, [[0.85, 0.075, 0.075]], [[0.98, 0.01, 0.01]])
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
    answers[5:80] = np.nan
    assert not GuidedQueries(MAD).useful(answers).any()  # 5 of the 25 that were answered
    answers[5:] = np.nan
    useful = GuidedQueries(MAD).useful(answers)
    assert useful.sum() == 5


def test_the_share_counts_other_labels_and_answers_that_say_nothing():
    answers = np.array([[0.7, 0.2, 0.1]] * 4 + [[0.4, 0.4, 0.2]])
    rows = answers[:, [1, 0, 2]].copy()
    usable, explained = np.ones(5, dtype=bool), np.zeros(5, dtype=bool)
    explained[0] = True
    assert share_changed(RecoveredAnswers(rows, usable, explained, None), answers) == 0.25
    usable[1] = False
    assert share_changed(RecoveredAnswers(rows, usable, explained, None), answers) == 0.5
    tied = answers[4:]
    assert share_changed(RecoveredAnswers(tied, usable[4:], explained[4:], None), tied) == 0.0
