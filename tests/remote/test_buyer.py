import json
import os
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from targets import FakeExchange, a_target, some_inputs, true_answers

from bench.errors import BudgetError, StoppedError, UsageError
from bench.remote import buyer as buyer_process
from bench.remote import buying
from bench.remote.frames import packed
from bench.remote.money import RunLimitError

ROOT = Path(__file__).parents[2]
FIELDS = ("url", "protocol", "model", "classes", "batch", "connections", "price_per_1000")


def target_file(folder, **changes):
    """Write a target file and return its path."""
    target = a_target(**changes)
    names = dict.fromkeys((*FIELDS, *changes))
    lines = [f"{name} = {json.dumps(getattr(target, name))}" for name in names]
    path = folder / "shop.toml"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Return a function that starts a process that buys of a target whose bill is a file."""
    monkeypatch.setenv("FAKE_BILL", str(tmp_path / "bill"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests/support")]))
    monkeypatch.setattr(buying, "MODULE", "fake_buyer")
    started = []

    def begun(*, on_progress=None, run_limit=None, classes=3, planned=None, canary=False, **changes):
        file, ledger = target_file(tmp_path, **changes), tmp_path / "out" / "ledger.sqlite"
        buyer = buying.start_buyer(
            file,
            ledger,
            classes=classes,
            planned=planned,
            canary=canary,
            run_limit=run_limit,
            on_progress=on_progress,
        )
        started.append(buyer)
        return buyer

    yield begun
    for buyer in started:
        buyer.close()


def billed(folder):
    """Return the inputs that the target billed, in order."""
    path = folder / "bill"
    lines = path.read_text().splitlines() if path.exists() else []
    return [tuple(row) for line in lines for row in json.loads(line)]


def test_a_process_buys_once_for_all_runs_and_counts_in_its_ledger(start, tmp_path):
    seen, inputs = [], some_inputs(10)
    buyer = start(on_progress=seen.append, planned=20)
    answers = buyer.ask(inputs, session="copycat 0", purpose="copycat")
    np.testing.assert_array_equal(answers, true_answers(inputs.x))
    assert seen
    assert seen[0].inputs == 4
    buyer.close()

    buyer = start()
    again = buyer.ask(inputs, session="copycat 0", purpose="copycat")
    np.testing.assert_array_equal(again, answers)
    buyer.ask(some_inputs(12), session="knockoff 0", purpose="knockoff")
    assert len(billed(tmp_path)) == 12
    facts = buyer.facts()
    assert facts.purposes["copycat"].model_dump() == {
        "sent": 10,
        "paid": 10,
        "unknown": 0,
        "refused": 0,
        "money": 0.02,
    }
    assert (facts.purposes["knockoff"].sent, facts.purposes["knockoff"].paid) == (12, 2)
    assert (facts.target, facts.identity, facts.permission) == ("shop", "m v1", "loopback")
    assert (facts.requests, facts.latency_ms) == (4, {"2": 1.0, "4": 1.0})
    assert facts.digits == 17


def test_errors_of_the_process_are_raised_here(start):
    buyer = start(budget=5)
    with pytest.raises(BudgetError, match="budget of 5"):
        buyer.ask(some_inputs(6), session="a", purpose="a")
    buyer.ask(some_inputs(5), session="a", purpose="a")  # it goes on
    with pytest.raises(UsageError, match="names 3 classes, and the data have 2"):
        start(classes=2)


def test_a_target_file_that_is_none_is_one_sentence(tmp_path):
    with pytest.raises(UsageError, match=r"no\.toml"):
        buying.start_buyer(tmp_path / "no.toml", tmp_path / "ledger.sqlite")


def test_the_buying_process_loads_neither_torch_nor_art_nor_pandas():
    heavy = ("torch", "art", "pandas", "sklearn", "scipy", "attacks", "defenses")
    code = (
        "import sys, bench.remote.buyer, bench.remote.client\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n", done.stderr


def test_a_process_that_is_killed_stops_the_command_and_loses_no_answer(start, tmp_path):
    buyer = start()
    buyer.ask(some_inputs(8), session="a", purpose="a")
    os.kill(buyer.pid, signal.SIGKILL)
    with pytest.raises(Exception, match="run the same command"):
        buyer.ask(some_inputs(16), session="a", purpose="a")
    start().ask(some_inputs(8), session="a", purpose="a")
    assert len(billed(tmp_path)) == 8


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_ends_the_process_as_one_of_this(start, tmp_path, number):
    # Tests may run where it is ignored, under nohup for example, and a child inherits that.
    before = signal.signal(number, signal.default_int_handler)
    try:
        buyer = start(rate="8/hour")  # the third request has to wait
    finally:
        signal.signal(number, before)

    def interrupt(progress):
        if progress.waits:
            os.kill(buyer.pid, number)

    buyer._on_progress = interrupt
    with pytest.raises(KeyboardInterrupt):
        buyer.ask(some_inputs(12), session="a", purpose="a")
    assert len(billed(tmp_path)) == 8


def test_a_terminal_that_is_closed_does_not_end_a_process_that_ignores_it(start, tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        buyer = start(on_progress=lambda _: os.kill(buyer.pid, signal.SIGHUP))
    finally:
        signal.signal(signal.SIGHUP, before)
    buyer.ask(some_inputs(12), session="a", purpose="a")
    assert len(billed(tmp_path)) == 12


def test_the_end_of_a_process_waits_for_an_answer_that_may_come_late(start, monkeypatch):
    buyer = start(timeout=600.0)
    waits, wait = [], buyer._process.wait
    monkeypatch.setattr(buyer._process, "wait", lambda timeout=None: waits.append(timeout) or wait(60))
    buyer.close()
    assert waits == [630.0]


def test_a_process_has_a_limit_of_its_own(start):
    buyer = start(run_limit=5)
    with pytest.raises(RunLimitError, match="limit of 5"):
        buyer.ask(some_inputs(6), session="a", purpose="a")


@pytest.mark.parametrize(("owner", "sent"), [("me, until 2020-01-01, a letter", 0), ("loopback", 3)])
def test_a_permission_that_has_ended_ends_purchases_of_another_machine_alone(tmp_path, owner, sent):
    exchange, file = FakeExchange(), target_file(tmp_path)
    with file.open("a") as more:
        more.write('\npermission = {who = "me", until = 2020-01-01, reference = "a letter"}\n')
    opened = buyer_process.Opened(exchange, "http://h", "print", permission=owner)
    desk = buyer_process.Desk(lambda *_: opened, lambda _: None)
    order = {"do": "open", "target": str(file), "ledger": str(tmp_path / "ledger.sqlite"), "classes": 3}
    desk.do(order | dict.fromkeys(("allowed_host", "planned", "run_limit")) | {"canary": False}, [])
    header, arrays = packed(some_inputs(3))
    ask = {"do": "ask", "session": "a", "purpose": "a", "account": "", "fresh": False}
    with nullcontext() if sent else pytest.raises(StoppedError, match="ended on 2020-01-01"):
        desk.do(ask | header, arrays)
    desk.close()
    assert exchange.billed == sent


TALKER = """
import numpy as np
import sys
print("hello")
def predict(x):
    print("asked for", len(x))
    sys.stdout.flush()
    return np.full((len(x), 3), 1 / 3)
"""


def test_a_function_that_prints_and_reads_disturbs_no_answer(tmp_path):
    (tmp_path / "model.py").write_text(TALKER)
    file = tmp_path / "t.toml"
    file.write_text(
        'url = "model.py:predict"\nprotocol = "python"\nhost = "localhost"\nclasses = ["a", "b", "c"]\n'
    )
    buyer = buying.start_buyer(file, tmp_path / "ledger.sqlite")
    try:
        answers = buyer.ask(some_inputs(70), session="a", purpose="a")
        buyer.finish()
        facts = buyer.facts()
        assert buyer.metadata() == {}
    finally:
        buyer.close()
    np.testing.assert_allclose(answers, np.full((70, 3), 1 / 3))
    assert (facts.purposes["canary"].paid, facts.noise, facts.moved) == (15, 0.0, 0.0)


def test_an_order_that_was_interrupted_is_followed_by_no_other(start):
    buyer = start()

    def interrupt(_):
        raise KeyboardInterrupt

    buyer._on_progress = interrupt
    with pytest.raises(KeyboardInterrupt):
        buyer.ask(some_inputs(8), session="a", purpose="a")
    with pytest.raises(StoppedError, match="run the same command"):
        buyer.facts()
    buyer.close()
    buyer.close()


def test_an_error_of_the_process_itself_tells_its_place_and_not_its_text(start):
    buyer = start(model="secret")
    with pytest.raises(RuntimeError, match=r"KeyError in fake_buyer\.py, line \d+") as caught:
        buyer.ask(some_inputs(8), session="a", purpose="a")
    assert "s3cret" not in str(caught.value)
