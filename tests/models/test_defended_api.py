"""The defended API: its answers, its budget and its account of queries."""

from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from art.attacks.extraction import CopycatCNN
from art.estimators.classification import PyTorchClassifier

from attacks.base import Known
from bench.errors import BudgetError
from bench.models import surrogates
from bench.models.defended_api import DefendedAPI, one_hot_labels
from bench.models.determinism import torch_seed
from bench.seeds import legacy_numpy
from defenses.base import Answers, Claims, Defense, DefenseStack


class Gate(Defense):
    """Refuses answers of class 1 and flags those of classes 1 and 2."""

    claims: ClassVar[Claims] = Claims(may_refuse=True, may_flag=True)

    def answer(self, batch):
        label = batch.raw.argmax(axis=1)
        return Answers(batch.probabilities.copy(), label == 1, (label == 1) | (label == 2))


class Spy(Defense):
    """Keeps the batches it is given."""

    def __init__(self):
        self.seen = []

    def answer(self, batch):
        self.seen.append(batch)
        return Answers.of(batch.probabilities.copy())


@pytest.fixture
def api_of(digits_victim):
    def make(*defenses, budget=None, seed=1, shows="probabilities"):
        return DefendedAPI(digits_victim, DefenseStack(defenses), budget=budget, seed=seed, shows=shows)

    return make


@pytest.fixture
def noisy(context, digits_spec):
    """Return an API whose answers carry fresh noise."""

    def make(seed=1):
        stack = context.stack(digits_spec, ("gaussian_noise(scale=0.2)",), 0)
        return DefendedAPI(context.victim(digits_spec), stack, budget=None, seed=seed)

    return make


@pytest.fixture
def x(digits_pool):
    return digits_pool.x[:50]


def test_answers_are_the_victims_where_nothing_defends_it(api_of, digits_victim, x):
    api = api_of()
    assert (api.predict(x) == digits_victim.probabilities(x)).all()
    assert api.input_shape == (1, 8, 8)
    assert api.nb_classes == 10


def test_the_budget_is_hard_and_nothing_is_answered_beyond_it(api_of, x):
    spy = Spy()
    api = api_of(spy, budget=10)
    with pytest.raises(BudgetError, match="11 answers with 10 left of a budget of 10"):
        api.predict(x[:11])
    assert api.account.sent == 0
    assert not spy.seen
    api.predict(x[:7])
    with pytest.raises(BudgetError, match="4 answers with 3 left"):
        api.predict(x[:4])
    assert api.predict(x[:3]).shape == (3, 10)
    with pytest.raises(BudgetError, match="0 left"):
        api.predict(x[:1])
    assert api.account.sent == api.account.answered == 10
    assert sum(len(batch) for batch in spy.seen) == 10


def test_no_other_client_of_the_same_api_adds_to_the_budget(api_of, x):
    api = api_of(budget=10)
    api.predict(x[:6], client="one")
    with pytest.raises(BudgetError):
        api.predict(x[:5], client="other")


def test_repeated_and_rejected_queries_count(api_of, digits_victim, x):
    label = digits_victim.probabilities(x).argmax(axis=1)
    api = api_of(Gate(), budget=200)
    for _ in range(2):
        api.predict(x)
    account = api.account
    assert account.sent == 2 * len(x)
    assert account.refused == 2 * (label == 1).sum() > 0
    assert account.answered == account.sent - account.refused
    assert account.flagged == 2 * np.isin(label, [1, 2]).sum() > account.refused
    assert account.seconds_model > 0
    assert account.seconds_defense > 0


def test_benign_traffic_has_no_budget(api_of, x):
    api = api_of()
    for _ in range(20):
        api.predict(x)
    assert api.account.sent == 20 * len(x)


def test_rejected_queries_come_as_rows_of_nan(api_of, digits_victim, x):
    refused = digits_victim.probabilities(x).argmax(axis=1) == 1
    answers = api_of(Gate()).query(x, "client")
    assert (answers.refused == refused).all()
    assert (np.isnan(answers.probabilities).all(axis=1) == refused).all()
    assert (np.isnan(answers.probabilities).any(axis=1) == refused).all()


def test_labels_are_one_hot_and_rejected_rows_stay(api_of, digits_victim, x):
    label = digits_victim.probabilities(x).argmax(axis=1)
    shown = api_of(Gate(), shows="labels").predict(x)
    assert (np.isnan(shown).all(axis=1) == (label == 1)).all()
    given = shown[label != 1]
    assert (given == np.eye(10)[label[label != 1]]).all()


def test_the_first_of_several_maxima_is_the_label():
    shown = one_hot_labels(np.array([[0.4, 0.4, 0.2], [0, 0, 0], [np.nan] * 3]))
    assert (shown[:2] == [[1, 0, 0], [1, 0, 0]]).all()
    assert np.isnan(shown[2]).all()


@pytest.mark.parametrize("shape", [(3, 8, 8), (3, 1, 28, 28), (3, 64), (3, 3, 8, 8), (8, 8)])
def test_queries_of_another_shape_raise_and_do_not_count(api_of, shape):
    api = api_of(budget=3)
    with pytest.raises(ValueError, match="queries must be"):
        api.predict(np.zeros(shape, np.float32))
    assert api.account.sent == 0


def test_no_query_gets_no_answer(api_of, x):
    api = api_of(budget=0)
    assert api.predict(x[:0]).shape == (0, 10)
    assert api.account.sent == 0


def test_double_precision_and_strided_queries_are_the_same_queries(api_of, x):
    api = api_of()
    wide = x.astype(np.float64)
    assert (api.predict(wide) == api.predict(x)).all()
    assert (api.predict(x[::-1])[::-1] == api.predict(x)).all()


def test_the_batch_size_changes_nothing(api_of, x):
    assert (api_of().predict(x, batch_size=1) == api_of().predict(x, batch_size=7)).all()


def test_a_repeated_query_gets_fresh_noise(noisy, x):
    api = noisy()
    one, other = api.predict(x[:5]), api.predict(x[:5])
    assert (one != other).any(axis=1).all()
    twice = noisy().predict(np.concatenate([x[:1], x[:1]]))
    assert (twice[0] != twice[1]).any()


def test_noise_is_the_same_for_the_same_seed_client_and_number(noisy, x):
    whole = noisy().predict(x[:20])
    assert (noisy().predict(x[:20]) == whole).all()
    api = noisy()
    assert (np.concatenate([api.predict(x[s : s + 5]) for s in range(0, 20, 5)]) == whole).all()


def test_noise_differs_between_clients_and_seeds(noisy, x):
    one = noisy().predict(x[:5], client="one")
    assert (noisy().predict(x[:5], client="other") != one).any(axis=1).all()
    assert (noisy(seed=2).predict(x[:5], client="one") != one).any(axis=1).all()


def test_one_clients_traffic_leaves_anothers_noise_alone(noisy, x):
    api = noisy()
    api.predict(x[:9], client="other")
    assert (api.predict(x[:5], client="one") == noisy().predict(x[:5], client="one")).all()


def test_a_defense_sees_client_number_input_and_features(api_of, digits_victim, x):
    spy = Spy()
    api = api_of(spy)
    api.query(x[:3], "one")
    api.query(x[:2], "other")
    api.query(x[3:5], "one")
    assert [(batch.client, batch.number) for batch in spy.seen] == [("one", 0), ("other", 0), ("one", 3)]
    last = spy.seen[-1]
    assert (last.inputs == x[3:5]).all()
    assert (last.raw == digits_victim.probabilities(x[3:5])).all()
    assert last.seed == spy.seen[0].seed != spy.seen[1].seed
    assert [depth.shape[1] for depth in last.read_features(x[:2])] == [128, 64, 10]


def test_a_query_beyond_the_budget_leaves_the_noise_stream_where_it_was(context, digits_spec, x):
    stack = context.stack(digits_spec, ("gaussian_noise(scale=0.2)",), 0)
    victim = context.victim(digits_spec)
    api = DefendedAPI(victim, stack, budget=5, seed=1)
    with pytest.raises(BudgetError):
        api.predict(x[:6])
    assert (api.predict(x[:5]) == DefendedAPI(victim, stack, budget=5, seed=1).predict(x[:5])).all()


def test_answers_are_the_clients_own_to_change(api_of, digits_victim, x):
    api_of().predict(x)[:] = 0
    assert np.allclose(digits_victim.probabilities(x).sum(axis=1), 1)


def test_arts_copycat_takes_it_as_it_is(api_of, x):
    api = api_of(budget=32)
    network = surrogates.initial_network("mlp", (1, 8, 8), 10, 0)
    copy = PyTorchClassifier(
        model=network,
        loss=torch.nn.CrossEntropyLoss(),
        optimizer=torch.optim.Adam(network.parameters(), lr=3e-3),
        input_shape=(1, 8, 8),
        nb_classes=10,
    )
    attack = CopycatCNN(
        api, batch_size_fit=16, batch_size_query=8, nb_epochs=30, nb_stolen=32, use_probability=True
    )
    with legacy_numpy(0), torch_seed(0):
        stolen = attack.extract(x, thieved_classifier=copy)
    assert api.account.sent == 32
    agrees = stolen.predict(x).argmax(axis=1) == api_of().predict(x).argmax(axis=1)
    assert agrees.mean() > 0.5


def test_a_victim_without_features_offers_none(digits_victim, x):
    spy = Spy()
    DefendedAPI(replace(digits_victim, features=None), DefenseStack((spy,)), budget=None, seed=0).predict(
        x[:1]
    )
    assert spy.seen[0].read_features is None


def test_an_attacker_knows_what_the_threat_model_says(digits_victim, context, digits_spec):
    texts = ("rounded(decimals=2)", "reverse_sigmoid(gamma=0.2, l1=0.3)")
    stack = context.stack(digits_spec, texts, 0)

    def known(knowledge, stack=stack):
        return DefendedAPI(digits_victim, stack, budget=1, seed=0, knowledge=knowledge).known

    assert known("none") is None
    assert known("none", DefenseStack()) is None
    assert known("family", DefenseStack()) == known("full", DefenseStack()) == ()
    assert known("family") == (Known("rounded"), Known("reverse_sigmoid"))
    first, second = known("full")
    assert first == Known("rounded", {"decimals": 2})
    # Given by its cost, it is known by the strength that was found.
    assert set(second.parameters) == {"beta", "gamma"}
    assert second.parameters["gamma"] == 0.2
    assert 0 < second.parameters["beta"] < 10
