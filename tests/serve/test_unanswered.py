"""Every admitted query has a row that says that it was answered, or one that says why it was not."""

import json
import sqlite3

import access
import pytest
from access import Clock, events, opened
from asgi_client import FakePredictor, exchange

from bench.serve.access_controls import Keys, Quota
from bench.serve.app import build_app
from bench.serve.controls import Controls, Size
from bench.serve.middleware.suspension import Suspension
from bench.serve.predictor import RejectedInputsError, UpstreamError
from bench.serve.state import StateError

ROWS = [[0.25, 1.0], [0.75, 0.0]]
QUICK = Size(seconds=0.05, answer_seconds=0.05)


def asked(state, predictor, **controls):
    """Return status of a query, and what the log has of it, in order."""
    app = build_app(predictor, Controls(keys=Keys(on=False), **controls), state)
    status = exchange(app, "POST", "/predict", {"inputs": ROWS})[0]
    rows = events(state, "admitted", "answered", "unanswered")
    assert len({row["id"] for row in rows}) == 1
    assert all(row["inputs"] == 2 for row in rows)
    return status, [(row["event"], row.get("control")) for row in rows]


@pytest.mark.parametrize(
    ("failure", "status", "control"),
    [
        (RejectedInputsError("they do not fit"), 400, "model"),
        (UpstreamError("secret"), 502, "upstream"),
        (ZeroDivisionError("secret"), 500, "server"),
    ],
)
def test_a_failure_is_named_by_the_control_that_noticed_it(failure, status, control, tmp_path):
    predictor = FakePredictor()
    predictor.failure = failure
    with opened(tmp_path) as state:
        assert asked(state, predictor) == (status, [("admitted", None), ("unanswered", control)])
        assert "secret" not in json.dumps(events(state))
        assert state.rows("select total from tallies where control = 'unanswered'") == [(2.0,)]


def test_an_answer_that_took_too_long_is_unanswered_for_the_deadline(tmp_path):
    predictor = FakePredictor()
    predictor.wait = 5.0
    with opened(tmp_path) as state:
        assert asked(state, predictor, size=QUICK) == (
            504,
            [("admitted", None), ("unanswered", "deadline")],
        )


def test_an_answered_query_has_no_such_row(tmp_path):
    with opened(tmp_path) as state:
        assert asked(state, FakePredictor()) == (200, [("admitted", None), ("answered", None)])


def test_an_answer_whose_row_cannot_be_written_is_not_sent_and_is_unanswered(tmp_path, monkeypatch):
    def busy(*_):
        raise sqlite3.OperationalError("database is locked")

    monkeypatch.setattr(Suspension, "_finish", busy)
    with opened(tmp_path) as state:
        assert asked(state, FakePredictor()) == (503, [("admitted", None), ("unanswered", "state")])


@pytest.mark.parametrize("error", [StateError("it is busy"), sqlite3.OperationalError("database is locked")])
def test_an_unanswered_query_names_the_client_who_sent_it(error, tmp_path):
    async def busy(*_):
        raise error

    with opened(tmp_path) as state:
        key = access.key_for(state, "alice")
        with pytest.raises(type(error)):
            access.asked(access.served(state, app=busy), key, [1, 2])
        rows = [(row["account"], row["inputs"], row.get("control")) for row in events(state)[-2:]]
        assert rows == [("alice", 2, None), ("alice", 2, "state")]


def test_a_clock_that_jumps_forward_frees_no_window(tmp_path):
    clock, elapsed = Clock(1000.0), Clock(0.0)
    controls = Controls(keys=Keys(on=False), quota=Quota(rate="4/minute"))
    with opened(tmp_path, clock, elapsed=elapsed) as state:
        app = build_app(FakePredictor(), controls, state)
        query = ("POST", "/predict", {"inputs": ROWS})
        assert [exchange(app, *query)[0] for _ in range(3)] == [200, 200, 429]
        clock.time += 3600
        status, headers, _ = exchange(app, *query)
        assert (status, headers["retry-after"]) == (429, "61")
        elapsed.time += 61
        assert exchange(app, *query)[0] == 200
