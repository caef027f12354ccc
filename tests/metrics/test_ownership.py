import numpy as np
import pytest
from scipy import stats

from bench.metrics import ownership
from bench.metrics.ownership import binomial_tail, by_disagreements, by_independent_models, needed, power


@pytest.mark.parametrize(
    ("k", "n", "p"), [(0, 5, 0.1), (1, 5, 0.1), (5, 5, 0.1), (6, 5, 0.1), (3, 40, 1 / 9), (0, 0, 0.5)]
)
def test_the_tail_is_that_of_the_binomial_distribution(k, n, p):
    assert binomial_tail(k, n, p) == pytest.approx(stats.binom.sf(k - 1, n, p))


def keyed(rng, n, classes):
    """Return the victim's labels of n triggers, and the wrong ones that a key drew."""
    victim = rng.integers(0, classes, n)
    return (victim + 1 + rng.integers(0, classes - 1, n)) % classes, victim


@pytest.mark.parametrize("classes", [3, 10])
@pytest.mark.parametrize("agreement", [0.0, 0.5, 0.95])
def test_an_independent_model_is_recognised_no_more_often_than_alpha(classes, agreement):
    """Whatever its agreement with the victim. A correct test fails here with a probability below 1e-6."""
    rng, alpha, tries, accused = np.random.default_rng(1), 0.05, 2000, 0
    says = rng.integers(0, classes, 30)
    for _ in range(tries):
        wrong, victim = keyed(rng, 30, classes)
        said = np.where(rng.random(30) < agreement, victim, says)
        accused += by_disagreements(said, wrong, victim, classes).p_value <= alpha
    assert stats.binom.sf(accused - 1, tries, alpha) > 1e-6


def test_agreement_with_the_victim_counts_for_nothing():
    wrong, victim = keyed(np.random.default_rng(2), 50, 10)
    found = by_disagreements(victim, wrong, victim, 10)
    assert (found.compared, found.matches, found.p_value) == (0, 0, 1.0)


def test_a_model_that_says_the_wrong_classes_is_recognised():
    wrong, victim = keyed(np.random.default_rng(3), 20, 10)
    says = np.where(np.arange(20) < 6, wrong, victim)
    found = by_disagreements(says, wrong, victim, 10)
    assert (found.triggers, found.compared, found.matches) == (20, 6, 6)
    assert found.p_value == pytest.approx(9.0**-6)


def test_two_classes_need_independent_models():
    with pytest.raises(ValueError, match="independent"):
        by_disagreements(np.zeros(2, int), np.ones(2, int), np.zeros(2, int), 2)
    with pytest.raises(ValueError, match="at least one"):
        by_independent_models(3, 10, [], 0.01)


def test_a_model_that_matches_as_independent_ones_do_is_not_recognised():
    assert by_independent_models(10, 100, [8, 10, 9], 0.01).p_value > 0.01
    assert by_independent_models(70, 100, [8, 10, 9], 0.01).p_value < 0.01


def test_against_independent_models_false_accusations_are_as_rare_as_stated():
    """The suspect matches as often as the others, each trigger with .1; chance of failure below 1e-6."""
    rng, alpha, tries = np.random.default_rng(4), 0.05, 2000
    draws = rng.binomial(60, 0.1, (tries, 4))
    accused = sum(by_independent_models(row[0], 60, list(row[1:]), alpha).p_value <= alpha for row in draws)
    assert stats.binom.sf(accused - 1, tries, alpha) > 1e-6


@pytest.mark.parametrize("disagreements", [True, False])
@pytest.mark.parametrize("chance", [1 / 9, 0.3])
def test_the_number_that_is_needed_has_the_power_and_one_fewer_has_not(chance, disagreements):
    n = needed(chance, 0.001, disagreements=disagreements)
    assert power(n, chance, 0.001, disagreements=disagreements) >= ownership.POWER
    assert power(n - 1, chance, 0.001, disagreements=disagreements) < ownership.POWER


def test_no_number_of_triggers_helps_where_independent_models_match_as_often():
    assert needed(0.6, 0.001, disagreements=False) is None
