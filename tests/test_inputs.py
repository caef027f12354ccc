"""What a space of inputs accepts, and that whatever it makes belongs to it."""

import numpy as np
import pytest

from bench.inputs import Column, InputSpace

TABLE = InputSpace.of_columns(
    [
        Column("age", "integer", 17, 90, missing=True),
        Column("gain", "number", -1.5, 2.5),
        Column("member", "boolean", 0, 1),
        Column.of_categories("colour", ["red", "green", "blue"]),
    ]
)
ROW = np.array([[30, 0.25, 1, 2]], np.float32)


def test_rows_of_a_table_and_missing_values_where_they_may_be_belong_to_it():
    assert TABLE.problem(ROW) == ""
    assert TABLE.problem(np.array([[np.nan, 0, 0, 0]], np.float32)) == ""
    assert TABLE.layout == "table"


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (0, 91, "[17, 90], got 91 to 91 in column 'age'"),
        (1, np.nan, "got NaN in column 'gain'"),
        (2, 0.5, "whole numbers in column 'member'"),
        (3, 3, "in column 'colour'"),
        (1, np.inf, "got infinity"),
    ],
)
def test_a_value_that_a_column_cannot_hold_is_named(place, value, words):
    row = ROW.copy()
    row[0, place] = value
    assert words in TABLE.problem(row)


def test_another_shape_is_named():
    assert "(n, 4)" in TABLE.problem(ROW[:, :3])


def test_whatever_is_projected_or_drawn_belongs_to_the_space():
    rng = np.random.default_rng(0)
    assert TABLE.problem(TABLE.project(rng.normal(0, 100, (500, 4)))) == ""
    drawn = TABLE.uniform(2_000, rng)
    assert TABLE.problem(drawn) == ""
    assert set(drawn[:, 3]) == {0, 1, 2}
    assert np.isclose((drawn[:, 2] == 0).mean(), 0.5, atol=0.05)


def test_missing_values_stay_missing():
    assert np.isnan(TABLE.project(np.array([[np.nan, 0, 0, 0]]))[0, 0])


def test_images_in_the_unit_range_are_what_they_always_were():
    images = InputSpace((1, 8, 8))
    assert images.unit
    assert images.layout == "images"
    same = np.random.default_rng(3).random((5, 1, 8, 8), dtype=np.float32)
    assert images.uniform(5, np.random.default_rng(3)).tobytes() == same.tobytes()


def test_a_space_survives_being_written_and_read():
    for space in (TABLE, InputSpace((4, 3), (0.0, -1.0, 5.0), (1.0, 1.0, 9.0))):
        assert InputSpace.of(space.values()) == space
