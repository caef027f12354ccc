"""Adaptive misinformation: its loss, the network that is wrong on purpose, and who gets its answers."""

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError

from bench.plugins import defenses
from defenses.adaptive_misinformation import reverse_cross_entropy
from defenses.base import Auxiliary, Batch, Calibration

CLASSES = 3
CENTRES = np.random.default_rng(1).random((CLASSES, 1, 4, 4))


def blobs(number, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, number)
    x = CENTRES[labels] + rng.normal(0, 0.05, (number, 1, 4, 4))
    return x.clip(0, 1).astype(np.float32), labels


def victim(labels, top):
    """Rows with ``top`` on the label, the rest even."""
    rows = np.full((len(labels), CLASSES), (1 - top) / (CLASSES - 1))
    rows[np.arange(len(labels)), labels] = top
    return rows


@pytest.fixture(scope="module")
def calibration():
    x, y = blobs(300, 2)
    noise = np.random.default_rng(3).random((200, 1, 4, 4), dtype=np.float32)
    named = Auxiliary("noise", noise, victim(np.full(200, 2), 0.5))
    return Calibration(x, y, *blobs(50, 4), victim(np.zeros(50, int), 0.9), auxiliary=named, seed=5)


@pytest.fixture(scope="module")
def defense(calibration):
    built = defenses.build("adaptive_misinformation")
    built.fit(calibration)
    return built


def batch_of(x, rows, before=None):
    return Batch(x, rows, rows if before is None else before)


def test_the_loss_is_that_of_the_formula_and_finite_where_the_label_is_certain():
    logits = torch.tensor([[1.0, 2.0, 0.5], [0.0, 0.0, 0.0]])
    expected = -np.log(1 - torch.softmax(logits, dim=1).numpy()[[0, 1], [1, 2]]).mean()
    assert reverse_cross_entropy(logits, torch.tensor([1, 2])).item() == pytest.approx(expected, rel=1e-6)
    sure = torch.tensor([[200.0, 0.0]], requires_grad=True)
    found = reverse_cross_entropy(sure, torch.tensor([0]))
    assert found.item() == pytest.approx(200)
    found.backward()
    assert torch.isfinite(sure.grad).all()


def test_the_second_network_avoids_the_label_and_the_victims_top_1_on_auxiliary_data(defense, calibration):
    x, y = blobs(200, 6)
    wrong = defense.network_.probabilities(x)
    assert wrong[np.arange(200), y].max() < 0.1
    assert defense.network_.probabilities(calibration.auxiliary.inputs)[:, 2].mean() < 0.1


def test_without_auxiliary_data_the_training_split_alone_is_avoided(calibration, defense):
    built = defenses.build("adaptive_misinformation(auxiliary=none)")
    assert built.auxiliary_data == ""
    built.fit(
        Calibration(
            *[getattr(calibration, name) for name in ("train_inputs", "train_labels")],
            calibration.inputs,
            calibration.labels,
            calibration.probabilities,
        )
    )
    x, y = blobs(100, 6)
    assert built.network_.probabilities(x)[np.arange(100), y].max() < 0.1
    noise = calibration.auxiliary.inputs
    with_auxiliary, without = (each.network_.probabilities(noise)[:, 2].mean() for each in (defense, built))
    assert without > 5 * with_auxiliary


def test_sure_answers_stay_and_unsure_ones_are_replaced(defense):
    x, y = blobs(60, 7)
    rows = np.vstack([victim(y[:30], 0.75), victim(y[30:], 0.6)])
    answers = defense.answer(batch_of(x, rows)).probabilities
    np.testing.assert_array_equal(answers[:30], rows[:30])
    np.testing.assert_allclose(answers[30:], defense.network_.probabilities(x[30:]), atol=1e-15)
    assert (answers[30:].argmax(axis=1) != y[30:]).all()
    np.testing.assert_allclose(answers.sum(axis=1), 1, atol=1e-12)


def test_at_the_threshold_the_two_are_mixed_half_and_half(defense):
    x, y = blobs(10, 8)
    rows = victim(y, 0.7)
    wrong = defense.network_.probabilities(x)
    answers = defense.answer(batch_of(x, rows)).probabilities
    np.testing.assert_allclose(answers, (rows + wrong) / 2, atol=1e-12)
    soft = defenses.build("adaptive_misinformation(nu=10)")
    soft.network_ = defense.network_
    # 1 / (1 + exp(10 (0.75 - 0.7))) = 0.37754
    share = 0.3775406687981454
    found = soft.answer(batch_of(x, victim(y, 0.75))).probabilities
    np.testing.assert_allclose(found, (1 - share) * victim(y, 0.75) + share * wrong, atol=1e-12)


def test_the_victims_own_confidence_decides_behind_another_defense(defense):
    x, y = blobs(20, 9)
    rows, flat = victim(y, 0.9), np.full((20, CLASSES), 1 / CLASSES)
    np.testing.assert_array_equal(defense.answer(batch_of(x, rows, flat)).probabilities, flat)
    labels = np.eye(CLASSES)[y]
    np.testing.assert_array_equal(defense.answer(batch_of(x, labels)).probabilities, labels)


def test_the_weakest_strength_changes_nothing_and_the_network_is_the_same_at_each(defense, calibration):
    x, y = blobs(20, 10)
    rows = victim(y, 0.4)
    weakest, strongest = (defense.at(value, calibration) for value in (0.0, 1.0))
    np.testing.assert_array_equal(weakest.answer(batch_of(x, rows)).probabilities, rows)
    assert strongest.network_ is defense.network_
    assert repr(strongest) == "adaptive_misinformation(tau=1.0, nu=1000.0, auxiliary=default)"
    changed = strongest.answer(batch_of(x, victim(y, 0.9))).probabilities
    assert (changed.argmax(axis=1) != y).all()


def test_two_fits_are_equal_and_another_seed_is_not(calibration, defense):
    again = defenses.build("adaptive_misinformation")
    again.fit(calibration)
    x, _ = blobs(20, 11)
    np.testing.assert_array_equal(again.network_.logits(x), defense.network_.logits(x))


def test_two_classes_and_no_fit(calibration):
    built = defenses.build("adaptive_misinformation")
    with pytest.raises(NotFittedError, match="adaptive_misinformation"):
        built.answer(batch_of(calibration.inputs, calibration.probabilities))
    x, y = blobs(100, 12)
    two = np.minimum(y, 1)
    built.fit(Calibration(x, two, x, two, np.tile([0.6, 0.4], (100, 1))))
    answers = built.answer(batch_of(x, np.tile([0.6, 0.4], (100, 1)))).probabilities
    assert (answers.argmax(axis=1) == 1 - two).mean() > 0.95
