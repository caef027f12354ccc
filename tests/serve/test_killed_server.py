"""A server that is killed: its log holds up to the last checkpoint, and every answer has its row."""

import asyncio
import json
import random
import sqlite3
from contextlib import closing

import pytest
from filelock import FileLock

from bench.serve import log_check, signatures
from bench.serve.state import State, state_file
from tests.support.load_server import Client, killed, prepared, running

CONTROLS = """
[quota]
inputs = 1_000_000
rate = "unlimited"
[audit]
checkpoints = "elsewhere/checkpoints"
key_file = "checkpoint.key"
rows = 5
seconds = 0.1
"""


async def answers_until(port, key, number):
    """Return ``number`` or more answers to four clients, and what goes on asking for them."""
    answers = []
    asked = [asyncio.create_task(Client(port, key, answers).ask([1, 2, 3] * 1_000)) for _ in range(4)]
    async with asyncio.timeout(60):
        while len(answers) < number:
            await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED, timeout=0.005)
    return answers, asked


def kill_in_requests(process, port, key, number, kill):
    """Kill a server that has answered ``number`` requests and has others at work; return its answers."""

    async def run():
        answers, asked = await answers_until(port, key, number)
        kill(process)
        await asyncio.wait(asked, timeout=60)
        return answers

    return asyncio.run(run())


def killed_alone(process):
    """Kill the server, not its workers and its process of checkpoints, which see that it is gone."""
    process.kill()
    process.wait(timeout=60)


@pytest.mark.slow
@pytest.mark.long
def test_the_log_of_a_killed_server_holds_and_has_a_row_for_every_answer(tmp_path):
    chance = random.Random(3)
    key = prepared(tmp_path, ["ann"], CONTROLS)["ann"]
    public = signatures.read_public_key(signatures.new_key_pair(tmp_path / "checkpoint.key"))
    file = tmp_path / "elsewhere" / "checkpoints"

    def outcome():
        return log_check.verify_log(state_file(tmp_path), file, public)

    answers = []
    for number, kill in ((1, killed), (2, killed_alone), (2, killed), (1, None)):
        with running(tmp_path, number) as (process, port):
            if kill is not None:
                answers += kill_in_requests(process, port, key, chance.randrange(20, 80), kill)
        with FileLock(f"{file}.lock", timeout=60):  # the process of checkpoints has ended
            found = outcome()
        assert found.holds is not False, found.lines  # None: killed before the first checkpoint
    assert found.holds is True
    assert "no row is later than the last checkpoint" in found.lines[-1]
    with State(state_file(tmp_path)) as state:
        rows = [json.loads(row[0]) for row in state.rows("select record from audit order by number")]
    written = {row["id"] for row in rows if row["event"] == "answered"}
    assert {status for status, _, _ in answers} == {200}
    assert {identity for _, _, identity in answers} <= written
    # What is cut off afterwards is missed.
    with closing(sqlite3.connect(state_file(tmp_path))) as connection, connection:
        connection.execute("delete from audit where number > ?", (len(rows) - 3,))
    lost = outcome()
    assert lost.holds is False
    assert f"rows {len(rows) - 2} to {len(rows)} missing" in lost.lines[0]
