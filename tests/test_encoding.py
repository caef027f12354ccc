"""How inputs are encoded for networks and distances."""

import numpy as np
import pytest
from spaces import SPACES, drawn

from bench.encoding import FARTHEST, Encoding
from bench.inputs import Column, InputSpace

MIXED = InputSpace.of_columns(
    [
        Column("age", "integer", 0, 100, missing=True),
        Column("member", "boolean", 0, 1),
        Column.of_categories("colour", ["red", "green", "blue"], missing=True),
    ]
)


def test_columns_are_standardised_or_one_hot_and_missing_values_are_marked():
    x = np.array([[10, 1, 2], [30, 0, np.nan], [np.nan, 1, 0]], np.float32)
    encoded = Encoding.fit(MIXED, x)(x)
    expected = [
        # age, missing; not a member, member; red, green, blue, missing
        [-1, 0, 0, 1, 0, 0, 1, 0],
        [1, 0, 1, 0, 0, 0, 0, 1],
        [0, 1, 0, 1, 1, 0, 0, 0],
    ]
    np.testing.assert_allclose(encoded, expected, atol=1e-6)
    assert encoded.dtype == np.float32


def test_the_width_depends_on_the_space_alone():
    one = Encoding.fit(MIXED, np.zeros((0, 3), np.float32))
    other = Encoding.fit(MIXED, MIXED.uniform(50, np.random.default_rng(0)))
    assert one.shape == other.shape == (8,)


def test_a_column_that_does_not_vary_is_scaled_by_its_range_and_what_is_far_away_is_moved_near():
    encoding = Encoding.fit(MIXED, np.full((5, 3), 1, np.float32))
    assert encoding(np.array([[101 / np.sqrt(12), 0, 0]], np.float32))[0, 0] == pytest.approx(1, abs=0.04)
    narrow = Encoding.fit(MIXED, np.array([[0, 0, 0], [0.001, 0, 0]], np.float32))
    assert narrow(np.array([[100, 0, 0]], np.float32))[0, 0] == FARTHEST


def test_images_in_the_unit_range_are_not_touched():
    x = np.random.default_rng(0).random((3, 1, 4, 4), dtype=np.float32)
    assert Encoding.fit(InputSpace((1, 4, 4)), x)(x) is x


@pytest.mark.parametrize("name", ["bytes", "sequences"])
def test_other_images_and_sequences_are_scaled_by_their_range(name):
    space = SPACES[name]
    encoding = Encoding.fit(space, drawn(space, 20, np.random.default_rng(0)))
    low, high = (np.broadcast_to(limit, (1, *space.shape)).astype(np.float32) for limit in space.limits)
    assert (encoding(low) == 0).all()
    np.testing.assert_allclose(encoding(high), 1)
    assert encoding.shape == space.shape


def test_the_unit_of_a_column_does_not_matter():
    rng = np.random.default_rng(0)
    columns = [Column("a", "number", 0, 1), Column("b", "number", -5, 5)]
    millions = InputSpace.of_columns([Column("a", "number", 0, 1e6), columns[1]])
    metres = InputSpace.of_columns(columns)
    x = metres.uniform(40, rng)
    y = x * np.array([1e6, 1], np.float32)
    np.testing.assert_allclose(Encoding.fit(metres, x)(x), Encoding.fit(millions, y)(y), atol=1e-5)
