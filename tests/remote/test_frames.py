import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.remote.exchange import Inputs
from bench.remote.frames import HEAD, SIZE, BrokenFrameError, packed, read_frame, unpacked, write_frame


def through(header, arrays):
    file = io.BytesIO()
    write_frame(file, header, arrays)
    file.seek(0)
    return read_frame(file)


@pytest.mark.parametrize(
    "rows",
    [
        np.float32([[1, 2], [3, np.nan]]),
        np.uint8([[[1], [2]], [[3], [4]]]),
        np.float64([[0.1, 0.2], [0.3, 1e300]]),
        [["red", None, 1, 2.5], ["blue", 0.1, None, True]],
        np.array([["red", None], ["blue", 0.1]], dtype=object),
    ],
)
def test_inputs_pass_without_a_loss(rows):
    x = np.float32([[0.1, 2], [3, np.nan]])
    sent = Inputs(x, rows, ("a", "b"))
    got = unpacked(*through(*packed(sent)))
    np.testing.assert_array_equal(got.x, x)
    assert got.columns == ("a", "b")
    if isinstance(rows, np.ndarray) and not rows.dtype.hasobject:
        np.testing.assert_array_equal(got.rows, rows)
        assert got.rows.dtype == rows.dtype
    else:
        assert got.rows == [list(row) for row in rows]


def test_numbers_of_numpy_in_a_table_are_numbers():
    rows = [[np.int64(3), np.float32(0.5), np.bool_(True), np.str_("a")]]
    got = unpacked(*through(*packed(Inputs(np.zeros((1, 4), np.float32), rows))))
    assert got.rows == [[3, 0.5, True, "a"]]


def test_no_pickle_is_loaded():
    evil = io.BytesIO()
    np.save(evil, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    frame = HEAD.pack(2, 1) + b"{}" + SIZE.pack(evil.tell()) + evil.getvalue()
    with pytest.raises(BrokenFrameError):
        read_frame(io.BytesIO(frame))


def test_objects_are_not_written_as_arrays():
    with pytest.raises(ValueError, match="allow_pickle"):
        write_frame(io.BytesIO(), {}, [np.array([{}], dtype=object)])


def test_the_end_of_a_stream_is_no_frame():
    assert read_frame(io.BytesIO()) is None


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.data())
def test_a_broken_frame_is_an_error_and_never_another_message(data):
    file = io.BytesIO()
    header = {"do": "ask", "session": "s"}
    write_frame(file, header, [np.arange(6.0).reshape(2, 3)])
    whole = file.getvalue()
    cut = data.draw(st.integers(1, len(whole) - 1))
    with pytest.raises(BrokenFrameError):
        read_frame(io.BytesIO(whole[:cut]))


def test_a_length_that_cannot_be_is_not_reserved():
    with pytest.raises(BrokenFrameError):
        read_frame(io.BytesIO(HEAD.pack(1 << 60, 0) + json.dumps({}).encode()))
