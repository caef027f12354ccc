"""Strong views of images: what moves them, by hand, and what they keep."""

import numpy as np
import pytest

from attacks.transfer_sets import strong_views
from attacks.transfer_sets.strong_views import moved, strong, with_a_hidden_square


@pytest.fixture
def images():
    return np.random.default_rng(0).uniform(-2, 3, (5, 2, 9, 9)).astype(np.float32)


def amounts(images, **shares):
    """Return amounts of zero but for those named: angle, shear_x, shear_y, across, down."""
    names = ("angle", "shear_x", "shear_y", "across", "down")
    return np.tile([shares.get(name, 0.0) for name in names], (len(images), 1))


def test_without_a_change_an_image_stays_as_it_is(images):
    assert np.array_equal(moved(images, amounts(images)), images)


def test_a_shift_by_whole_pixels_repeats_the_border(images, monkeypatch):
    monkeypatch.setattr(strong_views, "SHIFT", 1.0)
    found = moved(images, amounts(images, across=2 / 9, down=-1 / 9))
    assert np.allclose(found[:, :, 1:, :7], images[:, :, :-1, 2:], atol=1e-5)
    assert np.allclose(found[:, :, 0, :7], images[:, :, 0, 2:], atol=1e-5)
    assert np.allclose(found[:, :, 1:, 8], images[:, :, :-1, 8], atol=1e-5)


def test_a_shift_by_half_a_pixel_is_the_mean_of_two(images, monkeypatch):
    monkeypatch.setattr(strong_views, "SHIFT", 1.0)
    found = moved(images, amounts(images, across=0.5 / 9))
    assert np.allclose(found[..., :8], (images[..., :8] + images[..., 1:]) / 2, atol=1e-5)


@pytest.mark.parametrize("turns", [1, -1])
def test_a_quarter_turn_is_that_of_the_array(turns, images, monkeypatch):
    monkeypatch.setattr(strong_views, "ROTATION", np.pi / 2)
    found = moved(images, amounts(images, angle=turns))
    assert np.allclose(found, np.rot90(images, turns, axes=(2, 3)), atol=1e-4)


def test_a_shear_moves_each_row_by_its_distance_from_the_middle(images, monkeypatch):
    monkeypatch.setattr(strong_views, "SHEAR", 1.0)
    found = moved(images, amounts(images, shear_x=1.0))
    assert np.allclose(found[:, :, 4], images[:, :, 4], atol=1e-5)
    assert np.allclose(found[:, :, 6, :7], images[:, :, 6, 2:], atol=1e-5)
    assert np.allclose(found[:, :, 2, 2:], images[:, :, 2, :7], atol=1e-5)


def test_the_hidden_square_has_the_mean_of_its_channel(images):
    """By hand: half a side of .8 · .5 · 9 / 2 = 1.8 pixels around the centre of pixel (2, 6)."""
    drawn = np.tile([0.8, 2.5 / 9, 6.5 / 9], (len(images), 1))
    found = with_a_hidden_square(images, drawn)
    hidden = np.zeros((9, 9), dtype=bool)
    hidden[1:4, 5:8] = True
    assert np.array_equal(found[:, :, ~hidden], images[:, :, ~hidden])
    means = images.mean(axis=(2, 3))
    assert np.allclose(found[:, :, hidden], means[:, :, None], atol=1e-6)


def test_views_stay_in_the_range_of_their_image_and_follow_the_seed(images):
    one, again, other = (strong(images, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert one.tobytes() == again.tobytes()
    assert not np.allclose(one, other)
    assert one.dtype == np.float32
    assert one.shape == images.shape
    slack = 1e-5
    assert (one.min(axis=(1, 2, 3)) >= images.min(axis=(1, 2, 3)) - slack).all()
    assert (one.max(axis=(1, 2, 3)) <= images.max(axis=(1, 2, 3)) + slack).all()


def test_how_many_are_moved_at_once_changes_nothing(images, monkeypatch):
    whole = strong(images, np.random.default_rng(1))
    monkeypatch.setattr(strong_views, "CHUNK", 2)
    assert strong(images, np.random.default_rng(1)).tobytes() == whole.tobytes()
    assert strong(images[:0], np.random.default_rng(1)).shape == (0, 2, 9, 9)


def test_one_pixel_and_one_row_are_images_too():
    for shape in ((3, 1, 1, 1), (3, 1, 1, 5)):
        x = np.random.default_rng(0).random(shape, dtype=np.float32)
        assert np.isfinite(strong(x, np.random.default_rng(1))).all()
