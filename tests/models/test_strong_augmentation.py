"""Strong views of images: two of seven changes, and a hidden square."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from bench.models import strong_augmentation
from bench.models.strong_augmentation import _moved, _with_a_hidden_square, changes, strong


def images(n=5, side=12, channels=2):
    return torch.rand(n, channels, side, side, generator=torch.Generator().manual_seed(1))


def amounts(n=5, **given):
    places = ("rotation", "shear_x", "shear_y", "shift_x", "shift_y")
    return np.tile([given.get(name, 0.0) for name in places], (n, 1))


def test_two_of_seven_changes_are_drawn_for_each_image():
    drawn = changes(700, np.random.default_rng(0))
    assert ((drawn != 0).sum(axis=1) == 2).all()
    assert np.abs(drawn).max() <= 1
    # Each occurs with probability 2/7: 200 ± 12 of 700.
    assert np.abs((drawn != 0).sum(axis=0) - 200).max() < 60


def test_no_amount_changes_nothing():
    x = images()
    assert torch.allclose(_moved(x, amounts()), x, atol=1e-6)


def test_a_quarter_turn_is_numpys(monkeypatch):
    monkeypatch.setattr(strong_augmentation, "ROTATION", np.pi / 2)
    x = images()
    turned = [np.rot90(x.numpy(), turn, axes=(2, 3)) for turn in (1, 3)]
    found = _moved(x, amounts(rotation=1.0)).numpy()
    assert min(np.abs(found - each).max() for each in turned) < 1e-5


@pytest.mark.parametrize(("given", "axis"), [("shift_x", 3), ("shift_y", 2)])
def test_a_shift_by_whole_pixels_is_numpys(given, axis):
    x = images(side=10)
    # A full shift is .3 of 10 pixels: what is read at a pixel is three further.
    found = _moved(x, amounts(**{given: 1.0})).numpy()
    inside = [slice(None)] * 4
    inside[axis] = slice(0, 7)
    expected = np.roll(x.numpy(), -3, axis=axis)
    assert np.allclose(found[tuple(inside)], expected[tuple(inside)], atol=1e-5)


def test_places_are_those_of_torchs_affine_grid():
    x, drawn = images(), changes(5, np.random.default_rng(2))[:, :5] + 0.1
    angle, across, down, right, below = (drawn * [np.pi / 6, 0.3, 0.3, 0.6, 0.6]).T
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shear = np.array([[np.ones(5), across], [down, np.ones(5)]])
    linear = np.einsum("ijn,jkn->nik", turn, shear)
    maps = np.concatenate([linear, np.stack([right, below], axis=1)[..., None]], axis=2)
    grid = functional.affine_grid(
        torch.from_numpy(maps.astype(np.float32)), list(x.shape), align_corners=False
    )
    expected = functional.grid_sample(x, grid, padding_mode="reflection", align_corners=False)
    assert torch.allclose(_moved(x, drawn), expected, atol=1e-4)


def test_the_hidden_square_has_the_mean_of_its_channel():
    x = images(1, side=8)
    # Side .5 · 1 · 8 = 4, centre at pixel 4: rows and columns 2 to 5.
    found = _with_a_hidden_square(x, np.array([[1.0, 0.5, 0.5]]))
    expected = x.clone()
    expected[:, :, 2:6, 2:6] = x.mean(dim=(2, 3), keepdim=True)
    assert torch.equal(found, expected)


def test_strong_views_are_images_in_range_and_leave_the_originals_alone():
    x = images(40)
    before = x.clone()
    views = strong(x, np.random.default_rng(3))
    assert views.shape == x.shape
    assert 0 <= views.min() <= views.max() <= 1
    assert torch.equal(x, before)
    assert (views != x).flatten(1).any(dim=1).all()
    assert torch.equal(views, strong(x, np.random.default_rng(3)))
    assert not torch.equal(views, strong(x, np.random.default_rng(4)))


def test_no_images_give_no_views():
    assert strong(images(0), np.random.default_rng(0)).shape == (0, 2, 12, 12)
