"""DeepFool: distances to another label, worked out by hand, on lines, circles and where there is no slope."""

from __future__ import annotations

import numpy as np
import pytest

from attacks.active.deepfool import BLOCK, OVERSHOOT, distances


class Lines:
    """Logits that are linear in the input: ``weights`` (classes, inputs) and ``heights`` (classes,)."""

    def __init__(self, weights, heights):
        self.weights, self.heights = np.array(weights, float), np.array(heights, float)
        self.evaluated = []

    def __call__(self, x):
        raise AssertionError("distances need logits, not probabilities")

    def encoded(self, x):
        return x

    def linearised(self, encoded, classes):
        self.evaluated.append(len(encoded))
        logits = encoded.reshape(len(encoded), self.weights.shape[1]) @ self.weights.T + self.heights
        slopes = self.weights[classes].reshape(*classes.shape, *encoded.shape[1:])
        return logits, slopes.astype(np.float32)


class Circle(Lines):
    """Two classes, the second one outside of the unit circle."""

    def __init__(self):
        super().__init__([[0, 0], [0, 0]], [0, 0])

    def linearised(self, encoded, classes):
        logits = np.stack([np.zeros(len(encoded)), np.square(encoded).sum(axis=1) - 1], axis=1)
        return logits, (2 * encoded[:, None] * (classes == 1)[:, :, None]).astype(np.float32)


def points(*rows):
    return np.array(rows, np.float32)


def test_on_lines_it_is_the_distance_to_the_nearest_border_with_the_overshoot():
    lines = Lines([[0, 0], [3, 4], [0, -2]], [0, -5, -3])
    # From the origin to 3a + 4b = 5: 1; to b = -1.5: 1.5. From (0, -1) to these: 9/5 and .5.
    expected = (1 + OVERSHOOT) * np.array([1, 0.5])
    np.testing.assert_allclose(distances(lines, points([0, 0], [0, -1])), expected, rtol=1e-6)


def test_the_border_is_chosen_by_distance_and_the_step_divides_by_the_square():
    # Border A: height 1, slope 2, at .5. Border B: height 3, slope 4, at .75; by height / slope² it were B.
    lines = Lines([[0, 0], [2, 0], [0, 4]], [0, -1, -3])
    np.testing.assert_allclose(distances(lines, points([0, 0])), 0.5 * (1 + OVERSHOOT), rtol=1e-6)


def test_of_images_it_is_the_distance_over_all_pixels():
    lines = Lines([[0] * 4, [1] * 4], [0, -2])
    image = np.zeros((1, 1, 2, 2), np.float32)
    np.testing.assert_allclose(distances(lines, image), (1 + OVERSHOOT), rtol=1e-6)  # 4 · 1 / 2² = 1


def test_on_a_circle_it_takes_newtons_steps_until_the_label_changes():
    # From 2: height 3, slope 4, step .75. From 2 - 1.02 · .75 = 1.235 the next one, and so on.
    total = 0.0
    while (2 - (1 + OVERSHOOT) * total) ** 2 > 1:
        at = 2 - (1 + OVERSHOOT) * total
        total += (at**2 - 1) / (2 * at)
    assert total > 0.75
    found = distances(Circle(), points([2, 0], [0, -2]))
    np.testing.assert_allclose(found, (1 + OVERSHOOT) * total, rtol=1e-5)
    np.testing.assert_allclose(found, 1, rtol=0.02)


def test_a_tie_is_no_distance_at_all_and_without_a_slope_there_is_none():
    tied = Lines([[1, 0], [0, 1]], [0, 0])
    assert distances(tied, points([0.3, 0.3])).tolist() == [0]
    flat = Lines([[1, 0], [1, 0]], [0, -1])
    assert distances(flat, points([0.3, 0.3])).tolist() == [np.inf]
    assert flat.evaluated == [1, 1]
    # In the middle of the circle, and where the second class is never reached.
    assert distances(Circle(), points([0, 0])).tolist() == [np.inf]


def test_a_label_that_never_changes_ends_the_search():
    class Climbing(Lines):
        def linearised(self, encoded, classes):
            slopes = super().linearised(encoded, classes)[1]
            return np.array([[1.0, 0.0]] * len(encoded)), slopes

    never = Climbing([[0, 0], [1, 0]], [0, 0])
    assert distances(never, points([0, 0])).tolist() == [np.inf]
    assert len(never.evaluated) == 52


def test_rows_are_found_alone_as_among_others_and_only_those_that_are_left_are_evaluated():
    rng = np.random.default_rng(0)
    lines = Lines(rng.normal(size=(12, 5)), rng.normal(size=12))
    x = rng.normal(size=(2 * BLOCK + 9, 5)).astype(np.float32)
    every = distances(lines, x)
    # One step reaches a straight border: one look at the start, one at the end.
    assert lines.evaluated == [len(x), BLOCK, BLOCK, 9, BLOCK, BLOCK, 9]
    alone = np.concatenate([distances(lines, row[None]) for row in x[:20]])
    np.testing.assert_allclose(alone, every[:20], rtol=1e-12)
    assert np.isfinite(every).all()


@pytest.mark.parametrize("classes", [2, 3])
def test_no_inputs_have_no_distances(classes):
    lines = Lines(np.eye(classes), np.zeros(classes))
    assert distances(lines, np.zeros((0, classes), np.float32)).shape == (0,)
