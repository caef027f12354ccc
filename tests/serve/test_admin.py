"""The administration's port: metrics behind a key, a second factor and a session."""

import asyncio

import pyotp
import pytest
from asgi_client import exchange

from bench.serve import keys
from bench.serve.access_controls import Admin
from bench.serve.admin.app import build_admin
from bench.serve.middleware.failed_keys import Limit
from tests.support import access
from tests.support.access import PEPPER, Clock, enrolled, events, key_for, opened


class Administration:
    """A state with one account of metrics, and the application of its port."""

    def __init__(self, state, clock):
        self.state, self.clock = state, clock
        self.key = key_for(state, "watch", "metrics")
        self.totp = pyotp.parse_uri(enrolled(state, "watch"))
        self.app = build_admin(state, PEPPER, Admin(port=0), Limit(20, 60.0))

    def code(self):
        return self.totp.at(self.clock())

    def login(self, key=None, code=None, body=None):
        headers = [("authorization", f"Bearer {key or self.key}")]
        body = {"code": code or self.code()} if body is None else body
        return exchange(self.app, "POST", "/login", body, headers)

    def metrics(self, token=""):
        """Return status and text."""
        sent = []

        async def receive():
            return {"type": "http.request", "body": b""}

        async def send(message):
            sent.append(message)

        scope = {
            "type": "http",
            "method": "GET",
            "path": "/metrics",
            "raw_path": b"/metrics",
            "query_string": b"",
            "headers": [(b"authorization", f"Bearer {token}".encode())],
            "client": ("127.0.0.1", 5),
        }
        asyncio.run(self.app(scope, receive, send))
        return sent[0]["status"], sent[1]["body"].decode()


@pytest.fixture
def port(tmp_path):
    clock = Clock()
    with opened(tmp_path, clock) as state:
        yield Administration(state, clock)


def test_a_key_and_a_code_give_a_session_that_reads_metrics_and_ends(port):
    status, _, answer = port.login()
    assert (status, answer["seconds"]) == (200, 900.0)
    status, text = port.metrics(answer["token"])
    assert (status, "moatbench_accounts 1.0" in text) == (200, True)
    port.clock.time += 900
    assert port.metrics(answer["token"])[0] == 401
    port.clock.time -= 900
    with port.state.transaction():
        port.state.now()
    assert [row["account"] for row in events(port.state, "logged in")] == ["watch"]


def test_neither_a_key_nor_a_code_alone_reads_metrics(port):
    client = key_for(port.state, "alice")
    assert port.metrics()[0] == 401
    assert port.metrics(port.key)[0] == 401
    assert port.login(key=client)[0] == 403
    assert port.login(key="wrong")[0] == 401
    assert port.login(body={})[0] == 400
    assert port.login(body={"code": 123456})[0] == 400
    assert port.login(body=b"[[")[0] == 400
    assert port.login(code="abcdef")[0] == 401
    assert not port.state.rows("select * from sessions")


def test_a_code_opens_one_session(port):
    assert [port.login()[0] for _ in range(2)] == [200, 401]


def test_the_sixth_wrong_code_is_told_to_wait(port):
    assert [port.login(code="abcdef")[0] for _ in range(5)] == [401] * 5
    status, headers, _ = port.login()
    assert (status, headers["retry-after"]) == (429, "900")


def test_a_revoked_account_has_no_session(port):
    token = port.login()[2]["token"]
    with port.state.transaction() as connection:
        keys.revoke(connection, "watch", now=port.state.now(), by="admin")
    assert port.metrics(token)[0] == 401


def test_metrics_are_those_of_all_workers_and_name_nobody(port, tmp_path):
    with opened(tmp_path, port.clock) as other:
        key = key_for(other, "alice")
        for state in (port.state, other):
            access.asked(access.served(state, after=5), key, [1, 2, 10])
        access.asked(access.served(other, cap=1), key, [1, 1])
    text = port.metrics(port.login()[2]["token"])[1]
    assert 'moatbench_inputs_total{outcome="admitted"} 6.0' in text
    assert 'moatbench_inputs_total{outcome="flagged"} 2.0' in text
    assert 'moatbench_requests_total{control="",status="200"} 2.0' in text
    assert "# TYPE moatbench_answer_seconds_total" in text or "moatbench_seconds_total" in text
    assert "alice" not in text


def test_the_state_holds_no_token(port, tmp_path):
    token = port.login()[2]["token"]
    port.state.rows("pragma wal_checkpoint(truncate)")
    assert all(token.encode() not in path.read_bytes() for path in tmp_path.iterdir())


def test_a_metrics_account_whose_second_factor_is_gone_is_refused_in_words(port):
    with port.state.transaction() as connection:
        connection.execute("delete from factors")
    assert port.login()[::2] == (403, {"error": "this account has no second factor"})
