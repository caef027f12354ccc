"""The ensemble of diverse models: its loss, where its models agree, and which of them answers an input."""

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError

from bench.errors import NotApplicable
from bench.plugins import defenses
from defenses.base import Auxiliary, Batch, Calibration
from defenses.diverse_ensemble import likeness
from defenses.model_switch import ModelSwitch

CLASSES = 3
CENTRES = np.random.default_rng(1).random((CLASSES, 1, 4, 4))


def blobs(number, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, number)
    x = CENTRES[labels] + rng.normal(0, 0.1, (number, 1, 4, 4))
    return x.clip(0, 1).astype(np.float32), labels


def noise(number, seed):
    return np.random.default_rng(seed).random((number, 1, 4, 4), dtype=np.float32)


@pytest.fixture(scope="module")
def calibration():
    x, y = blobs(200, 2)
    sure = np.full((200, CLASSES), 0.02)
    sure[:, 0] = 0.96
    held_out = blobs(50, 4)
    rows = np.random.default_rng(5).dirichlet(np.ones(CLASSES), 50)
    return Calibration(x, y, *held_out, rows, auxiliary=Auxiliary("noise", noise(200, 3), sure), seed=6)


def fitted(text, calibration):
    built = defenses.build(text)
    built.fit(calibration)
    return built


@pytest.fixture(scope="module")
def defense(calibration):
    return fitted("diverse_ensemble(models=3, share=0.6)", calibration)


def batch_of(x):
    rows = np.random.default_rng(7).dirichlet(np.ones(CLASSES), len(x))
    return Batch(x, rows, rows)


def test_the_loss_is_that_of_the_formula():
    rows = [np.random.default_rng(seed).dirichlet(np.ones(4), 5) for seed in range(3)]

    def cosine(a, b):
        return (a * b).sum(axis=1) / np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))

    pairs = [cosine(rows[0], rows[1]), cosine(rows[0], rows[2]), cosine(rows[1], rows[2])]
    expected = np.log(np.exp(pairs).sum(axis=0)).mean()
    assert likeness([torch.from_numpy(each) for each in rows]).item() == pytest.approx(expected, abs=1e-12)


def test_the_models_agree_on_the_victims_data_and_disagree_on_the_auxiliary_data(defense, calibration):
    x, y = blobs(200, 8)
    own = [network.probabilities(x).argmax(axis=1) for network in defense.networks_]
    assert all((labels == y).mean() > 0.95 for labels in own)
    one, other = (network.probabilities(noise(200, 9)).argmax(axis=1) for network in defense.networks_)
    victim = 0
    assert (one == victim).mean() < 0.2
    assert (other == victim).mean() < 0.2
    assert (one == other).mean() < 0.2
    alike = fitted("diverse_ensemble(models=3, diversity=0)", calibration)
    one, other = (network.probabilities(noise(200, 9)).argmax(axis=1) for network in alike.networks_)
    assert (one == other).mean() > 0.5


def test_the_hash_gives_the_victim_its_share_and_the_others_equal_parts(defense):
    x = np.vstack([blobs(3_000, 10)[0], noise(3_000, 11)])
    counts = np.bincount(defense.members(x), minlength=3) / len(x)
    # Cells of the hash hold many inputs each, so that shares vary by more than those of a draw.
    np.testing.assert_allclose(counts, [0.4, 0.3, 0.3], atol=0.1)


def test_inputs_that_differ_little_get_the_same_model(defense):
    x, _ = blobs(500, 12)
    near = (x + np.random.default_rng(13).normal(0, 1e-4, x.shape)).astype(np.float32)
    assert (defense.members(near) == defense.members(x)).mean() > 0.99
    assert len(np.unique(defense.members(x))) == 3


def test_each_input_gets_the_answer_of_its_model(defense):
    batch = batch_of(noise(60, 14))
    answers, members = defense.answer(batch).probabilities, defense.members(batch.inputs)
    np.testing.assert_array_equal(answers[members == 0], batch.raw[members == 0])
    for number, network in enumerate(defense.networks_, 1):
        rows = members == number
        assert rows.any()
        np.testing.assert_array_equal(answers[rows], network.probabilities(batch.inputs[rows]))


def test_a_stronger_setting_moves_inputs_to_the_others_without_training(defense, calibration):
    x = noise(300, 15)
    none, more = defense.at(0.0, calibration), defense.at(0.9, calibration)
    assert more.networks_ is defense.networks_
    assert (none.members(x) == 0).all()
    np.testing.assert_array_equal(none.answer(batch_of(x)).probabilities, batch_of(x).raw)
    stays = defense.members(x) > 0
    np.testing.assert_array_equal(more.members(x)[stays], defense.members(x)[stays])
    assert (more.members(x) > 0).mean() > stays.mean()
    assert repr(more) == "diverse_ensemble(models=3, share=0.9, diversity=1.0, auxiliary=default)"


def test_the_key_is_secret_and_a_fit_repeats(defense, calibration):
    again = fitted("diverse_ensemble(models=3, share=0.6)", calibration)
    batch = batch_of(noise(50, 16))
    np.testing.assert_array_equal(again.answer(batch).probabilities, defense.answer(batch).probabilities)
    assert calibration.seed == 6
    other = defenses.build("diverse_ensemble(models=3, share=0.6)")
    other.networks_ = defense.networks_
    other._fit_hash(calibration, 12345)
    assert (other.members(batch.inputs) != defense.members(batch.inputs)).any()


def test_without_auxiliary_data_it_says_what_it_needs(calibration):
    bare = Calibration(
        calibration.train_inputs,
        calibration.train_labels,
        calibration.inputs,
        calibration.labels,
        calibration.probabilities,
    )
    with pytest.raises(NotApplicable, match="diverse_ensemble needs auxiliary data"):
        fitted("diverse_ensemble", bare)
    with pytest.raises(NotFittedError, match="diverse_ensemble"):
        defenses.build("diverse_ensemble").members(calibration.inputs)


def test_the_switch_of_two_models_says_that_it_is_another_defense():
    assert "diverse_ensemble" in ModelSwitch.__doc__
