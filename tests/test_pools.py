"""Pools: their access and size without pixels, and pixels that fit every victim."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attacks.base import Pool
from bench import pools
from bench.datasets import DATASETS, Labelled, Splits, load_pool_source
from bench.errors import MissingDataError, UsageError
from bench.pools import access, clusters, draw_strokes, load, resize, size

OWN = 60
DATALESS = ("noise", "synthetic", "none")


def victim_splits(shape: tuple[int, ...], seed: int = 0) -> Splits:
    rng = np.random.default_rng(seed)
    part = Labelled(rng.random((OWN, *shape), dtype=np.float32), rng.integers(0, 10, OWN))
    return Splits(train=part, calibration=part, pool=part, test=part, classes=10)


def load_for(
    victim: str,
    pool: str,
    root: Path,
    seed: int = 0,
    shape: tuple[int, ...] | None = None,
) -> Pool:
    splits = victim_splits(shape or DATASETS[victim].shape)
    return load(pool, victim_data=victim, splits=splits, seed=seed, root=root)


@pytest.fixture
def colour_photographs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in for CIFAR-10, which is not at hand: any data set is 30 colour images."""
    rng = np.random.default_rng(1)
    source = Labelled(rng.random((30, 3, 32, 32), dtype=np.float32), rng.integers(0, 10, 30))
    monkeypatch.setattr(pools, "load_pool_source", lambda *_: source)


def global_states() -> list[bytes]:
    """Return the states of the global generators of Python, NumPy and torch."""
    legacy = np.random.get_state()
    return [repr(random.getstate()).encode(), repr(legacy).encode(), torch.get_rng_state().numpy().tobytes()]


class TestAccess:
    @pytest.mark.parametrize(
        ("pool", "victim", "expected"),
        [
            ("in-distribution", "mnist", "in-distribution"),
            ("mnist", "mnist", "in-distribution"),
            ("in-distribution", "their.py:factory", "in-distribution"),
            ("usps", "mnist", "near"),
            ("kmnist", "digits", "near"),
            ("fashion-mnist", "mnist", "far"),
            ("cifar10", "fashion-mnist", "far"),
            ("mnist", "their.py:factory", "far"),
            ("noise", "mnist", "none"),
            ("synthetic", "mnist", "none"),
            ("none", "their.py:factory", "none"),
            ("permuted", "mnist", "near"),
            ("blend:fashion-mnist", "mnist", "near"),
        ],
    )
    def test_it_follows_the_domains(self, pool: str, victim: str, expected: str) -> None:
        assert access(pool, victim) == expected

    @pytest.mark.parametrize(
        ("wrong", "near"), [("nosie", "'noise'"), ("blend:kminst", "'blend:kmnist'"), ("Mnist", "'mnist'")]
    )
    def test_an_unknown_pool_gets_the_nearest_ones(self, wrong: str, near: str) -> None:
        with pytest.raises(UsageError, match=near):
            access(wrong, "mnist")
        with pytest.raises(UsageError, match=near):
            size(wrong, "mnist", 10)


class TestSize:
    @pytest.mark.parametrize(
        ("pool", "victim", "expected"),
        [
            ("in-distribution", "digits", 500),
            ("digits", "digits", 500),
            ("permuted", "digits", 500),
            ("blend:mnist", "digits", 500),
            ("none", "digits", 0),
            ("noise", "digits", 2_000),
            ("synthetic", "usps", 2_000),
            ("synthetic", "mnist", 10_000),
            ("noise", "cifar10", 10_000),
            ("noise", "their.py:factory", 10_000),
            ("usps", "mnist", 7_291),
            ("digits", "mnist", 1_797),
            ("kmnist", "mnist", 10_000),
        ],
    )
    def test_it_is_known_without_loading(self, pool: str, victim: str, expected: int) -> None:
        assert size(pool, victim, 500) == expected


class TestLoad:
    @pytest.mark.parametrize("victim", DATASETS)
    @pytest.mark.parametrize(
        "pool", ["in-distribution", *DATALESS, "permuted", "digits", "blend:digits", "blend:cifar10"]
    )
    @pytest.mark.usefixtures("colour_photographs")
    def test_every_pool_fits_every_victim(self, victim: str, pool: str, tmp_path: Path) -> None:
        made = load_for(victim, pool, tmp_path)
        assert made.name == pool
        assert made.access == access(pool, victim)
        assert made.x.shape[1:] == DATASETS[victim].shape
        assert made.x.dtype == np.float32
        assert made.y.dtype == np.int64
        assert made.y.shape == made.x.shape[:1]
        if pool != "digits":  # a stand-in of 30 images here
            assert len(made.x) == size(pool, victim, OWN)
        if len(made.x):
            assert 0 <= made.x.min() < made.x.max() <= 1

    @pytest.mark.parametrize("pool", ["noise", "synthetic", "permuted", "blend:digits"])
    def test_it_is_a_function_of_its_arguments_and_leaves_global_generators_alone(
        self, pool: str, tmp_path: Path
    ) -> None:
        before = global_states()
        one, two = load_for("usps", pool, tmp_path), load_for("usps", pool, tmp_path)
        assert global_states() == before
        assert one.x.tobytes() == two.x.tobytes()
        assert one.y.tobytes() == two.y.tobytes()
        other = load_for("usps", pool, tmp_path, seed=1)
        assert other.x.tobytes() != one.x.tobytes()

    def test_labels_mean_the_same_only_where_the_label_space_is_the_same(self, tmp_path: Path) -> None:
        assert load_for("usps", "digits", tmp_path).same_classes
        assert load_for("usps", "in-distribution", tmp_path).same_classes
        assert load_for("usps", "permuted", tmp_path).same_classes
        assert not load_for("kmnist", "digits", tmp_path).same_classes
        assert not any(load_for("usps", pool, tmp_path).same_classes for pool in DATALESS)
        assert not load_for("their.py:factory", "digits", tmp_path, shape=(1, 8, 8)).same_classes

    def test_the_victims_own_name_is_its_pool_split_and_not_its_training_data(self, tmp_path: Path) -> None:
        made = load_for("mnist", "mnist", tmp_path)  # nothing in tmp_path: no file is read
        assert made.x.tobytes() == victim_splits((1, 28, 28)).pool.x.tobytes()

    def test_digits_at_their_own_resolution_are_untouched(self, tmp_path: Path) -> None:
        made = load_for("their.py:factory", "digits", tmp_path, shape=(1, 8, 8))
        assert made.x.tobytes() == load_pool_source("digits", tmp_path).x.tobytes()

    def test_permuted_moves_pixels_the_same_way_in_every_image_and_channel(self, tmp_path: Path) -> None:
        own = victim_splits((3, 32, 32)).pool.x.reshape(OWN, 3, -1)
        made = load_for("cifar10", "permuted", tmp_path).x.reshape(OWN, 3, -1)
        order = np.array(
            [np.flatnonzero((own[:, 0] == column[:, None]).all(axis=0))[0] for column in made[:, 0].T]
        )
        assert sorted(order) == list(range(32 * 32))
        np.testing.assert_array_equal(own[:, :, order], made)

    def test_a_blend_is_the_mean_of_two_images_and_keeps_the_first_ones_label(self, tmp_path: Path) -> None:
        own = victim_splits((1, 16, 16)).pool
        made = load_for("usps", "blend:digits", tmp_path)
        other = resize(load_pool_source("digits", tmp_path).x, (1, 16, 16))
        partner = (2 * made.x - own.x)[:, None]
        assert (np.abs(partner - other).max(axis=(2, 3, 4)).min(axis=1) < 1e-6).all()
        np.testing.assert_array_equal(made.y, own.y)

    def test_noise_is_uniform(self, tmp_path: Path) -> None:
        x = load_for("usps", "noise", tmp_path).x
        # Six standard errors of the mean and of the variance of n uniform draws: error below 1e-8.
        assert abs(x.mean() - 1 / 2) < 6 * np.sqrt(1 / 12 / x.size)
        assert abs(x.var() - 1 / 12) < 6 * np.sqrt(1 / 180 / x.size)

    def test_a_missing_data_set_names_the_command(self, tmp_path: Path) -> None:
        with pytest.raises(MissingDataError, match="moatbench data fetch kmnist"):
            load_for("mnist", "kmnist", tmp_path)

    @pytest.mark.parametrize("pool", ["usps", "kmnist", "fashion-mnist"])
    def test_real_pools_fit_an_mnist_victim(self, pool: str, data_root: Path) -> None:
        made = load_for("mnist", pool, data_root)
        assert made.x.shape == (size(pool, "mnist", OWN), 1, 28, 28)
        assert made.x.max() <= 1
        assert made.same_classes == (pool == "usps")


class TestResize:
    def test_colour_turns_grey_by_luma_and_grey_turns_colour_by_repetition(self) -> None:
        red_green_blue = np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1) * np.ones((4, 4), np.float32)
        grey = resize(red_green_blue, (1, 4, 4))
        np.testing.assert_allclose(grey[:, 0, 0, 0], [0.299, 0.587, 0.114], rtol=1e-6)
        colour = resize(grey, (3, 4, 4))
        assert (colour == grey).all()

    @settings(max_examples=25, deadline=None)
    @given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3]), st.sampled_from([1, 3]))
    def test_a_flat_image_stays_flat(self, height: int, width: int, before: int, after: int) -> None:
        flat = np.full((2, before, 17, 9), 0.3, np.float32)
        out = resize(flat, (after, height, width))
        assert out.shape == (2, after, height, width)
        np.testing.assert_allclose(out, 0.3, rtol=1e-5)


class TestClusters:
    def test_labels_are_seeded_and_use_every_class(self) -> None:
        x = np.random.default_rng(0).random((500, 1, 8, 8), dtype=np.float32)
        labels = clusters(x, 10, seed=2**40 + 1)
        assert labels.dtype == np.int64
        assert set(labels) == set(range(10))
        np.testing.assert_array_equal(labels, clusters(x, 10, seed=2**40 + 1))

    def test_images_that_look_alike_share_a_label(self) -> None:
        centres = np.random.default_rng(0).random((4, 1, 8, 8), dtype=np.float32)
        x = np.repeat(centres, 50, axis=0)
        labels = clusters(x, 4, seed=3).reshape(4, 50)
        assert (labels == labels[:, :1]).all()


class TestStrokes:
    @pytest.mark.parametrize("shape", [(8, 8), (28, 28), (20, 44)])
    def test_strokes_are_bright_on_dark_centred_and_all_different(self, shape: tuple[int, int]) -> None:
        x = draw_strokes(700, *shape, np.random.default_rng(0))
        assert x.shape == (700, 1, *shape)
        assert x.dtype == np.float32
        assert x.min() >= 0
        assert (x.max(axis=(1, 2, 3)) > 0.5).all()
        assert (x.mean(axis=(1, 2, 3)) < 0.6).all()
        assert len({image.tobytes() for image in x}) == 700
        for axis, length in ((2, shape[0]), (3, shape[1])):
            ink = x.sum(axis=5 - axis)[:, 0].sum(axis=0)
            middle = (ink * np.arange(length)).sum() / ink.sum()
            assert abs(middle - (length - 1) / 2) < 0.05 * length

    def test_no_image_is_an_empty_array(self) -> None:
        assert draw_strokes(0, 8, 8, np.random.default_rng(0)).shape == (0, 1, 8, 8)
