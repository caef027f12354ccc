"""The state file: one for all workers, of this program and version, and a time that never goes back."""

import sqlite3
import stat

import pytest

from bench.serve.state import SCHEMA_VERSION, State, StateError
from tests.support.access import Clock, key_for, opened


def now(state):
    with state.transaction():
        return state.now()


def test_the_file_and_its_folder_are_for_the_owner_alone(tmp_path):
    with opened(tmp_path / "new") as state:
        key_for(state, "alice")
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new").iterdir()}
        assert set(modes.values()) == {0o600}, modes
        assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700


def test_a_newer_file_is_refused_and_left_as_it_is(tmp_path):
    opened(tmp_path).close()
    path = tmp_path / "state.sqlite"
    with sqlite3.connect(path) as db:
        db.execute(f"pragma user_version = {SCHEMA_VERSION + 1}")
    db.close()
    before = path.read_bytes()
    with pytest.raises(StateError, match="newer version"):
        State(path)
    assert path.read_bytes() == before


def test_a_file_of_something_else_is_refused(tmp_path):
    path = tmp_path / "state.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("create table theirs (x)")
    db.close()
    with pytest.raises(StateError, match="not the state of a server"):
        State(path)
    path.write_text("this is a text and no database at all, whatever its name says")
    with pytest.raises(StateError, match="cannot be read or written"):
        State(path)


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match="cannot be read or written"):
        State(tmp_path / "file" / "state.sqlite")


def test_time_never_goes_back_and_goes_on_at_its_pace(tmp_path):
    clock, elapsed = Clock(1000.0), Clock(5.0)
    with opened(tmp_path, clock, elapsed=elapsed) as state:
        assert now(state) == 1000.0
        clock.time -= 300
        assert now(state) == 1000.0
        elapsed.time += 20
        assert now(state) == 1020.0
        clock.time = 1015.0
        assert now(state) == 1020.0
        clock.time = 2000.0
        assert now(state) == 2000.0
    with opened(tmp_path, Clock(3.0), elapsed=Clock(0.0)) as again:  # after a restart of the machine
        assert now(again) == 2000.0


def steady(state):
    with state.transaction():
        return state.moment().steady


def test_a_clock_that_is_set_forward_or_back_does_not_move_the_time_of_windows(tmp_path):
    clock, elapsed, boot = Clock(1000.0), Clock(5.0), ["one"]
    with opened(tmp_path, clock, elapsed=elapsed, boot=lambda: boot[0]) as state:
        assert steady(state) == 1000.0
        clock.time, elapsed.time = 1003.0, 8.0
        assert steady(state) == 1003.0
        clock.time += 86_400
        assert (steady(state), now(state)) == (1003.0, 87_403.0)
        elapsed.time += 10
        clock.time = 0.0
        assert (steady(state), now(state)) == (1013.0, 87_413.0)
    with opened(tmp_path, clock, elapsed=elapsed, boot=lambda: boot[0]) as again:  # the server anew
        elapsed.time += 1
        assert (steady(again), now(again)) == (1014.0, 87_414.0)
    boot[0], elapsed.time, clock.time = "two", 3.0, 87_500.0
    with opened(tmp_path, clock, elapsed=elapsed, boot=lambda: boot[0]) as later:  # the machine anew
        assert (steady(later), now(later)) == (1100.0, 87_500.0)


def test_a_file_of_before_there_was_such_a_time_goes_on_from_its_clock(tmp_path):
    opened(tmp_path, Clock(1.0)).close()
    with sqlite3.connect(tmp_path / "state.sqlite") as db:
        db.execute("drop table seen")
        db.execute("create table seen (at real not null, elapsed real not null, boot text not null) strict")
        db.execute("insert into seen values (1000.0, 5.0, 'one')")
    db.close()
    with opened(tmp_path, Clock(9000.0), elapsed=Clock(25.0), boot=lambda: "one") as state:
        assert (steady(state), now(state)) == (1020.0, 9000.0)


def test_workers_agree_on_the_time(tmp_path):
    with opened(tmp_path, Clock(1000.0)) as one, opened(tmp_path, Clock(500.0)) as other:
        assert now(one) == 1000.0
        assert now(other) == 1000.0


def _insert_and_stop(state):
    with state.transaction() as connection:
        connection.execute("insert into counters (account) values ('a')")
        raise ValueError("stop")


def test_what_fails_in_a_transaction_leaves_nothing(tmp_path):
    with opened(tmp_path) as state:
        with pytest.raises(ValueError, match="stop"):
            _insert_and_stop(state)
        assert not state.rows("select * from counters")
        with state.transaction(), state.transaction() as inner:
            inner.execute("insert into counters (account) values ('b')")
        assert state.rows("select account from counters") == [("b",)]


def test_an_error_of_the_file_is_a_state_error(tmp_path):
    with opened(tmp_path) as state:
        state.rows("pragma query_only = on")
        with pytest.raises(StateError), state.transaction() as connection:
            connection.execute("insert into counters (account) values ('a')")
        with pytest.raises(StateError):
            state.rows("select nothing from nowhere")
