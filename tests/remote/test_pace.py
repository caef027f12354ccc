import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from targets import a_target

from bench.remote.pace import Pace, eta


@pytest.mark.parametrize(
    ("rate", "most", "window"),
    [("5/second", 5, 1.0), ("600/minute", 600, 60.0), ("9/hour", 9, 3600.0), ("1000/day", 1000, 86_400.0)],
)
def test_a_rate_is_a_number_of_inputs_in_its_own_unit(rate, most, window):
    assert Pace.of(a_target(rate=rate)) == Pace(most, pytest.approx(window))


def test_no_rate_is_no_pace():
    assert Pace.of(a_target()) is None


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    most=st.integers(1, 20),
    requests=st.lists(st.tuples(st.integers(1, 20), st.floats(0, 30)), min_size=1, max_size=40),
)
def test_no_window_has_more_than_is_allowed_and_no_wait_is_longer_than_needed(most, requests):
    pace, now, sent = Pace(most, 10.0), 1_000_000.0, []
    for asked, pause in requests:
        number, now = min(asked, most), now + pause
        wait = pace.wait(sent, number, now)
        assert 0 <= wait <= 10 + 1e-6
        if wait > 0:
            just_before = now + wait - 1e-3
            inside = sum(inputs for at, inputs in sent if at > just_before - 10)
            assert inside + number > most, "the wait was too long"
        now += wait
        sent.append((now, number))
    for end, _ in sent:
        assert sum(number for at, number in sent if end - 10 < at <= end) <= most


def test_a_request_that_never_may_be_sent_is_a_mistake():
    with pytest.raises(ValueError, match="exceeds"):
        Pace(3, 1.0).wait([], 4, 0.0)


def test_time_left_is_by_the_slower_of_the_measured_and_the_allowed_rate():
    assert eta(100, 10.0, None) == 10
    assert eta(100, 10.0, Pace(5, 1.0)) == 20
    assert eta(100, 1.0, Pace(5, 1.0)) == 100
    assert eta(100, 0.0, None) is None
