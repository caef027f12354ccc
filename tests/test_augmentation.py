"""Views of inputs: images are shifted, other inputs get values of other inputs, column by column."""

import numpy as np
import pytest
from spaces import SPACES, drawn

from bench.augmentation import Augmentation, masked, shifted
from bench.encoding import Encoding


def generator(seed=0):
    return np.random.default_rng(seed)


def shifts(image, down, across):
    """Return every shift of an image (channels, h, w) by NumPy's padding, as bytes."""
    padded = np.pad(image, [(0, 0), (down, down), (across, across)], mode="reflect")
    height, width = image.shape[1:]
    return {
        padded[:, y : y + height, x : x + width].tobytes()
        for y in range(2 * down + 1)
        for x in range(2 * across + 1)
    }


@pytest.mark.parametrize(
    ("shape", "down", "across"),
    [((1, 8, 8), 1, 1), ((3, 16, 24), 2, 3), ((1, 28, 28), 3, 3), ((1, 4, 2), 1, 1), ((2, 1, 9), 0, 1)],
)
def test_a_view_is_each_shift_by_up_to_an_eighth_and_nothing_else(shape, down, across):
    image = generator().random(shape, dtype=np.float32)
    views = shifted(np.repeat(image[None], 1_000, axis=0), generator(1))
    assert views.dtype == np.float32
    # A shift that does not occur in 1,000 draws of at most 49: a chance of 49 · (48/49)^1000, below 1e-7.
    assert {view.tobytes() for view in views} == shifts(image, down, across)


def test_images_are_shifted_independently_and_the_originals_stay():
    x = generator().random((64, 1, 8, 8), dtype=np.float32)
    before = x.copy()
    views = shifted(x, generator(1))
    assert all(view.tobytes() in shifts(image, 1, 1) for image, view in zip(x, views, strict=True))
    assert 0 < sum((view == image).all() for image, view in zip(x, views, strict=True)) < 32
    assert (x == before).all()


def test_a_replaced_value_is_one_of_its_column():
    own = np.array([[1, 10, 100], [2, 20, 200]], np.float32)
    x = np.zeros((4_000, 3), np.float32)
    views = masked(x, own, 0.3, generator())
    for column in range(3):
        assert set(views[:, column]) == {0, *own[:, column]}
    # 4,000 draws with probability .3 have a standard deviation of .0072; of .15, of .0056.
    assert (views != 0).mean(axis=0) == pytest.approx(0.3, abs=0.035)
    assert (views == own[0]).mean(axis=0) == pytest.approx(0.15, abs=0.03)


def test_each_column_is_replaced_from_an_input_of_its_own():
    own = np.array([[1, 1], [2, 2]], np.float32)
    views = masked(np.zeros((500, 2), np.float32), own, 1.0, generator())
    assert len({tuple(row) for row in views}) == 4


def test_entries_that_stand_for_one_column_are_replaced_together():
    own = np.array([[1, 0, 0, 7], [0, 1, 0, 8], [0, 0, 1, 9]], np.float32)
    x = np.tile(np.array([[0, 0, 0, 1]], np.float32), (500, 1))
    views = masked(x, own, 0.5, generator(), widths=(3, 1))
    assert {tuple(row[:3]) for row in views} == {(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)}
    assert set(views[:, 3]) == {1, 7, 8, 9}


def test_without_inputs_nothing_is_replaced():
    x = np.ones((3, 2), np.float32)
    assert (masked(x, x[:0], 0.9, generator()) == x).all()
    assert masked(x[:0], x, 0.9, generator()).shape == (0, 2)


@pytest.mark.parametrize("name", sorted(SPACES))
def test_views_are_inputs_that_may_be_sent(name):
    space = SPACES[name]
    own = drawn(space, 60, generator(3))
    views = Augmentation(space.layout, own).weak(own, generator(4))
    assert not space.problem(views)
    assert views.shape == own.shape
    assert not np.array_equal(views, own, equal_nan=True)


def test_encoding_a_view_is_the_view_of_the_encoding():
    """Masked columns of an encoded table are what encoding the masked table gives: categories stay whole."""
    space = SPACES["table"]
    own = drawn(space, 80, generator(5))
    encode = Encoding.fit(space, own)
    raw = Augmentation("table", own).strongly_masked(own, generator(6))
    encoded = Augmentation("table", encode(own), encode.widths).strongly_masked(encode(own), generator(6))
    assert (encode(raw) == encoded).all()


@pytest.mark.parametrize("name", sorted(SPACES))
def test_views_of_the_first_inputs_do_not_depend_on_how_many_follow(name):
    own = drawn(SPACES[name], 60, generator(7))
    augmentation = Augmentation(SPACES[name].layout, own)
    few, many = augmentation.weak(own[:9], generator(8)), augmentation.weak(own, generator(8))
    assert np.array_equal(few, many[:9], equal_nan=True)
