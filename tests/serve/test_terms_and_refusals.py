"""Terms have to be accepted before the first answer, and refusals have rows that cannot fill the disk."""

import hashlib
import json

import pytest
from asgi_client import FakePredictor, exchange

from bench.errors import UsageError
from bench.serve import keys, terms
from bench.serve.access_controls import Keys
from bench.serve.app import build_app
from bench.serve.controls import Controls, TermsOfUse
from bench.serve.secret_values import Secret
from bench.serve.state import State, state_file
from bench.serve.terms import Terms

ROWS = {"inputs": [[0, 1]]}


class Served:
    """A server with terms, whose accounts are addresses, and a clock that a test sets."""

    def __init__(self, folder, version="2", text="no resale"):
        self.now = 1_000.0
        (folder / "terms.txt").write_text(text)
        self.state = State(state_file(folder), clock=lambda: self.now)
        controls = Controls(keys=Keys(on=False), terms=TermsOfUse(file="terms.txt", version=version))
        self.app = build_app(FakePredictor(), controls, self.state, folder=folder)

    def ask(self, method="POST", path="/predict", body=ROWS, **more):
        return exchange(self.app, method, path, body, **more)

    def rows(self, event):
        records = [json.loads(row) for (row,) in self.state.rows("select record from audit order by number")]
        return [each for each in records if each["event"] == event]


@pytest.fixture
def served(tmp_path):
    server = Served(tmp_path)
    yield server
    server.state.close()


def test_nothing_is_answered_before_the_terms_are_accepted_and_each_acceptance_has_a_row(served):
    status, _, answer = served.ask()
    assert (status, answer["error"][:16]) == (403, "accept version 2")
    assert served.ask("GET", "/terms", b"")[2]["text"] == "no resale"
    for body, expected in (({"accept": "1"}, 409), ({"accept": "2", "x": 1}, 400), (b"2", 400)):
        assert served.ask(path="/terms/accept", body=body)[0] == expected
    assert served.ask()[0] == 403
    assert served.ask(path="/terms/accept", body={"accept": "2"})[0] == 200
    assert served.ask()[0] == 200
    assert served.ask(client="127.0.9.9")[0] == 403  # of another account nobody accepted
    assert served.ask(path="/terms/accept", body={"accept": "2"})[0] == 200  # again: no further row
    (row,) = served.rows("terms accepted")
    assert (row["version"], row["account"], len(row["sha256"])) == ("2", "address 127.0.0.1", 64)


def test_a_new_version_has_to_be_accepted_anew_and_a_version_keeps_its_text(served, tmp_path):
    served.ask(path="/terms/accept", body={"accept": "2"})
    newer = Served(tmp_path, version="3", text="no resale at all")
    assert newer.ask()[0] == 403
    newer.state.close()
    with pytest.raises(UsageError, match="give the new text a new version"):
        Served(tmp_path, version="2", text="another text")


def test_refusals_have_a_row_a_second_and_it_says_how_many_it_stands_for(served):
    for _ in range(5):
        served.ask()
    served.now += 1
    served.ask()
    assert [row["count"] for row in served.rows("refused")] == [1, 4]
    served.ask(path="/terms/accept", body={"accept": "1"}, client="127.0.9.9")
    assert [row["status"] for row in served.rows("refused")] == [403, 403, 409]


def test_refusals_that_wait_get_their_row_though_the_client_never_comes_back(served):
    for _ in range(5):
        served.ask(client="127.0.9.9")
    served.now += 1
    served.ask("GET", "/terms", b"")
    rows = served.rows("refused")
    assert [(row["address"], row["count"]) for row in rows] == [("127.0.9.9", 1), ("127.0.9.9", 4)]
    served.now += 1
    served.ask("GET", "/terms", b"")
    assert len(served.rows("refused")) == 2


def test_a_clock_that_goes_back_gives_no_row_for_each_refusal(served):
    for _ in range(5):
        served.now -= 0.01
        served.ask()
    rows = len(served.rows("refused"))
    served.now -= 1_000
    for _ in range(10):
        served.ask()
    assert len(served.rows("refused")) <= rows + 1


def test_who_is_remembered_is_bounded_and_no_refusal_is_lost(served, monkeypatch):
    monkeypatch.setattr("bench.serve.middleware.audit.MOST", 2)
    for number in (*range(6), *range(6)):
        served.ask(client=f"127.0.9.{number}")
        served.ask(client=f"127.0.9.{number}")
    served.now += 1
    served.ask("GET", "/terms", b"")
    assert sum(row["count"] for row in served.rows("refused")) == 24


def test_a_new_key_of_an_account_accepts_the_terms_anew(tmp_path):
    pepper, agreed = Secret(b"x" * 32), Terms("1", "no resale", "ab" * 32)
    with State(state_file(tmp_path)) as state, state.transaction() as connection:
        terms.prepare(connection, agreed)
        keys.add(connection, pepper, "ann", "client", now=1.0, by="admin")
        assert terms.accept(connection, "ann", "1", agreed.digest, now=2.0)
        assert not terms.accept(connection, "ann", "1", agreed.digest, now=2.5)
        assert terms.has_accepted(connection, "ann", agreed)
        keys.revoke(connection, "ann", now=3.0, by="admin")
        keys.add(connection, pepper, "ann", "client", now=4.0, by="admin")
        assert not terms.has_accepted(connection, "ann", agreed)
        assert terms.accept(connection, "ann", "1", agreed.digest, now=5.0)
        assert terms.has_accepted(connection, "ann", agreed)


def test_the_digest_of_terms_is_that_of_their_file(tmp_path):
    file = tmp_path / "terms.txt"
    file.write_bytes("\ufeffno\r\nresale\r\n".encode())
    found = terms.load(file, "1")
    assert found.digest == hashlib.sha256(file.read_bytes()).hexdigest()
    assert found.text.encode() == file.read_bytes()


def test_one_household_of_ipv6_fills_no_log_by_its_many_addresses(tmp_path):
    with State(state_file(tmp_path), clock=lambda: 1_000.0) as state:
        controls = Controls(keys=Keys(pepper_env="PEPPER"))
        app = build_app(FakePredictor(), controls, state, environ={"PEPPER": "p" * 40})
        for place in range(5):
            exchange(app, "POST", "/predict", ROWS, client=f"2001:db8:1:2::{place + 1:x}")
        assert state.rows("select count(*) from audit") == [(1,)]


def test_no_row_holds_an_input(served):
    secret = {"inputs": [[0.123456789, 1]]}
    served.ask(body=secret)
    served.ask(path="/terms/accept", body={"accept": "2"})
    served.ask(body=secret)
    served.ask(body={"inputs": [["0.123456789", "x"]]})
    text = "".join(record for (record,) in served.state.rows("select record from audit"))
    assert "answered" in text
    assert "0.1234" not in text
