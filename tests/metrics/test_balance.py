import numpy as np
import pytest

from bench.metrics.balance import (
    balanced_agreement,
    commonest_share,
    fidelity_weights,
    is_imbalanced,
    labels_left_out,
    near_chance,
)
from bench.metrics.intervals import difference_bounds, mean_interval
from bench.metrics.utility import balanced_weights


def test_weighted_agreement_is_the_mean_over_labels_of_the_agreement_on_each():
    rng = np.random.default_rng(1)
    labels, agreement = rng.choice(3, 200, p=[0.8, 0.15, 0.05]), rng.random((4, 200)) < 0.7
    by_label = np.mean([agreement[:, labels == label].mean() for label in range(3)])
    assert (agreement * balanced_weights(labels)).mean() == pytest.approx(by_label)


def made(repeats, inputs, rng):
    """Labels of which a tenth are rare, and agreement that is lower on those, by difficulty of the inputs."""
    labels = (rng.random(inputs) < 0.1).astype(int)
    chance = np.where(labels == 1, rng.beta(2, 1, inputs), rng.beta(9, 1, inputs))
    return labels, (rng.random((repeats, inputs)) < chance).astype(np.uint8)


def test_each_row_of_the_balanced_table_has_the_balanced_fidelity_of_its_repeat():
    labels, agreement = made(4, 300, np.random.default_rng(2))
    table = balanced_agreement(agreement, balanced_weights(labels))
    by_label = np.mean([agreement[:, labels == label].mean(axis=1) for label in (0, 1)], axis=0)
    assert table.mean(axis=1) == pytest.approx(by_label)
    assert (balanced_agreement(np.ones((2, 300)), balanced_weights(labels)) == 1).all()


def test_where_labels_are_equally_common_the_balanced_table_has_the_usual_interval_of_a_mean():
    labels, agreement = np.arange(300) % 2, made(5, 300, np.random.default_rng(3))[1]
    balanced = mean_interval(balanced_agreement(agreement, balanced_weights(labels)))
    plain = mean_interval(agreement)
    assert balanced.value == pytest.approx(plain.value)
    assert balanced.high - balanced.low == pytest.approx(plain.high - plain.low, rel=0.1)


def test_intervals_of_balanced_fidelity_hold_it_about_as_often_as_they_say():
    # At a true coverage of 94 % fewer than 89 % of 300 has probability .0006.
    rng, truth, covered = np.random.default_rng(4), (2 / 3 + 9 / 10) / 2, 0
    for _ in range(300):
        labels, agreement = made(5, 600, rng)
        interval = mean_interval(balanced_agreement(agreement, balanced_weights(labels)))
        covered += interval.low <= truth <= interval.high
    assert 0.89 <= covered / 300 <= 0.99


def test_equal_tables_differ_by_no_more_than_the_heaviest_input_could():
    labels, agreement = made(5, 300, np.random.default_rng(5))
    weights = balanced_weights(labels)
    table = balanced_agreement(agreement, weights)
    low, high = difference_bounds(table, table, 0.025, 0.025)
    assert (low, high) == pytest.approx((-high, high))
    assert high >= weights.max() * (1 - 0.025 ** (1 / 300))


def test_weights_have_mean_one_and_are_equal_where_labels_are():
    assert balanced_weights(np.array([0, 0, 0, 5])).tolist() == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2])
    assert balanced_weights(np.arange(10)).tolist() == [1.0] * 10


def test_a_constant_answer_has_the_balanced_fidelity_of_chance():
    labels = np.repeat([0, 1], [94, 6])
    assert ((labels == 0) * balanced_weights(labels)).mean() == pytest.approx(0.5)
    assert commonest_share(labels) == 0.94


@pytest.mark.parametrize(
    ("commonest", "classes", "imbalanced"),
    [(0.12, 10, False), (0.5, 10, False), (0.51, 10, True), (0.66, 3, False), (0.67, 3, True)],
)
def test_fidelity_is_balanced_where_the_commonest_label_has_twice_its_share_and_half_of_all(
    commonest, classes, imbalanced
):
    assert is_imbalanced(commonest, classes) is imbalanced


def test_two_classes_can_be_imbalanced_too():
    assert is_imbalanced(0.94, 2)
    assert not is_imbalanced(0.6, 2)


def test_near_chance_is_a_tenth_of_the_way_from_chance_to_one():
    assert near_chance(0.189, 10)
    assert not near_chance(0.191, 10)
    assert near_chance(0.549, 2)
    assert not near_chance(0.551, 2)


def test_rare_labels_of_more_than_two_are_left_out_and_the_others_weigh_the_same():
    labels = np.repeat([0, 1, 2, 3], [500, 300, 60, 12])
    hits = np.concatenate([np.ones(500), np.zeros(300), np.ones(60), np.zeros(12)])
    assert labels_left_out(labels).tolist() == [3]
    weights = fidelity_weights(labels)
    assert weights.mean() == pytest.approx(1)
    assert (hits * weights).mean() == pytest.approx(2 / 3)
    assert balanced_agreement(hits[None], weights).mean() == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    "counts",
    [[990, 10], [44] * 9 + [51], [40, 41, 44], [900, 10, 10]],
    ids=["two labels", "digits", "a small split", "one alone would be left"],
)
def test_no_label_is_left_out_where(counts):
    labels = np.repeat(np.arange(len(counts)), counts)
    assert len(labels_left_out(labels)) == 0
    assert (fidelity_weights(labels) == balanced_weights(labels)).all()
