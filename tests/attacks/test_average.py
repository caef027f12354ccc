"""Averaging: repeats are paid for, sent where answers change, and never where they do not."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from attacked_api import SEEDS, Setting, rows_of

from attacks import average
from attacks.average import Average, QueryLog, best_plan, even_counts, input_numbers, noise_model, with_noise
from attacks.base import Known
from attacks.copycat import Copycat
from bench.models.checked_stack import CheckedStack
from bench.models.interim_surrogates import InterimSurrogates
from bench.plugins import attacks
from defenses.base import Answers, Claims, Defense, DefenseStack

UNCHANGING = [
    (),
    ("rounded",),
    ("label_only",),
    ("output_noise(consistent=true)",),
    ("mahalanobis(action=refuse)",),
]
NOISE = ("gaussian_noise(scale=0.5)",)


class Odd(Defense):
    """Refuses every second query, and adds noise to the others."""

    claims = Claims(may_refuse=True, stochastic=True, counts_queries=True, keeps_label=False)

    def answer(self, batch):
        refused = (batch.number + np.arange(len(batch))) % 2 == 1
        told = batch.probabilities.copy()
        for row in range(len(batch)):
            told[row] = np.random.default_rng(batch.row_seed(row)).dirichlet(np.ones(told.shape[1]))
        told[refused] = np.nan
        return Answers(told, refused, np.zeros_like(refused))


class Wall(Defense):
    """Refuses everything."""

    claims = Claims(may_refuse=True)

    def answer(self, batch):
        refused = np.ones(len(batch), dtype=bool)
        return Answers(batch.probabilities.copy(), refused, ~refused)


class Rehearsal:
    """Stands in for training: copies that know all labels of the pool, or a given share of them."""

    def __init__(self, quality):
        self.quality, self.sets, self.x, self.y = quality, [], None, None

    def of(self, pool):
        self.x, self.y = {row.tobytes(): i for i, row in enumerate(pool.x)}, pool.y
        return self

    def fit(self, sets, effort=1.0):
        self.sets += sets
        return [partial(self._answer, share=self.quality(len(transfer_set))) for transfer_set, _ in sets]

    def _answer(self, x, share):
        labels = np.array([self.y[self.x[row.tobytes()]] for row in x])
        labels[round(share * len(x)) :] = (labels[round(share * len(x)) :] + 1) % 10
        return np.eye(10)[labels]


@pytest.fixture
def setting(context, digits_spec, digits_pool):
    return Setting(context, digits_spec, digits_pool)


@pytest.fixture
def api(setting):
    def make(stack=(), budget=100, knowledge="none"):
        return setting.api(stack, budget, knowledge=knowledge)

    return make


@pytest.fixture
def acquire(setting, digits_pool):
    """Return the transfer set of an attack, and the account of its queries."""

    def run(attack=None, stack=(), budget=100, knowledge="none", pool=digits_pool, quality=lambda n: n / 1e4):
        surrogates = Rehearsal(quality).of(pool)
        transfer_set, api = setting.acquire(
            attack or Average(), stack, budget, pool=pool, surrogates=surrogates, knowledge=knowledge
        )
        return transfer_set, api.account

    return run


def test_an_attacker_who_knows_that_there_is_no_defense_obtains_what_copycat_does(acquire):
    for budget in (1, 50, 500):
        transfer_set, account = acquire(budget=budget, knowledge="full")
        assert account.sent == budget
        assert transfer_set.facts["repeated"] == 0
        assert transfer_set.digest() == acquire(Copycat(use_probability=True), budget=budget)[0].digest()


@pytest.mark.parametrize("stack", UNCHANGING)
def test_answers_that_do_not_change_are_probed_at_four_hundredths_and_no_more(stack, acquire):
    for budget, probes in ((24, 0), (50, 2), (100, 4), (400, 4)):
        transfer_set, account = acquire(stack=stack, budget=budget)
        plain, _ = acquire(Copycat(use_probability=True), stack=stack, budget=budget - probes)
        assert account.sent == budget
        assert transfer_set.facts["repeated"] == probes
        np.testing.assert_array_equal(transfer_set.x, plain.x)
        np.testing.assert_allclose(transfer_set.y, plain.y, atol=1e-6)


def test_a_budget_above_the_pool_stays_unspent_where_answers_do_not_change(acquire):
    transfer_set, account = acquire(budget=800)
    assert len(transfer_set.x) == 500
    assert account.sent == 500 + transfer_set.facts["repeated"] <= 504


def test_a_budget_above_the_pool_goes_into_repeats_where_answers_change(acquire):
    transfer_set, account = acquire(stack=NOISE, budget=800)
    assert account.sent == 800
    assert len(set(rows_of(transfer_set.x))) == len(transfer_set.x) == 500
    assert transfer_set.facts["repeated"] == 300


@pytest.mark.parametrize(
    ("quality", "inputs"), [(lambda n: n / 1e4, 196), (lambda n: 0.9 if n < 60 else 0.1, 50)]
)
def test_the_plan_of_the_best_rehearsal_is_followed(quality, inputs, acquire):
    transfer_set, account = acquire(stack=NOISE, budget=200, quality=quality)
    assert account.sent == 200
    assert len(set(rows_of(transfer_set.x))) == len(transfer_set.x) == inputs
    assert transfer_set.facts["repeated"] == 200 - inputs


def test_in_doubt_new_inputs_are_queried(acquire):
    transfer_set, _ = acquire(stack=NOISE, budget=200, quality=lambda n: 0.5 if n == 200 else 0.54)
    assert transfer_set.facts["repeated"] == 4


def test_inputs_are_first_asked_in_the_order_of_the_shared_draw(acquire):
    plain, _ = acquire(Copycat(), budget=500)
    for quality in (lambda n: n / 1e4, lambda n: 1 / n):
        transfer_set, _ = acquire(stack=NOISE, budget=200, quality=quality)
        assert rows_of(transfer_set.x) == rows_of(plain.x)[: len(transfer_set.x)]


def test_a_row_is_the_mean_of_its_answers(api, digits_pool):
    seller = api(NOISE, 60)
    heard = []
    answer = seller.predict
    seller.predict = lambda x: heard.append((rows_of(x), answer(x))) or heard[-1][1]
    transfer_set = Average().acquire(seller, digits_pool, Rehearsal(lambda n: 1 / n).of(digits_pool), SEEDS)
    for x, y in zip(rows_of(transfer_set.x), transfer_set.y, strict=True):
        told = [
            row for rows, answers in heard for asked, row in zip(rows, answers, strict=True) if asked == x
        ]
        np.testing.assert_allclose(y, np.mean(told, axis=0), rtol=1e-5)
    assert transfer_set.y.dtype == np.float32


def test_votes_are_counted(acquire):
    transfer_set, _ = acquire(
        Average(use_probability=False), NOISE, 400, quality=lambda n: 1.0 if n == 200 else 0.1
    )
    shares = set(np.unique(transfer_set.y).tolist())
    assert shares == {0.0, 0.5, 1.0}
    np.testing.assert_array_equal(transfer_set.y.sum(axis=1), 1)


def test_what_was_answered_is_averaged_where_a_repeat_was_rejected(api, digits_pool):
    seller = api(budget=40)
    seller._stack = CheckedStack(DefenseStack((Odd(),)), 0)
    log = QueryLog(seller, digits_pool.x[:10])
    log.query(even_counts(10, 20))
    log.query(np.array([3] + [2] * 8))
    transfer_set = log.transfer_set(votes=False)
    # Of rounds of ten, the even places are answered; the third asks about the first input alone.
    assert rows_of(transfer_set.x) == rows_of(digits_pool.x[:10:2])
    assert np.isfinite(transfer_set.y).all()
    np.testing.assert_allclose(transfer_set.y.sum(axis=1), 1, rtol=1e-6)
    assert transfer_set.facts["repeated"] == 11
    assert seller.account.sent == 21


def test_a_wall_is_survived(api, digits_pool):
    seller = api(budget=50)
    seller._stack = CheckedStack(DefenseStack((Wall(),)), 0)
    transfer_set = Average().acquire(seller, digits_pool, Rehearsal(float), SEEDS)
    assert seller.account.sent == seller.account.refused == 50
    assert transfer_set.x.shape == (0, 1, 8, 8)
    assert transfer_set.y.shape == (0, 10)


@pytest.mark.parametrize("budget", [1, 2, 10, 24])
def test_tiny_budgets_buy_new_inputs_alone(budget, acquire):
    transfer_set, account = acquire(stack=NOISE, budget=budget)
    assert account.sent == len(transfer_set.x) == budget
    assert transfer_set.facts["repeated"] == 0


def test_a_pool_of_one_input_is_queried_again_and_again(acquire, digits_pool):
    one = replace(digits_pool, x=digits_pool.x[:1], y=digits_pool.y[:1])
    transfer_set, account = acquire(stack=NOISE, budget=64, pool=one)
    assert account.sent == 64
    assert len(transfer_set.x) == 1
    assert transfer_set.facts["repeated"] == 63


def test_a_small_pool_is_probed_for_what_it_leaves_over(acquire, digits_pool):
    ten = replace(digits_pool, x=digits_pool.x[:10], y=digits_pool.y[:10])
    transfer_set, account = acquire(stack=NOISE, budget=12, pool=ten)
    assert account.sent == 12
    assert len(transfer_set.x) == 10
    assert transfer_set.facts["repeated"] == 2


def test_two_runs_are_equal_with_real_rehearsals(api, digits_pool):
    surrogates = InterimSurrogates("logistic", (1, 8, 8), 10, 3)
    transfer_set = [Average().acquire(api(NOISE, 100), digits_pool, surrogates, SEEDS) for _ in range(2)]
    assert transfer_set[0].digest() == transfer_set[1].digest()


def test_plans_cost_the_same_and_leave_five_inputs_for_each_class(api):
    assert input_numbers(api(budget=400), 500) == [400, 200, 100, 50]
    assert input_numbers(api(budget=800), 500) == [500, 400, 200, 100]
    assert input_numbers(api(budget=99), 500) == [99]
    for number in input_numbers(api(budget=401), 500):
        assert even_counts(number, 401).sum() == 401
    np.testing.assert_array_equal(even_counts(3, 7), [3, 2, 2])


def test_the_noise_that_is_rehearsed_is_as_strong_as_that_of_the_answers(api, digits_pool, digits_victim):
    log = QueryLog(api(("output_noise(scale=0.05, keep_label=false)",), 600), digits_pool.x)
    log.query(np.ones(300, dtype=np.int64))
    log.query(np.full(300, 2))
    part, noise = noise_model(log)
    clean = digits_victim.probabilities(digits_pool.x[:300])
    told = log.rounds[0][1]
    # Clipping moves the mean answer; the noise is what an answer differs from its own mean.
    expected = np.mean(
        [np.var([a, b], axis=0, ddof=1).sum() for a, b in zip(told, log.rounds[1][1], strict=True)]
    )
    assert (noise**2).sum(axis=1).mean() == pytest.approx(expected)
    assert 0.7 < part < clean.max(axis=1).mean()
    rehearsal = with_noise(np.full((4000, 10), 0.1), noise, np.random.default_rng(0))
    assert (rehearsal >= 0).all()
    np.testing.assert_allclose(rehearsal.sum(axis=1), 1)


def test_a_row_that_noise_clips_away_is_uniform():
    told = with_noise(np.full((5, 4), 0.1), np.full((1, 4), 9.0), np.random.default_rng(3))
    assert (told == 0.25).all()  # either sign: all entries alike


@pytest.mark.parametrize("most", [100, 500])
def test_rehearsals_are_judged_on_inputs_that_no_plan_asks_about(most, digits_pool):
    surrogates, judged = Rehearsal(float).of(digits_pool), []
    surrogates._answer = lambda x, share: judged.append(rows_of(x)) or np.full((len(x), 10), 0.1) + 0 * share
    plans = [even_counts(most, most), even_counts(most // 2, most)]
    met = (0.5, np.full((2, 10), 0.1))
    assert best_plan(plans, met, digits_pool.y, Average(), surrogates, digits_pool.x, SEEDS) == 0
    asked = {row for x, _ in surrogates.sets for row in rows_of(x)}
    assert len(surrogates.sets) == len(judged) == 2 * average.SIMULATIONS
    assert all(len(rows) >= 125 and asked.isdisjoint(rows) for rows in judged)


@pytest.mark.parametrize(("scale", "best"), [(0.0, 0), (0.1, 0), (0.8, 1)])
def test_a_rehearsal_asks_for_repeats_behind_strong_noise_alone(scale, best, digits_pool):
    surrogates = InterimSurrogates("logistic", (1, 8, 8), 10, 3)
    plans = [even_counts(320, 320), even_counts(80, 320)]
    met = (0.3, np.random.default_rng(0).normal(0, scale, (50, 10)))
    assert best_plan(plans, met, digits_pool.y, Average(), surrogates, digits_pool.x, SEEDS) == best


def test_it_sends_repeats_and_knows_what_there_is_to_know():
    assert Average().supply(7) is None
    assert set(Average.knowledge) == {"none", "family", "full"}
    assert repr(attacks.build("average")) == "average(use_probability=true)"
    assert Known("x").parameters is None
