"""The worker context makes each object once, and new APIs on every call."""

import numpy as np
import pytest

from bench.errors import MissingDataError, NotApplicable
from bench.runner.context import WorkerContext
from bench.tasks import VictimSpec

NOISE = ("gaussian_noise(scale=0.2)",)
GATE = ("mahalanobis(fpr=0.05, action=noise, layers=all)",)


def test_victims_pools_and_stacks_are_made_once(context, digits_spec):
    def everything():
        return [
            context.victim(digits_spec),
            context.pool(digits_spec, "noise", 0),
            context.stack(digits_spec, GATE, 0),
        ]

    assert all(one is other for one, other in zip(everything(), everything(), strict=True))


def test_pools_and_stacks_of_another_seed_are_others(context, digits_spec):
    assert (context.pool(digits_spec, "noise", 0).x != context.pool(digits_spec, "noise", 1).x).any()
    assert context.stack(digits_spec, GATE, 0) is not context.stack(digits_spec, GATE, 1)


def test_defenses_are_fitted_on_the_calibration_split(context, digits_spec):
    (gate,) = context.stack(digits_spec, GATE, 0).defenses
    assert 0 < gate.flagged_ <= 0.05
    assert not gate.fallback_
    calibration = context.victim(digits_spec).splits.calibration
    flagged = context.api(digits_spec, GATE, 0, 0).query(calibration.x, "one").flagged
    assert flagged.mean() == pytest.approx(gate.flagged_)


def test_a_defense_given_by_its_cost_is_found_once_a_victim(context, digits_spec):
    text = "reverse_sigmoid(gamma=0.1, l1=0.3)"
    (one,) = context.stack(digits_spec, (text,), 0).defenses
    assert repr(one) == text
    (other,) = context.stack(VictimSpec("digits", "logistic", 0), (text,), 0).defenses
    assert repr(one.effective) != repr(other.effective)
    assert context.stack(digits_spec, (text,), 0).defenses[0] is one


def test_a_utility_loss_out_of_reach_is_not_applicable_before_any_query(context, digits_spec):
    with pytest.raises(NotApplicable, match="rounded cannot reach a mean L1 of 1 on this victim"):
        context.api(digits_spec, ("rounded(l1=1.0)",), 0, 0)


def test_an_api_is_fresh_and_repeats_differ_in_noise_alone(context, digits_spec, digits_pool):
    x = digits_pool.x[:5]

    def answers(repeat, seed=0):
        return context.api(digits_spec, NOISE, seed, repeat).predict(x)

    assert (answers(0) == answers(0)).all()
    assert (answers(0) != answers(1)).any(axis=1).all()
    assert (answers(0) != answers(0, seed=1)).any(axis=1).all()
    one, other = (context.api(digits_spec, (), 0, repeat, budget=5) for repeat in (0, 1))
    assert (one.predict(x) == other.predict(x)).all()
    assert one.account.sent == other.account.sent == 5
    assert context.api(digits_spec, (), 0, 0, budget=5).account.sent == 0


def test_two_defenses_do_not_share_their_noise(context, digits_spec, digits_pool):
    x = digits_pool.x[:5]
    found = [
        context.api(digits_spec, (f"gaussian_noise(scale={scale})",), 0, 0).predict(x)
        for scale in (0.2, 0.200001)
    ]
    assert not np.allclose(*found, atol=1e-3)


def test_an_api_can_show_labels(context, digits_spec, digits_pool):
    shown = context.api(digits_spec, (), 0, 0, shows="labels").predict(digits_pool.x[:5])
    assert sorted(np.unique(shown)) == [0, 1]


def test_deployed_answers_are_those_to_clients_of_a_hundred_queries(context, digits_spec):
    x = context.victim(digits_spec).splits.test.x
    found = context.deployed(digits_spec, NOISE, 0, 1)
    api = context.api(digits_spec, NOISE, 0, 1)
    assert found.shape == (len(x), 10)
    assert (found[100:200] == api.predict(x[100:200], client="honest-100")).all()
    assert (found[400:] == api.predict(x[400:], client="honest-400")).all()
    assert context.deployed(digits_spec, NOISE, 0, 1) is found
    assert (context.deployed(digits_spec, NOISE, 0, 0) != found).any()


def test_what_does_not_vary_is_deployed_once(context, digits_spec):
    assert context.deployed(digits_spec, (), 0, 3) is context.deployed(digits_spec, (), 0, 0)


def test_a_pool_that_is_not_there_names_the_command(tmp_path, digits_spec):
    with pytest.raises(MissingDataError, match="moatbench data fetch usps"):
        WorkerContext(tmp_path).pool(digits_spec, "usps", 0)


def test_victims_of_two_seeds_are_two(context):
    one, other = (context.victim(VictimSpec("digits", "tree", seed)) for seed in (0, 1))
    assert one.fingerprint != other.fingerprint


def test_added_objects_are_there_and_can_be_forgotten(context, digits_spec, digits_victim, tmp_path):
    other = WorkerContext(tmp_path)
    other.add(context.loaded())
    assert other.victim(digits_spec) is digits_victim
    other.forget()
    assert other.loaded() == {}
    assert context.victim(digits_spec) is digits_victim
