"""Quota and rate: at most so many inputs in all, and in any window."""

import sqlite3
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.serve.counting import Denied, Rate, admit, parsed_rate
from bench.serve.state import TABLES
from tests.support.access import Clock, asked, events, key_for, opened, served, server

WINDOW = 60.0


@pytest.mark.parametrize(
    ("text", "rate"), [("600/minute", (600, 60)), ("1/second", (1, 1)), ("5/day", (5, 86400))]
)
def test_a_rate_is_read(text, rate):
    assert parsed_rate(text) == Rate(*rate)


@pytest.mark.parametrize(
    "text", ["600", "0/minute", "-1/minute", "1.5/minute", "6/fortnight", "6 / minute", "٦/day"]
)
def test_a_text_that_is_no_rate_is_refused(text):
    with pytest.raises(ValueError, match="600/minute"):
        parsed_rate(text)


def memory():
    connection = sqlite3.connect(":memory:", isolation_level=None)
    for table in TABLES:
        connection.execute(table)
    return connection


steps = st.one_of(
    st.sampled_from([0.0, 1e-6, 0.5, 59.999999, 60.0, 60.000001, 30.0]), st.floats(0, 100, allow_nan=False)
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(steps, st.integers(1, 12)), max_size=60),
    st.integers(1, 20),
    st.one_of(st.none(), st.integers(1, 120)),
)
def test_no_window_and_no_sum_is_ever_above_its_limit_and_nothing_that_fits_is_refused(requests, limit, cap):
    connection, now, admitted = memory(), 1_800_000_000.0, []
    for step, inputs in requests:
        now += step
        denied = admit(connection, "a", inputs, now, cap, Rate(limit, WINDOW))
        inside = sum(count for at, count in admitted if now - at <= WINDOW)
        fits = inside + inputs <= limit and (cap is None or sum(n for _, n in admitted) + inputs <= cap)
        assert isinstance(denied, Denied) is not fits
        if not isinstance(denied, Denied):
            assert denied == sum(count for _, count in admitted)
            admitted.append((now, inputs))
        elif denied.wait is not None:
            # Whoever waits as long as told finds room.
            later = now + denied.wait
            assert sum(count for at, count in admitted if later - at <= WINDOW) + inputs <= limit
    for first, _ in admitted:
        assert sum(count for at, count in admitted if 0 <= at - first <= WINDOW) <= limit
    assert connection.execute("select coalesce(sum(spent), 0) from counters").fetchone()[0] == sum(
        count for _, count in admitted
    )


def test_a_straddle_of_two_windows_gets_the_limit_once(tmp_path):
    clock = Clock()
    with server(tmp_path, clock, rate=Rate(100, 60)) as (_, key, app):
        assert asked(app, key, [1]).status_code == 200
        clock.time += 59
        assert asked(app, key, [1] * 99).status_code == 200
        clock.time += 2
        assert [asked(app, key, [1]).status_code for _ in range(3)] == [200, 429, 429]


def test_the_answer_says_when_to_come_again_and_then_there_is_room(tmp_path):
    clock = Clock()
    with server(tmp_path, clock, rate=Rate(10, 60)) as (_, key, app):
        asked(app, key, [1] * 4)
        clock.time += 10
        asked(app, key, [1] * 6)
        refused = asked(app, key, [1] * 3)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "51")
        clock.time += 51
        assert asked(app, key, [1] * 3).status_code == 200


def test_a_request_larger_than_any_window_is_told_so_and_not_to_wait(tmp_path):
    with server(tmp_path, rate=Rate(10, 60), cap=20) as (_, key, app):
        refused = asked(app, key, [1] * 11)
        assert (refused.status_code, "retry-after" in refused.headers) == (413, False)
        assert asked(app, key, [1] * 10).status_code == 200


def test_a_used_quota_has_no_time_to_come_again(tmp_path):
    with server(tmp_path, cap=3) as (_, key, app):
        asked(app, key, [1, 2])
        refused = asked(app, key, [1, 2])
        assert (refused.status_code, "retry-after" in refused.headers) == (429, False)
        assert "of which 1 are left" in refused.json()["error"]
        assert asked(app, key, [1]).status_code == 200


def test_accounts_have_quotas_of_their_own(tmp_path):
    with server(tmp_path, cap=2) as (state, key, app):
        other = key_for(state, "bob")
        assert [asked(app, each, [1, 2]).status_code for each in (key, other, key, other)] == [
            200,
            200,
            429,
            429,
        ]


async def failing(*_):
    raise RuntimeError("the model failed")


def test_a_request_that_fails_after_it_was_admitted_stays_counted(tmp_path):
    with opened(tmp_path) as state:
        key, app = key_for(state, "alice"), served(state, cap=2, app=failing)
        with pytest.raises(RuntimeError):
            asked(app, key, [1, 2])
        assert state.rows("select spent from counters") == [(2,)]
        assert [row["inputs"] for row in events(state, "admitted")] == [2]


def test_a_clock_that_jumps_back_frees_no_window(tmp_path):
    clock = Clock()
    with server(tmp_path, clock, rate=Rate(3, 60)) as (_, key, app):
        assert asked(app, key, [1, 2, 3]).status_code == 200
        for jump in (-3600, -10, -1e6):
            clock.time += jump
            assert asked(app, key).status_code == 429


def test_two_workers_in_threads_admit_no_more_than_one(tmp_path):
    cap, sent = 200, []

    def worker(number):
        with opened(tmp_path) as state:
            for _ in range(60):
                with state.transaction() as connection:
                    if not isinstance(
                        admit(connection, "alice", number, state.now(), cap, Rate(cap, 60)), Denied
                    ):
                        sent.append(number)

    threads = [threading.Thread(target=worker, args=(number,)) for number in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with opened(tmp_path) as state:
        assert state.rows("select spent, recent from counters") == [(sum(sent), sum(sent))]
        assert cap - 3 < sum(sent) <= cap


@pytest.mark.parametrize("inputs", [0, -5])
def test_a_number_of_inputs_that_would_give_back_quota_is_an_error(inputs):
    with pytest.raises(ValueError, match="cannot be counted"):
        admit(memory(), "a", inputs, 0.0, 10, None)


def test_flagged_inputs_suspend_an_account_and_it_alone(tmp_path):
    with server(tmp_path, after=3) as (state, key, app):
        other = key_for(state, "bob")
        assert asked(app, key, [10, 1, 10]).status_code == 200
        assert asked(app, key, [1]).status_code == 200
        assert asked(app, key, [10, 10]).status_code == 200  # what suspends was admitted before
        assert asked(app, key, [1]).status_code == 403
        assert asked(app, other, [1]).status_code == 200
        assert [row["account"] for row in events(state, "account suspended")] == ["alice"]
        assert state.rows("select flagged from counters where account = 'alice'") == [(4,)]


def test_a_suspended_account_spends_nothing(tmp_path):
    with server(tmp_path, after=1) as (state, key, app):
        asked(app, key, [10])
        asked(app, key, [1, 1])
        assert state.rows("select spent from counters") == [(1,)]
