"""Pools: their access and size without pixels, and pixels that fit every victim."""

import random
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import slow_unless
from hypothesis import given, settings
from hypothesis import strategies as st

from attacks.base import Pool
from bench.data import query_pools
from bench.data.data_files import load_pool_source
from bench.data.datasets import DATASETS, Labelled, Splits
from bench.data.query_pools import POOLS, access, clusters, load, resize, size
from bench.data.synthetic_images import FONT, draw_glyphs, draw_strokes
from bench.errors import MissingDataError, UsageError

SIZES = {"train": 70, "calibration": 20, "pool": 60, "test": 50}
OWN = SIZES["pool"]
NOISE = ("noise", "gaussian-noise", "sparse-noise")
DRAWN = (*NOISE, "synthetic", "glyphs")
DATALESS = (*DRAWN, "none")


def victim_splits(shape: tuple[int, ...], seed: int = 0) -> Splits:
    rng = np.random.default_rng(seed)
    parts = {
        name: Labelled(rng.random((number, *shape), dtype=np.float32), rng.integers(0, 10, number))
        for name, number in SIZES.items()
    }
    return Splits(**parts, classes=10)


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
    monkeypatch.setattr(query_pools, "load_pool_source", lambda *_: source)


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
            ("train", "mnist", "in-distribution"),
            ("test", "their.py:factory", "in-distribution"),
            ("in-distribution", "their.py:factory", "in-distribution"),
            ("usps", "mnist", "near"),
            ("kmnist", "digits", "near"),
            ("fashion-mnist", "mnist", "far"),
            ("cifar10", "fashion-mnist", "far"),
            ("mnist", "their.py:factory", "far"),
            ("noise", "mnist", "none"),
            ("synthetic", "mnist", "none"),
            ("glyphs", "digits", "none"),
            ("sparse-noise", "mnist", "none"),
            ("gaussian-noise", "cifar10", "none"),
            ("none", "their.py:factory", "none"),
            ("permuted", "mnist", "near"),
            ("blend:fashion-mnist", "mnist", "near"),
            ("marginals", "adult", "near"),
            ("perturbed", "mnist", "near"),
            ("shifted", "adult", "near"),
            ("public", "their.py:factory", "near"),
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
            size(wrong, "mnist", SIZES)


class TestSize:
    @pytest.mark.parametrize(
        ("pool", "victim", "expected"),
        [
            ("in-distribution", "digits", 60),
            ("digits", "digits", 60),
            ("train", "digits", 70),
            ("test", "mnist", 50),
            ("permuted", "digits", 60),
            ("blend:mnist", "digits", 60),
            ("none", "digits", 0),
            ("noise", "digits", 2_000),
            ("synthetic", "usps", 2_000),
            ("glyphs", "digits", 2_000),
            ("glyphs", "mnist", 10_000),
            ("sparse-noise", "mnist", 10_000),
            ("synthetic", "mnist", 10_000),
            ("noise", "cifar10", 10_000),
            ("noise", "their.py:factory", 10_000),
            ("noise", "adult", 10_000),
            ("marginals", "digits", 2_000),
            ("perturbed", "adult", 10_000),
            ("shifted", "adult", 0),
            ("usps", "mnist", 7_291),
            ("digits", "mnist", 1_797),
            ("kmnist", "mnist", 10_000),
        ],
    )
    def test_it_is_known_without_loading(self, pool: str, victim: str, expected: int) -> None:
        assert size(pool, victim, SIZES) == expected


class TestLoad:
    @pytest.mark.parametrize(
        ("victim", "pool"),
        slow_unless(
            # One data set of each shape; in colour, those that take no time to draw.
            lambda victim, pool: victim in {"digits", "mnist"} or (victim == "cifar10" and pool not in DRAWN),
            product(
                [name for name, data in DATASETS.items() if len(data.shape) == 3],
                [
                    "in-distribution",
                    "train",
                    "test",
                    *DATALESS,
                    "permuted",
                    "digits",
                    "blend:digits",
                    "blend:cifar10",
                ],
            ),
        ),
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
            assert len(made.x) == size(pool, victim, SIZES)
        if len(made.x):
            assert 0 <= made.x.min() < made.x.max() <= 1
        own = victim_splits(DATASETS[victim].shape).pool
        assert made.reference.tobytes() == own.x.tobytes()

    @pytest.mark.parametrize("pool", [*DATALESS[:-1], "permuted", "blend:digits"])
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
        dataless = [pool for pool in DATALESS if pool != "glyphs"]
        assert not any(load_for("usps", pool, tmp_path).same_classes for pool in dataless)
        assert load_for("usps", "glyphs", tmp_path).same_classes
        assert not load_for("kmnist", "glyphs", tmp_path).same_classes
        assert not load_for("their.py:factory", "glyphs", tmp_path, shape=(1, 8, 8)).same_classes
        assert not load_for("their.py:factory", "digits", tmp_path, shape=(1, 8, 8)).same_classes

    def test_the_victims_own_name_is_its_pool_split_and_not_its_training_data(self, tmp_path: Path) -> None:
        made = load_for("mnist", "mnist", tmp_path)  # nothing in tmp_path: no file is read
        assert made.x.tobytes() == victim_splits((1, 28, 28)).pool.x.tobytes()

    @pytest.mark.parametrize("split", ["train", "test"])
    def test_a_split_of_the_victims_is_itself_and_says_that_it_overlaps(
        self, split: str, tmp_path: Path
    ) -> None:
        splits = victim_splits((1, 8, 8))
        made = load(split, victim_data="digits", splits=splits, seed=0, root=tmp_path)
        assert made.x is getattr(splits, split).x
        assert made.y is getattr(splits, split).y
        assert made.overlaps == split
        assert made.same_classes

    def test_no_other_pool_overlaps_and_all_share_one_reference_without_a_copy(self, tmp_path: Path) -> None:
        splits = victim_splits((1, 8, 8))
        for name in POOLS:
            if name in ("train", "test", "shifted", "public") or "blend:" in name:
                continue
            if name in DATASETS and name != "digits":
                continue
            made = load(name, victim_data="digits", splits=splits, seed=0, root=tmp_path)
            assert not made.overlaps, name
            assert made.reference is splits.pool.x, name

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

    def test_gaussian_noise_is_normal_around_the_middle_and_clipped(self, tmp_path: Path) -> None:
        x = load_for("usps", "gaussian-noise", tmp_path).x
        inside = (x > 0) & (x < 1)
        # 4.55 % of a normal lie two deviations away or further; n draws: error below 1e-8.
        share = 0.0455
        assert abs((~inside).mean() - share) < 6 * np.sqrt(share * (1 - share) / x.size)
        assert abs(x.mean() - 0.5) < 6 * 0.25 / np.sqrt(x.size)
        assert x[inside].std() == pytest.approx(0.22, abs=0.005)

    def test_sparse_noise_is_mostly_paper_and_its_ink_mostly_black(self, tmp_path: Path) -> None:
        x = load_for("usps", "sparse-noise", tmp_path).x
        inked = (x > 0).mean(axis=(1, 2, 3))
        assert inked.mean() == pytest.approx(0.3, abs=0.01)
        assert (inked < 0.15).any()
        assert (inked > 0.45).any()
        assert inked.max() < 0.7
        ink = x[x > 0]
        # The density 1 / (2 sqrt(1 - v)) has mean 2/3, and half of it lies above 3/4.
        assert ink.mean() == pytest.approx(2 / 3, abs=0.01)
        assert (ink > 0.75).mean() == pytest.approx(0.5, abs=0.01)

    def test_sparse_noise_has_no_shape(self, tmp_path: Path) -> None:
        x = load_for("usps", "sparse-noise", tmp_path).x[:, 0]
        x = x - x.mean(axis=(1, 2), keepdims=True)
        neighbours = (x[:, :, 1:] * x[:, :, :-1]).mean() / (x**2).mean()
        assert abs(neighbours) < 0.03

    def test_a_missing_data_set_names_the_command(self, tmp_path: Path) -> None:
        with pytest.raises(MissingDataError, match="moatbench data fetch kmnist"):
            load_for("mnist", "kmnist", tmp_path)

    @pytest.mark.parametrize(
        "pool", slow_unless(lambda pool: pool != "usps", ["usps", "kmnist", "fashion-mnist"])
    )
    def test_real_pools_fit_an_mnist_victim(self, pool: str, data_root: Path) -> None:
        made = load_for("mnist", pool, data_root)
        assert made.x.shape == (size(pool, "mnist", SIZES), 1, 28, 28)
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


class TestGlyphs:
    @pytest.mark.parametrize("shape", [(8, 8), (28, 28), (20, 44)])
    def test_glyphs_are_bright_on_dark_centred_and_all_different(self, shape: tuple[int, int]) -> None:
        x, y = draw_glyphs(1_200, *shape, np.random.default_rng(0))
        assert x.shape == (1_200, 1, *shape)
        assert x.dtype == np.float32
        assert y.dtype == np.int64
        assert x.min() >= 0
        assert x.max() <= 1
        assert (x.max(axis=(1, 2, 3)) > 0.5).all()
        assert (x.mean(axis=(1, 2, 3)) < 0.7).all()
        assert len({image.tobytes() for image in x}) == 1_200
        for axis, length in ((2, shape[0]), (3, shape[1])):
            ink = x.sum(axis=5 - axis)[:, 0].sum(axis=0)
            middle = (ink * np.arange(length)).sum() / ink.sum()
            assert abs(middle - (length - 1) / 2) < 0.05 * length

    def test_every_digit_is_drawn_about_as_often(self) -> None:
        _, y = draw_glyphs(5_000, 8, 8, np.random.default_rng(0))
        # Six standard errors of 5,000 draws with a tenth each: error below 1e-7.
        assert (np.abs(np.bincount(y, minlength=10) - 500) < 6 * np.sqrt(450)).all()

    @pytest.mark.parametrize("side", [8, 28])
    def test_the_label_is_the_digit_that_is_drawn(self, side: int) -> None:
        x, y = draw_glyphs(1_000, side, side, np.random.default_rng(0))
        columns = [list(line.replace(" ", "")) for line in FONT.split()]
        font = np.array(columns).reshape(7, 10, 5).transpose(1, 0, 2) == "#"
        plain = np.pad(font, ((0, 0), (1, 1), (2, 2))).astype(np.float32)[:, None]
        masks = resize(plain, (1, side, side)).reshape(10, -1)
        masks = masks - masks.mean(axis=1, keepdims=True)
        masks /= np.linalg.norm(masks, axis=1, keepdims=True)
        assert ((x.reshape(len(x), -1) @ masks.T).argmax(axis=1) == y).mean() > 0.6

    def test_a_digit_of_the_font_is_like_no_other(self) -> None:
        columns = [list(line.replace(" ", "")) for line in FONT.split()]
        font = np.array(columns).reshape(7, 10, 5).transpose(1, 0, 2).reshape(10, -1)
        assert set(font.ravel()) == {"#", "."}
        apart = (font[:, None] != font[None]).sum(axis=2)[~np.eye(10, dtype=bool)]
        assert apart.min() >= 3

    def test_real_digits_are_what_glyphs_look_like(self, tmp_path: Path) -> None:
        """A classifier of glyphs reads handwriting far better than by chance."""
        from sklearn.linear_model import LogisticRegression

        x, y = draw_glyphs(2_000, 8, 8, np.random.default_rng(0))
        real = load_pool_source("digits", tmp_path)
        model = LogisticRegression(C=0.1, max_iter=300).fit(x.reshape(len(x), -1), y)
        assert model.score(real.x.reshape(len(real), -1), real.y) > 0.5

    def test_no_glyph_is_an_empty_array(self) -> None:
        x, y = draw_glyphs(0, 8, 8, np.random.default_rng(0))
        assert x.shape == (0, 1, 8, 8)
        assert y.shape == (0,)
