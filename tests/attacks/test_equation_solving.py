"""Equation solving: exact where answers are exact, and better than retraining where they are not."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
from cases import slow_unless
from scipy.optimize import approx_fprime

from attacks import equation_solving
from attacks.base import Pool, RandomSeeds, Target, TransferSet
from attacks.copycat import Copycat
from attacks.equation_solving import FITS, EquationSolving, LinearModel, _Rows, explain, log_odds, solve
from bench.models.sklearn_surrogates import fit_estimator
from bench.plugins import defenses
from bench.tasks import VictimSpec

LOGISTIC = VictimSpec("digits", "logistic", 0)
STREAMS = RandomSeeds(order=11, choices=12)
CLASSES, SHAPE = 4, (1, 3, 3)
ENOUGH = 10
"""Nine pixels and a bias."""


@dataclass
class Teller:
    """An API that answers with ``tell`` of what a linear victim says."""

    victim: LinearModel
    tell: object
    budget: int
    nb_classes: int = CLASSES
    input_shape: tuple = SHAPE

    def predict(self, x, batch_size=256):
        return self.tell(self.victim(x))


@pytest.fixture
def victim():
    rng = np.random.default_rng(0)
    return LinearModel(rng.normal(0, 2, (9, CLASSES)), rng.normal(0, 1, CLASSES))


@pytest.fixture
def pool():
    x = np.random.default_rng(1).random((200, *SHAPE), dtype=np.float32)
    return Pool("noise", x, np.zeros(200, np.int64), "none", same_classes=False)


@pytest.fixture
def fresh():
    return np.random.default_rng(2).random((300, *SHAPE), dtype=np.float32)


def steal(victim, pool, tell=lambda told: told, budget=80):
    return EquationSolving().acquire(Teller(victim, tell, budget), pool, None, STREAMS)


def one_hot(told):
    return np.eye(told.shape[1])[told.argmax(axis=1)]


def top_two(told):
    return np.where(told >= np.sort(told, axis=1)[:, -2:-1], told, 0.0)


def noisy(told):
    drawn = np.maximum(told + np.random.default_rng(3).normal(0, 0.1, told.shape), 1e-9)
    return drawn / drawn.sum(axis=1, keepdims=True)


# --- exact answers


@pytest.mark.parametrize("name", ["noise", "synthetic", "glyphs", "sparse-noise", "gaussian-noise"])
def test_300_images_of_no_real_data_give_a_logistic_victim_away(name, context):
    victim = context.victim(LOGISTIC)
    api = context.api(LOGISTIC, (), 0, 0, budget=300)
    bought = EquationSolving().acquire(api, context.pool(LOGISTIC, name, 0), None, STREAMS)
    test = victim.splits.test.x
    assert (bought.surrogate(test).argmax(axis=1) == victim.probabilities(test).argmax(axis=1)).all()
    assert 60 <= bought.facts["queries_needed"] <= 65
    assert bought.facts["residual"] < 1e-12


def test_exact_answers_give_the_very_probabilities_and_as_many_are_needed_as_there_are_unknowns(
    victim, pool, fresh
):
    bought = steal(victim, pool)
    np.testing.assert_allclose(bought.surrogate(fresh), victim(fresh), atol=1e-12)
    assert bought.facts["queries_needed"] == ENOUGH
    assert bought.facts["residual"] < 1e-14


@pytest.mark.parametrize(
    ("budget", "needed"), [(1, None), (2, None), (10, None), (11, 10), (12, 10), (200, 10)]
)
def test_one_answer_more_than_needed_confirms_them(budget, needed, victim, pool):
    assert steal(victim, pool, budget=budget).facts["queries_needed"] == needed


def test_pixels_that_never_vary_need_no_equation_and_get_no_weight(victim, pool):
    pool.x[:, 0, 0, :2] = 0.5
    bought = steal(victim, pool)
    assert bought.facts["queries_needed"] == ENOUGH - 2
    np.testing.assert_allclose(bought.surrogate.weights[:2], 0, atol=1e-12)
    np.testing.assert_allclose(bought.surrogate(pool.x), victim(pool.x), atol=1e-12)


def test_single_precision_is_exact_enough(victim, pool, fresh):
    bought = steal(victim, pool, lambda told: told.astype(np.float32).astype(np.float64))
    assert ENOUGH <= bought.facts["queries_needed"] <= ENOUGH + 5
    np.testing.assert_allclose(bought.surrogate(fresh), victim(fresh), atol=1e-4)


def test_too_few_exact_answers_are_at_least_explained(victim, pool, fresh):
    bought = steal(victim, pool, budget=8)
    assert bought.facts["queries_needed"] is None
    agree = bought.surrogate(fresh).argmax(axis=1) == victim(fresh).argmax(axis=1)
    assert agree.mean() > 0.7


def test_whole_answers_between_bare_labels_are_equations_enough(victim, pool, fresh):
    def told_in_part(told):
        return np.where(np.arange(len(told))[:, None] % 2 == 0, one_hot(told), told)

    bought = steal(victim, pool, told_in_part)
    np.testing.assert_allclose(bought.surrogate(fresh), victim(fresh), atol=1e-12)
    assert bought.facts["queries_needed"] == 2 * ENOUGH


def test_a_few_answers_that_say_nothing_are_not_taken_for_the_victim(victim, pool, fresh):
    def mostly_labels(told):
        return np.where(np.arange(len(told))[:, None] < 3, 1 / CLASSES, one_hot(told))

    bought = steal(victim, pool, mostly_labels)
    assert bought.facts["queries_needed"] is None
    assert (bought.surrogate(fresh).argmax(axis=1) == victim(fresh).argmax(axis=1)).mean() > 0.8


# --- what was bought


def test_it_sends_what_copycat_sends(victim, pool):
    ours = steal(victim, pool)
    theirs = Copycat(use_probability=True).acquire(Teller(victim, lambda told: told, 80), pool, None, STREAMS)
    assert isinstance(ours, TransferSet)
    assert ours.digest() == theirs.digest()


def test_rejected_answers_are_dropped_and_not_counted(victim, pool, fresh):
    def refuse_some(told):
        return np.where(np.arange(len(told))[:, None] % 4 == 0, np.nan, told)

    bought = steal(victim, pool, refuse_some)
    assert len(bought.x) == len(bought.y) == 60
    assert bought.facts["queries_needed"] == ENOUGH
    np.testing.assert_allclose(bought.surrogate(fresh), victim(fresh), atol=1e-12)


def test_whoever_obtained_nothing_answers_uniformly(victim, pool, fresh):
    bought = steal(victim, pool, lambda told: told * np.nan)
    assert bought.x.shape == (0, *SHAPE)
    assert (bought.surrogate(fresh) == 1 / CLASSES).all()
    assert bought.facts == {"queries_needed": None, "residual": None}


@pytest.mark.parametrize("tell", [one_hot, noisy, top_two, np.zeros_like])
@pytest.mark.parametrize("budget", [1, 2, 3])
def test_a_handful_of_inexact_answers_is_survived(tell, budget, victim, pool, fresh):
    copy = steal(victim, pool, tell, budget).surrogate
    assert np.isfinite(copy(fresh)).all()
    np.testing.assert_allclose(copy(fresh).sum(axis=1), 1)


def test_one_input_queried_again_and_again_is_survived(victim, pool, fresh):
    pool.x[:] = pool.x[0]
    copy = steal(victim, pool, partial(np.round, decimals=2), 20).surrogate
    np.testing.assert_allclose(copy(pool.x[:1]), victim(pool.x[:1]), atol=0.05)
    assert np.isfinite(copy(fresh)).all()


def test_a_copys_answer_does_not_depend_on_what_is_asked_beside_it(victim, pool, fresh):
    copy = steal(victim, pool).surrogate
    alone = np.concatenate([copy(fresh[row : row + 1]) for row in range(len(fresh))])
    assert (alone == copy(fresh)).all()
    assert copy(fresh[:0]).shape == (0, CLASSES)


def test_it_is_for_victims_that_may_be_linear(pool):
    attack = EquationSolving()
    assert "not linear" in attack.applicable(pool, Target(10, linear=False))
    assert attack.applicable(pool, Target(10, linear=True)) == ""
    assert attack.applicable(pool, Target(10, linear=None)) == ""


# --- inexact answers

STACKS = [
    "rounded(decimals=1)",
    "rounded(decimals=2)",
    "gaussian_noise(scale=0.05)",
    "high_confidence",
    "top_k",
    "label_only",
    "reverse_sigmoid",
]


@pytest.mark.parametrize("stack", slow_unless(lambda stack: stack in STACKS[::3], STACKS))
def test_it_beats_retraining_on_the_same_answers(stack, context):
    victim = context.victim(LOGISTIC)
    api = context.api(LOGISTIC, (defenses.canonical(stack),), 0, 0, budget=250)
    bought = EquationSolving().acquire(api, context.pool(LOGISTIC, "glyphs", 0), None, STREAMS)
    test = victim.splits.test.x
    label = victim.probabilities(test).argmax(axis=1)
    solved = (bought.surrogate(test).argmax(axis=1) == label).mean()
    retrained = fit_estimator("sklearn-logistic", bought, 10, 0)
    assert solved > (retrained(test).argmax(axis=1) == label).mean() + 0.01
    assert bought.facts["queries_needed"] is None


@pytest.mark.parametrize("tell", [partial(np.round, decimals=1), noisy, one_hot])
def test_the_fit_that_is_chosen_explains_new_answers_nearly_as_well_as_the_best_there_is(
    tell, victim, pool, fresh
):
    x, told, new = pool.x[:100].reshape(100, -1).astype(np.float64), tell(victim(pool.x[:100])), victim(fresh)

    def error(model):
        return ((model(fresh) - tell(new)) ** 2).mean()

    middle = x.mean(axis=0)
    rows = _Rows.read(x - middle, told)
    every = []
    for measure, ridges in FITS[1:]:
        for ridge in ridges:
            theta = rows.fit(measure, ridge, np.zeros((10, CLASSES)))
            every.append(error(LinearModel(theta[:-1], theta[-1] - middle @ theta[:-1])))
    assert error(explain(x, told)) < 1.1 * min(every)
    assert max(every) > 1.3 * min(every)


def test_what_was_cut_off_is_not_taken_for_zero(victim, pool, fresh):
    told = victim(pool.x)
    x, told = pool.x, np.where(told == told.min(axis=1, keepdims=True), 0.0, told)
    as_told = explain(x.reshape(len(x), -1).astype(np.float64), told / told.sum(axis=1, keepdims=True))
    cut, needed = solve(x, told)
    assert needed is None
    assert np.abs(cut(fresh) - victim(fresh)).max() < 0.01
    assert np.abs(as_told(fresh) - victim(fresh)).max() > 0.05


def test_cut_entries_do_not_count_as_wrong(victim, pool):
    assert steal(victim, pool, top_two, 200).facts["residual"] < 0.005
    assert steal(victim, pool, one_hot).facts["residual"] > 0.01


@pytest.mark.parametrize(
    ("told", "target", "cut"),
    [
        ([0.5, 0.2, 0, 0], [0.5, 0.2, 0, 0], [0, 0, 1, 1]),  # cut off
        ([0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]),  # says nothing
        ([0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]),  # a label
        ([0.6, 0.6, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 0, 0]),  # rounded up
        ([0.2, 0.2, 0.2, 0.2], [0.25, 0.25, 0.25, 0.25], [0, 0, 0, 0]),  # rounded down
        ([-0.1, 0.5, 0.5, 0], [0, 0.5, 0.5, 0], [0, 0, 0, 0]),  # noise
    ],
)
def test_answers_are_read_as_they_come(told, target, cut):
    rows = _Rows.read(np.zeros((1, 2)), np.array([told]))
    np.testing.assert_allclose(rows.target[0], target)
    assert rows.cut[0].tolist() == cut
    assert rows.x.tolist() == [[0, 0, 1]]


@pytest.mark.parametrize("measure", ["likelihood", "squares"])
def test_slopes_are_those_of_the_measures(measure, victim, pool):
    told = victim(pool.x[:6])
    told[:2], told[2:4], told[4] = one_hot(told[:2]), top_two(told[2:4]), 0
    rows = _Rows.read(pool.x[:6].reshape(6, -1), told)
    theta = np.random.default_rng(4).normal(0, 0.5, (10, CLASSES))

    def value(flat):
        return getattr(rows, measure)(flat.reshape(theta.shape), 0.3)[0]

    slope = getattr(rows, measure)(theta, 0.3)[1]
    np.testing.assert_allclose(slope.ravel(), approx_fprime(theta.ravel(), value, 1e-7), atol=1e-5)


def test_an_answer_that_says_nothing_pulls_nowhere(pool):
    rows = _Rows.read(pool.x[:3].reshape(3, -1), np.zeros((3, CLASSES)))
    theta = np.random.default_rng(4).normal(0, 0.5, (10, CLASSES))
    for measure in (rows.likelihood, rows.squares):
        loss, slope = measure(theta, 0.0)
        assert loss == pytest.approx(0, abs=1e-12)
        np.testing.assert_allclose(slope, 0, atol=1e-12)


def test_the_bias_is_not_penalised(pool):
    rows = _Rows.read(pool.x[:3].reshape(3, -1), np.zeros((3, CLASSES)))
    theta = np.zeros((10, CLASSES))
    theta[-1] = [3, 1, 0, 0]
    assert rows.likelihood(theta, 1.0)[0] == pytest.approx(0, abs=1e-12)
    theta[0] = [2, 0, 0, 0]
    assert rows.likelihood(theta, 1.0)[0] == pytest.approx(2, abs=1e-12)


def test_log_odds_do_not_know_what_a_row_sums_to(victim, pool):
    told = victim(pool.x)
    np.testing.assert_allclose(log_odds(told), log_odds(3 * told), atol=1e-12)


def test_many_answers_are_judged_on_one_fold(victim, pool, monkeypatch):
    asked = []
    monkeypatch.setattr(
        _Rows, "part", lambda rows, mask, part=_Rows.part: asked.append(1) or part(rows, mask)
    )
    steal(victim, pool, one_hot)
    folds = len(asked)
    monkeypatch.setattr(equation_solving, "MANY", 80)
    copy = steal(victim, pool, one_hot).surrogate
    assert len(asked) - folds == 2 < folds
    assert (copy(pool.x).argmax(axis=1) == victim(pool.x).argmax(axis=1)).mean() > 0.85
