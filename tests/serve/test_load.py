"""Quotas of a real server under load, when it is killed, and when clients lie about their address."""

import asyncio
import json
import random
from collections import Counter

import httpx2
import pyotp
import pytest

from bench.serve.keys import add
from bench.serve.second_factor import enrol
from bench.serve.secret_values import Secret
from bench.serve.state import State, state_file
from tests.support.load_server import PEPPER, Client, killed, prepared, running

CAP = 10_000
SIZES = (1, 2, 8, 32)
CLIENTS = {"alice": 700, "bob": 300}
CONTROLS = f"""
[size]
seconds = 120.0
answer_seconds = 120.0
address_connections = 2_000
[quota]
inputs = {CAP}
rate = "unlimited"
[keys]
failures = 4
"""


def crowd(port, secrets, clients):
    """Let all clients ask at once; return the answers of each account."""
    answers = {name: [] for name in clients}

    async def all_of_them():
        asked = [
            Client(port, secrets[name], answers[name]).ask(random.Random(number).sample(SIZES, 4))
            for name, count in clients.items()
            for number in range(count)
        ]
        await asyncio.wait_for(asyncio.gather(*asked), timeout=400)

    asyncio.run(all_of_them())
    return answers


def served_inputs(answers):
    return sum(size for status, size, _ in answers if status == 200)


def audited(folder):
    """Return spent inputs by account and the records of the audit log."""
    with State(state_file(folder)) as state:
        spent = dict(state.rows("select account, spent from counters"))
        return spent, [json.loads(row[0]) for row in state.rows("select record from audit order by number")]


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2])
def test_a_thousand_clients_get_no_input_above_any_quota_and_no_answer_without_its_rows(number, tmp_path):
    secrets = prepared(tmp_path, CLIENTS, CONTROLS)
    with running(tmp_path, number) as (_, port):
        answers = crowd(port, secrets, CLIENTS)
    spent, records = audited(tmp_path)
    for name, found in answers.items():
        assert len(found) == 4 * CLIENTS[name]
        assert {status for status, _, _ in found} == {200, 429}
        assert CAP - max(SIZES) < served_inputs(found) == spent[name] <= CAP
        rows = [row for row in records if row.get("account") == name]
        assert sum(row["inputs"] for row in rows if row["event"] == "admitted") == spent[name]
        assert Counter(row["id"] for row in rows if row["event"] == "answered") == Counter(
            identity for status, _, identity in found if status == 200
        )


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2])
def test_the_same_clients_overrun_the_quota_of_a_server_that_counts_after_it_looked(number, tmp_path):
    secrets = prepared(tmp_path, CLIENTS, CONTROLS)
    with running(tmp_path, number, CAP) as (_, port):
        answers = crowd(port, secrets, CLIENTS)
    assert served_inputs(answers["alice"]) > CAP


class Answers(list):
    """Answers, and somebody who waits until there are so many."""

    def __init__(self):
        super().__init__()
        self._enough, self._event = 0, None

    def append(self, answer):
        super().append(answer)
        if self._event is not None and len(self) >= self._enough:
            self._event.set()

    async def reach(self, number):
        self._enough, self._event = number, asyncio.Event()
        await self._event.wait()


@pytest.mark.slow
def test_a_server_that_is_killed_answers_nothing_above_a_quota_and_nothing_uncounted(tmp_path):
    chance, cap = random.Random(7), 600
    secrets = prepared(tmp_path, ["alice"], CONTROLS.replace(str(CAP), str(cap)))
    answers = Answers()

    async def until(process, port, last):
        clients = [
            asyncio.create_task(Client(port, secrets["alice"], answers).ask([1, 2, 3] * 40)) for _ in range(8)
        ]
        all_done = asyncio.gather(*clients)
        if not last:
            enough = asyncio.create_task(answers.reach(len(answers) + chance.randrange(1, 40)))
            await asyncio.wait({all_done, enough}, return_when=asyncio.FIRST_COMPLETED, timeout=60)
            killed(process)
            enough.cancel()
        await asyncio.wait_for(all_done, timeout=120)

    for turn in range(4):
        with running(tmp_path, 1 + turn % 2) as (process, port):
            asyncio.run(until(process, port, turn == 3))
    spent, records = audited(tmp_path)
    assert served_inputs(answers) <= spent["alice"] <= cap
    assert sum(row["inputs"] for row in records if row["event"] == "admitted") == spent["alice"]
    written = {row["id"] for row in records if row["event"] == "answered"}
    assert {identity for status, _, identity in answers if status == 200} <= written
    assert {status for status, _, _ in answers} == {200, 429}


@pytest.mark.slow
def test_headers_about_the_address_move_no_limit_of_a_real_server_of_two_workers(tmp_path):
    secrets = prepared(tmp_path, ["alice"], CONTROLS)
    answers = []
    with running(tmp_path, 2) as (_, port):
        for turn, name in enumerate(["X-Forwarded-For", "Forwarded", "X-Real-IP", "X_FORWARDED_FOR"] * 3):
            headers = [(name, f"198.51.100.{turn}")]
            asyncio.run(Client(port, "wrong", answers, headers).ask([1]))
        asyncio.run(Client(port, secrets["alice"], answers).ask([1]))
    assert [status for status, _, _ in answers] == [401] * 4 + [429] * 8 + [200]


@pytest.mark.slow
def test_metrics_are_on_a_port_of_their_own_and_nowhere_else(tmp_path):
    secrets = prepared(tmp_path, ["alice"], CONTROLS + "[admin]\nport = 0\n")
    with State(state_file(tmp_path)) as state, state.transaction() as connection:
        key = add(connection, Secret(PEPPER.encode()), "watch", "metrics", now=0.0, by="admin")
        uri = enrol(connection, Secret(PEPPER.encode()), "watch", now=0.0)
    answers = []
    with running(tmp_path, 2) as (_, port, own):
        asyncio.run(Client(port, secrets["alice"], answers).ask([3, 4]))
        code = pyotp.parse_uri(uri).now()
        with httpx2.Client(trust_env=False, headers={"authorization": f"Bearer {key}"}) as client:
            assert client.get(f"http://127.0.0.1:{port}/metrics").status_code == 404
            assert client.post(f"http://127.0.0.1:{port}/login", json={"code": code}).status_code == 404
            assert client.post(f"http://127.0.0.1:{own}/predict", json={}).status_code == 404
            assert client.get(f"http://127.0.0.1:{own}/metrics").status_code == 401
            token = client.post(f"http://127.0.0.1:{own}/login", json={"code": code}).json()["token"]
            headers = {"authorization": f"Bearer {token}"}
            text = client.get(f"http://127.0.0.1:{own}/metrics", headers=headers).text
    assert 'moatbench_inputs_total{outcome="admitted"} 7.0' in text
    assert 'moatbench_requests_total{control="",status="200"} 2.0' in text
