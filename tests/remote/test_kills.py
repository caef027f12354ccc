"""The buying process is killed while it buys over HTTP; the server's own count is held against the ledger."""

import contextlib
import json
import os
import random
import select
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from live_targets import serving, written
from targets import some_inputs, true_answers

from bench.errors import StoppedError
from bench.remote.buying import start_buyer
from bench.remote.client import fingerprint
from bench.remote.ledger import Ledger, Purchase, input_keys
from bench.remote.money import Prices
from bench.remote.target import load_target

ROOT = Path(__file__).parents[2]
BATCH, CONNECTIONS = 4, 2


class Shop:
    """A server of the Open Inference Protocol that counts what it bills, by input."""

    def __init__(self):
        self.billed = Counter()
        self.lock = threading.Lock()

    def __call__(self, handler):
        document = json.loads(handler.content)
        (tensor,) = document["inputs"]
        x = np.array(tensor["data"], dtype=np.float32).reshape(tensor["shape"])
        with self.lock:
            self.billed.update(x[:, 0].tolist())
        answers = true_answers(x)
        output = {"name": "p", "shape": list(answers.shape), "datatype": "FP64"}
        output["data"] = answers.ravel().tolist()
        handler.reply(
            200, {"model_name": "m", "model_version": "1", "id": document["id"], "outputs": [output]}
        )


@pytest.fixture
def shop(tmp_path):
    """Yield a server and the file of the target that it is."""
    served = Shop()
    with serving(served) as port:
        values = {
            "url": f"http://127.0.0.1:{port}",
            "protocol": "oip",
            "model": "m",
            "output": "p",
            "classes": ["a", "b", "c"],
            "batch": BATCH,
            "connections": CONNECTIONS,
            "budget": 100_000,
        }
        yield served, written(tmp_path / "shop.toml", values)


def kept(folder, file, inputs):
    """Return those of ``inputs`` (by number) that the ledger has answers to, and what it has booked."""
    target = load_target(file)
    mark = fingerprint(target, "")
    with Ledger(folder / "ledger.sqlite", mark, Prices.of(target)) as ledger:
        purchases = [Purchase(key, 0) for key in input_keys(mark, "", some_inputs(inputs))]
        answers = ledger.answers(purchases)
        return {place for place, each in enumerate(purchases) if each in answers}, ledger.totals().inputs


def buy_with_kills(folder, file, served, *, kills, inputs, seed):
    """Buy inputs while the process is killed again and again; return the number of kills that took place."""
    rng = random.Random(seed)
    wanted, done = some_inputs(inputs), 0
    for left in range(kills, -1, -1):
        answered, _ = kept(folder, file, inputs)
        before = {place: served.billed[place] for place in answered}
        missing = inputs - len(answered)
        until = sum(served.billed.values()) + rng.randrange(1, max(2, missing // max(1, left)))
        buyer = start_buyer(file, folder / "ledger.sqlite", canary=False)
        stop = threading.Event()

        pause = rng.random() / 200

        def kill(until=until, pid=buyer.pid, stop=stop, pause=pause):
            while not stop.wait(0.0005):
                if sum(served.billed.values()) >= until:
                    stop.wait(pause)
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                    return

        killer = threading.Thread(target=kill, daemon=True)
        if left:
            killer.start()
        try:
            answers = buyer.ask(wanted, session="a", purpose="a")
        except StoppedError:
            done += 1
        else:
            np.testing.assert_array_equal(answers, true_answers(wanted.x))
        finally:
            stop.set()
            if left:
                killer.join()
            buyer.close()
        assert {place: served.billed[place] for place in answered} == before, "an answer was paid twice"
    return done


def hold_against_the_server(folder, file, served, *, kills, inputs):
    """See that the ledger has all answers, and that each kill cost what was being sent at most."""
    answered, booked = kept(folder, file, inputs)
    billed = sum(served.billed.values())
    assert len(answered) == inputs
    assert inputs <= billed <= booked <= inputs + kills * BATCH * CONNECTIONS
    print(f"{kills} kills: {inputs} inputs answered, {billed} billed, {booked} booked")


def test_two_kills_lose_no_answer_and_pay_none_twice(tmp_path, shop):
    served, file = shop
    done = buy_with_kills(tmp_path, file, served, kills=2, inputs=400, seed=1)
    hold_against_the_server(tmp_path, file, served, kills=done, inputs=400)


@pytest.mark.slow
@pytest.mark.long
def test_a_hundred_kills_lose_no_answer_and_pay_none_twice(tmp_path, shop):
    served, file = shop
    done = buy_with_kills(tmp_path, file, served, kills=100, inputs=6_000, seed=2)
    assert done > 80
    hold_against_the_server(tmp_path, file, served, kills=done, inputs=6_000)


PARENT = """
import sys, threading
from pathlib import Path
from targets import some_inputs
from bench.remote.buying import start_buyer
buyer = start_buyer(Path(sys.argv[1]), Path(sys.argv[2]), canary=False)
print(buyer.pid, flush=True)
buyer.ask(some_inputs(100_000), session="a", purpose="a")
"""


def test_the_buying_process_ends_with_the_one_that_attacks_and_records_what_it_has_sent(tmp_path, shop):
    served, file = shop
    environ = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests/support'}"}
    command = [sys.executable, "-c", PARENT, str(file), str(tmp_path / "ledger.sqlite")]
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as parent:
        pid = int(parent.stdout.readline())
        watch = os.pidfd_open(pid)
        while sum(served.billed.values()) < 40:
            assert parent.poll() is None
            threading.Event().wait(0.002)  # leaves the processor to those that buy and sell
        parent.kill()
    try:
        assert select.select([watch], [], [], 60)[0], "it still runs"
    finally:
        os.close(watch)
    answered, booked = kept(tmp_path, file, 2_000)
    assert len(answered) == booked == sum(served.billed.values()) < 100_000
