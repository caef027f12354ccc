"""Surrogates trained on views: of any inputs, one by one, cached by their unlabelled inputs too."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from spaces import SPACES, drawn

from attacks.base import TransferSet
from bench.errors import NotApplicable
from bench.inputs import InputSpace
from bench.models import surrogates
from bench.models.training_config import TrainingConfig

SHAPE = (1, 8, 8)
BY_VIEWS = ("fixmatch", "mixmatch", "rotation")


@pytest.fixture
def eight_steps(monkeypatch):
    """Train for 8 steps, whatever the data set."""
    by_rule = TrainingConfig.schedule
    monkeypatch.setattr(TrainingConfig, "schedule", lambda *args: replace(by_rule(*args), steps=8))


def bits(both):
    return [(name, value.numpy().tobytes()) for weights in both for name, value in sorted(weights.items())]


def sets_of(space, classes=3, sizes=(12, 7)):
    rng = np.random.default_rng(2)
    return [
        TransferSet(drawn(space, n, rng), np.eye(classes, dtype=np.float32)[rng.integers(classes, size=n)])
        for n in sizes
    ]


def weights_of(fitted):
    return [bits((each.half, each.full)) for each in fitted]


@pytest.mark.usefixtures("eight_steps")
@pytest.mark.parametrize("name", ["table", "sequences", "bytes"])
@pytest.mark.parametrize("how", ["augment=weak", "unlabelled=fixmatch", "unlabelled=mixmatch"])
def test_surrogates_of_any_inputs_are_trained(name, how):
    space = SPACES[name]
    rest = [drawn(space, 30, np.random.default_rng(3))] * 2
    fitted = surrogates.fit(
        sets_of(space), "mlp", 3, (5, 6), training_text=f"rule({how})", inputs=space, unqueried=rest
    )
    for each in fitted:
        likely = each.probabilities(rest[0])
        assert np.isfinite(likely).all()
        assert likely.sum(axis=1) == pytest.approx(1)
        assert each.steps == 8
        assert each.unlabelled == (None if how == "augment=weak" else 30)


@pytest.mark.usefixtures("eight_steps")
@pytest.mark.parametrize("architecture", ["mlp", "cnn"])
@pytest.mark.parametrize("method", BY_VIEWS)
def test_repeats_are_trained_one_by_one_whatever_the_architecture(architecture, method, tmp_path):
    space = InputSpace(SHAPE)
    sets, how = sets_of(space), f"rule(unlabelled={method})"
    rest = [drawn(space, number, np.random.default_rng(3)) for number in (30, 9)]
    together = surrogates.fit(sets, architecture, 3, (5, 6), tmp_path, how, unqueried=rest)
    for place in (1, 0):
        alone = surrogates.fit(
            [sets[place]], architecture, 3, (5 + place,), None, how, unqueried=[rest[place]]
        )
        assert weights_of(alone) == weights_of([together[place]])
    again = surrogates.fit(sets, architecture, 3, (5, 6), tmp_path, how, unqueried=rest)
    assert [each.shared for each in again] == [True, True]
    assert weights_of(again) == weights_of(together)
    assert [each.unlabelled for each in again] == [30, 9]
    other = surrogates.fit(sets, architecture, 3, (5, 6), tmp_path, how, unqueried=[rest[0][::-1], rest[1]])
    assert [each.shared for each in other] == [False, True]


@pytest.mark.parametrize("architecture", ["mlp", "cnn"])
def test_the_control_takes_the_steps_of_the_rule_where_transfer_sets_differ(architecture):
    sets = sets_of(InputSpace(SHAPE), sizes=(130, 60))
    steps = [
        [each.steps for each in surrogates.fit(sets, architecture, 3, (5, 6), training_text=f"rule({how})")]
        for how in ("epochs=2", "epochs=2, augment=weak", "epochs=2, unlabelled=fixmatch")
    ]
    assert steps == [[6, 6] if architecture == "mlp" else [6, 2]] * 3


@pytest.mark.usefixtures("eight_steps")
@pytest.mark.parametrize("how", ["augment=weak", *(f"unlabelled={method}" for method in BY_VIEWS)])
def test_an_empty_transfer_set_gives_an_untrained_network(how):
    space = InputSpace(SHAPE)
    nothing = TransferSet(*(each[:0] for each in (sets_of(space)[0].x, sets_of(space)[0].y)))
    rest = drawn(space, 30, np.random.default_rng(3))
    (fitted,) = surrogates.fit([nothing], "mlp", 3, (5,), training_text=f"rule({how})", unqueried=[rest])
    untrained = surrogates.initial_network("mlp", SHAPE, 3, 5).state_dict()
    assert all(torch.equal(fitted.full[name], value) for name, value in untrained.items())
    assert fitted.rows == 0


@pytest.mark.usefixtures("eight_steps")
def test_no_unqueried_input_is_left_where_the_whole_pool_was_queried():
    space = InputSpace(SHAPE)
    sets, nothing = sets_of(space), [each.x[:0] for each in sets_of(space)]
    fitted = surrogates.fit(
        sets, "mlp", 3, (5, 6), training_text="rule(unlabelled=fixmatch)", unqueried=nothing
    )
    control = surrogates.fit(sets, "mlp", 3, (5, 6), training_text="rule(augment=weak)")
    assert weights_of(fitted) == weights_of(control)
    assert [each.unlabelled for each in fitted] == [0, 0]


@pytest.mark.parametrize("how", ["augment=weak", "unlabelled=fixmatch"])
def test_scikit_learns_models_are_not_trained_on_views(how):
    sets = sets_of(InputSpace(SHAPE))
    with pytest.raises(NotApplicable, match=f"{how}.* trains networks, and sklearn-tree is none"):
        surrogates.fit(sets, "sklearn-tree", 3, (5, 6), training_text=f"rule({how})")


@pytest.mark.usefixtures("eight_steps")
def test_pseudo_labels_say_how_many_inputs_they_had_and_count_both_trainings():
    sets = sets_of(InputSpace(SHAPE), sizes=(12,))
    rest = [drawn(InputSpace(SHAPE), 30, np.random.default_rng(3))]
    (plain,) = surrogates.fit(sets, "mlp", 3, (5,))
    (found,) = surrogates.fit(
        sets, "mlp", 3, (5,), training_text="rule(unlabelled=pseudo-labels)", unqueried=rest
    )
    assert (plain.rows, plain.unlabelled) == (8 * 12, None)
    assert found.unlabelled == 30
    assert found.rows >= 2 * plain.rows


@pytest.mark.slow
@pytest.mark.long
def test_fixmatch_on_fifty_digits_is_not_worse_than_its_control(digits_victim, digits_pool):
    """Six repeats in pairs. FixMatch gained 4 pp of fidelity with five; two standard errors are noise."""
    answers = digits_victim.probabilities(digits_pool.x)
    one_hot = np.eye(10, dtype=np.float32)[answers.argmax(axis=1)]
    sets, rest = [], []
    for repeat in range(6):
        order = np.random.default_rng(repeat).permutation(len(digits_pool.x))
        sets.append(TransferSet(digits_pool.x[order[:50]], one_hot[order[:50]]))
        rest.append(digits_pool.x[order[50:]])
    test = digits_victim.splits.test.x
    truth = digits_victim.probabilities(test).argmax(axis=1)
    fidelity = {}
    for how in ("unlabelled=fixmatch", "augment=weak"):
        fitted = surrogates.fit(sets, "mlp", 10, range(6), training_text=f"rule({how})", unqueried=rest)
        fidelity[how] = [(each.probabilities(test).argmax(axis=1) == truth).mean() for each in fitted]
    gain = np.subtract(fidelity["unlabelled=fixmatch"], fidelity["augment=weak"])
    assert gain.mean() > -2 * gain.std(ddof=1) / np.sqrt(6)
    assert np.mean(fidelity["unlabelled=fixmatch"]) > 0.7
