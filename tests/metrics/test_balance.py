import numpy as np
import pytest

from bench.metrics.balance import commonest_share, is_imbalanced, label_weights, near_chance


def test_weighted_agreement_is_the_mean_over_labels_of_the_agreement_on_each():
    rng = np.random.default_rng(1)
    labels, agreement = rng.choice(3, 200, p=[0.8, 0.15, 0.05]), rng.random((4, 200)) < 0.7
    by_label = np.mean([agreement[:, labels == label].mean() for label in range(3)])
    assert (agreement * label_weights(labels)).mean() == pytest.approx(by_label)


def test_weights_have_mean_one_and_are_equal_where_labels_are():
    assert label_weights(np.array([0, 0, 0, 5])).tolist() == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2])
    assert label_weights(np.arange(10)).tolist() == [1.0] * 10


def test_a_constant_answer_has_the_balanced_fidelity_of_chance():
    labels = np.repeat([0, 1], [94, 6])
    assert ((labels == 0) * label_weights(labels)).mean() == pytest.approx(0.5)
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
