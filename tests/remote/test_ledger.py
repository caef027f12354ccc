import json
import resource
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from targets import FakeExchange, Time, a_target, some_inputs

from bench.errors import BudgetError, UsageError
from bench.remote import ledger_file
from bench.remote.exchange import Inputs
from bench.remote.ledger import Ledger, Purchase, input_keys
from bench.remote.money import Prices
from bench.remote.pace import Pace
from bench.remote.purchase import Purchaser

ROOT = Path(__file__).parents[2]
ROWS = np.arange(12, dtype=np.float32)[:, None]
KEYS = input_keys("print", "", Inputs(ROWS, ROWS))


def opened(path, *, boot="boot", **changes):
    return Ledger(path, "print", Prices.of(a_target(**changes)), boot=lambda: boot)


def crashed(ledger):
    """Leave a ledger as a killed process does: its lock is free, its file as it was."""
    ledger._db.close()
    ledger._alive.release()


def answers_of(purchases):
    return np.array([[each.key[0], each.occurrence, 0.5] for each in purchases])


def count(ledger, query):
    return ledger.rows(query)[0][0]


class Campaign(RuleBasedStateMachine):
    """Any order of holding, sending, answering, losing and crashing, by two processes."""

    folder = None
    number = 0

    @initialize(cap=st.integers(1, 30), money=st.integers(1, 60))
    def start(self, cap, money):
        Campaign.number += 1
        self.path = self.folder / f"{Campaign.number}.sqlite"
        self.cap, self.money = cap, money
        self.caps = {"budget": cap, "money_cap": money / 1000}
        self.ledgers = [opened(self.path, **self.caps) for _ in range(2)]
        self.held = [0, 0]
        self.sent = [[], []]
        self.billed = 0
        self.answered = {}

    @rule(who=st.integers(0, 1), number=st.integers(1, 8))
    def hold(self, who, number):
        booked = self.ledgers[0].totals().inputs + sum(self.held)
        try:
            self.ledgers[who].hold(number)
        except BudgetError:
            assert booked + number > min(self.cap, self.money // 2)
        else:
            assert booked + number <= min(self.cap, self.money // 2)
            self.held[who] += number

    @rule(who=st.integers(0, 1), places=st.sets(st.integers(0, 11), min_size=1, max_size=6))
    def send(self, who, places):
        wanted = [Purchase(KEYS[place], 0) for place in sorted(places)][: self.held[who]]
        if wanted:
            fresh, _ = self.ledgers[who].sending(wanted, f"attack {who}")
            assert not set(fresh) & self.answered.keys(), "what was answered is paid a second time"
            assert not set(fresh) & {each for sent in self.sent for lot in sent for each in lot}, "sent twice"
            self.held[who] -= len(fresh)
            self.billed += len(fresh)
            self.sent[who] += [fresh] if fresh else []

    @rule(who=st.integers(0, 1))
    def answer(self, who):
        if self.sent[who]:
            sent = self.sent[who].pop()
            self.ledgers[who].answered(sent, answers_of(sent), purpose=f"attack {who}")
            self.answered.update(zip(sent, answers_of(sent), strict=True))

    @rule(who=st.integers(0, 1))
    def lose(self, who):
        if self.sent[who]:
            self.ledgers[who].lost(self.sent[who].pop())

    @rule(who=st.integers(0, 1))
    def reject(self, who):
        if self.sent[who]:
            sent = self.sent[who].pop()
            self.ledgers[who].unsent(sent, f"attack {who}")
            self.billed -= len(sent)
            self.held[who] += len(sent)

    @rule(who=st.integers(0, 1))
    def release(self, who):
        self.ledgers[who].release()
        self.held[who] = 0

    @rule(who=st.integers(0, 1), kills=st.booleans())
    def end(self, who, kills):
        while not kills and self.sent[who]:
            self.lose(who)
        crashed(self.ledgers[who]) if kills else self.ledgers[who].close()
        self.ledgers[who] = opened(self.path, **self.caps)
        self.held[who], self.sent[who] = 0, []

    @invariant()
    def the_caps_hold_and_every_answer_is_kept(self):
        if not hasattr(self, "path"):
            return
        ledger = self.ledgers[0]
        totals = ledger.totals()
        assert totals.inputs == self.billed <= self.cap
        assert totals.money == 2000 * self.billed <= self.money * 1000
        assert count(ledger, "select total(paid) from purposes") == self.billed
        assert count(ledger, "select total(answered) from purposes") == len(self.answered)
        known = ledger.answers(list(self.answered))
        for purchase, answers in self.answered.items():
            np.testing.assert_array_equal(known[purchase], answers)

    def teardown(self):
        for each in getattr(self, "ledgers", ()):
            each.close()


def run_campaigns(folder, examples, steps):
    Campaign.folder = folder
    run_state_machine_as_test(
        Campaign,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_no_order_of_events_and_kills_exceeds_a_cap_or_pays_an_answer_twice(tmp_path):
    run_campaigns(tmp_path, 8, 20)


@pytest.mark.slow
@pytest.mark.long
def test_no_order_of_many_events_and_kills_exceeds_a_cap_or_pays_an_answer_twice(tmp_path):
    run_campaigns(tmp_path, 80, 50)


def test_what_a_killed_process_had_sent_is_unknown_and_what_it_held_is_free(tmp_path):
    path = tmp_path / "ledger.sqlite"
    ledger = opened(path, budget=10)
    ledger.hold(8)
    sent, _ = ledger.sending([Purchase(key, 0) for key in KEYS[:3]], "a")
    with pytest.raises(BudgetError, match="are being sent by another process"):
        opened(path, budget=10).hold(3)  # it lives
    crashed(ledger)
    with opened(path, budget=10) as again:
        assert again.totals().inputs == 3
        assert count(again, "select sum(inputs) from requests where state = 'unknown'") == 3
        again.hold(7)
        assert again.sending(sent, "a")[0] == sent


def test_what_a_living_process_sends_is_not_sent_by_another(tmp_path):
    first, second = (opened(tmp_path / "ledger.sqlite") for _ in range(2))
    wanted = [Purchase(key, 0) for key in KEYS[:4]]
    for each in (first, second):
        each.hold(4)
    assert first.sending(wanted[:2], "a")[0] == wanted[:2]
    assert second.sending(wanted, "b")[0] == wanted[2:]
    for each in (first, second):
        each.close()


def test_what_a_process_is_sending_it_does_not_send_again(tmp_path):
    with opened(tmp_path / "ledger.sqlite") as ledger:
        ledger.hold(4)
        wanted = [Purchase(key, 0) for key in KEYS[:2]]
        assert ledger.sending(wanted[:1], "a")[0] == wanted[:1]
        assert ledger.sending(wanted[:1], "a")[0] == []
        assert ledger.sending(wanted, "a")[0] == wanted[1:]


def test_after_a_power_loss_all_that_may_have_been_sent_is_booked(tmp_path, monkeypatch):
    path = tmp_path / "ledger.sqlite"
    monkeypatch.setattr(ledger_file, "GRANT", 5)
    ledger = opened(path)
    ledger.hold(10)
    ledger.sending([Purchase(KEYS[0], 0)], "a")
    crashed(ledger)
    with opened(path, boot="another") as again:
        assert again.totals().inputs == 1 + 5
        assert again.rows("select paid from purposes where purpose = 'power loss'") == [(5,)]
    with opened(path, boot="a third") as again:
        assert again.totals().inputs == 1 + 5


def test_sending_is_on_the_disk_before_it_happens(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger_file, "GRANT", 2)
    ledger = opened(tmp_path / "ledger.sqlite")
    ledger.hold(6)
    modes = []
    for key in KEYS[:6]:
        ledger.sending([Purchase(key, 0)], "a")
        modes.append(ledger.rows("pragma synchronous")[0][0])
        granted, booked = ledger.rows("select granted, booked from runs")[0]
        assert granted >= booked
    assert modes == [2, 1, 1, 2, 1, 1]  # 2: full
    ledger.close()


@pytest.mark.parametrize(
    ("changes", "inputs", "money"),
    [
        ({"price_per_1000": 1.5}, 10_000, 15_000_000),
        ({"price_per_1000": 1.5, "free_units": 1_000.0}, 10_000, 13_500_000),
        ({"price_per_1000": 0.1, "units_per_input": 3.0}, 7, 2_100),
        ({"price_per_1000": 0.0001}, 1_000, 100),
        ({"price_per_1000": 0.7, "units_per_input": 0.1}, 3, 210),
    ],
)
def test_money_is_exact_however_it_is_divided(changes, inputs, money):
    prices = Prices.of(a_target(**changes))
    assert prices.cost(inputs * prices.units) == money
    units = total = 0
    for _ in range(inputs):
        more, cost = prices.further(units, 1)
        units, total = units + more, total + cost
    assert total == money


def test_a_money_cap_of_the_exact_price_is_enough(tmp_path):
    with opened(tmp_path / "ledger.sqlite", price_per_1000=0.3, money_cap=0.0003) as ledger:
        ledger.hold(1)
        with pytest.raises(BudgetError, match="raise money_cap in its file"):
            ledger.hold(1)


def test_a_ledger_of_another_target_is_refused_and_stays_as_it_is(tmp_path):
    path = tmp_path / "ledger.sqlite"
    opened(path).close()
    before = path.read_bytes()
    with pytest.raises(UsageError, match=r"ledger of another target .* name another folder"):
        Ledger(path, "another", Prices.of(a_target()))
    assert path.read_bytes()[100:] == before[100:]  # the head counts openings


@pytest.mark.parametrize("content", [b"no ledger", b"SQLite format 3\0" + bytes(4_000)])
def test_a_file_that_is_no_ledger_is_one_sentence(tmp_path, content):
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="ledger"):
        opened(path)
    assert path.read_bytes() == content


def test_another_database_is_not_touched(tmp_path):
    path = tmp_path / "ledger.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("create table cats (name text)")
    db.close()
    with pytest.raises(UsageError, match="is not a ledger of moatbench"):
        opened(path)
    with sqlite3.connect(path) as db:
        assert db.execute("select name from sqlite_master").fetchall() == [("cats",)]
    db.close()


def test_a_clock_that_is_set_back_delays_by_one_window_at_most(tmp_path):
    time = Time()
    target = a_target(rate="2/minute")
    with Ledger(
        tmp_path / "ledger.sqlite", "print", Prices.of(target), pace=Pace.of(target), clock=time
    ) as ledger:
        ledger.hold(4)
        ledger.sending([Purchase(key, 0) for key in KEYS[:2]], "a")
        time.now -= 86_400
        fresh, wait = ledger.sending([Purchase(KEYS[2], 0)], "a")
        assert (fresh, wait) == ([], 60.0)
        time.now += wait
        assert ledger.sending([Purchase(KEYS[2], 0)], "a")[0]


FILL = """
import json, resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from pathlib import Path
from targets import FakeExchange, a_target, some_inputs
from bench.errors import UsageError
from bench.remote.ledger import Ledger
from bench.remote.money import Prices
from bench.remote.purchase import Purchaser
target = a_target(batch=64)
ledger = Ledger(Path(sys.argv[1]), "print", Prices.of(target))
exchange = FakeExchange()
purchaser = Purchaser(target, ledger, exchange, fingerprint="print", canary=False)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
try:
    purchaser.ask(some_inputs(20_000), session="a", purpose="a")
except UsageError as error:
    print(json.dumps([exchange.billed, str(error)]))
"""


def test_on_a_full_disk_nothing_more_is_sent_and_the_ledger_is_whole(tmp_path):
    path = tmp_path / "ledger.sqlite"
    environ = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests/support'}", "PATH": "/usr/bin:/bin"}
    size = 300_000
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] in {resource.RLIM_INFINITY, 1 << 64}
    done = subprocess.run(
        [sys.executable, "-c", FILL, str(path), str(size)],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    billed, message = json.loads(done.stdout)
    assert 0 < billed < 20_000, done.stderr
    assert "cannot be read or written" in message
    assert "make room" in message
    with opened(path) as again:
        assert again.rows("pragma integrity_check") == [("ok",)]
        assert again.totals().inputs == billed
        answered = count(again, "select sum(inputs) from requests where state = 'answered'")
        assert billed - answered <= 64


def test_what_the_ledger_cannot_hold_is_not_sent(tmp_path):
    target, exchange = a_target(), FakeExchange()
    ledger = opened(tmp_path / "ledger.sqlite")
    purchaser = Purchaser(target, ledger, exchange, fingerprint="print", canary=False)
    pages = ledger.rows("pragma page_count")[0][0]
    ledger.rows(f"pragma max_page_count = {pages}")
    with pytest.raises(UsageError, match="database or disk is full"):
        purchaser.ask(some_inputs(400), session="a", purpose="a")
    assert exchange.billed == ledger.totals().inputs < 400
    before = exchange.billed
    ledger.rows("pragma max_page_count = 1000000")
    purchaser.ask(some_inputs(400), session="a", purpose="a")
    assert exchange.billed <= 400 + 4, "what was sent when the disk was full is bought again, and no more"
    assert before < 400
    ledger.close()


def test_what_could_not_be_written_is_unknown_and_bought_again(tmp_path, monkeypatch):
    target, exchange = a_target(), FakeExchange()
    ledger = opened(tmp_path / "ledger.sqlite")
    purchaser = Purchaser(target, ledger, exchange, fingerprint="print", canary=False)

    def full(purchases, *_, **__):
        ledger._ended(purchases)
        raise UsageError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "answered", full)
        with pytest.raises(UsageError):
            purchaser.ask(some_inputs(4), session="a", purpose="a")
    purchaser.ask(some_inputs(4), session="a", purpose="a")
    assert exchange.billed == ledger.totals().inputs == 8
    ledger.close()


TWO = """
import json, sys
from pathlib import Path
from targets import FakeExchange, a_target, some_inputs
from bench.errors import BudgetError
from bench.remote.ledger import Ledger
from bench.remote.money import Prices
from bench.remote.purchase import Purchaser
target = a_target(budget=150, batch=2)
exchange = FakeExchange()
with Ledger(Path(sys.argv[1]), "print", Prices.of(target)) as ledger:
    purchaser = Purchaser(target, ledger, exchange, fingerprint="print", canary=False)
    start, shared = int(sys.argv[2]), int(sys.argv[3])
    print("ready", flush=True)
    sys.stdin.readline()
    full = 0
    for place in range(0, shared, 10):  # both want these
        purchaser.ask(some_inputs(10, start=place), session="shared", purpose="a")
    for place in range(start, start + 100, 4):
        try:
            purchaser.ask(some_inputs(4, start=place), session="a", purpose="a")
        except BudgetError:
            full += 1
    print(json.dumps([exchange.billed, full]))
"""


def test_two_processes_on_one_ledger_keep_the_cap_and_pay_shared_inputs_once(tmp_path):
    path = tmp_path / "ledger.sqlite"
    environ = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests/support'}", "PATH": "/usr/bin:/bin"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TWO, str(path), str(start), "50"],
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for start in (1_000, 2_000)
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    results = [json.loads(process.communicate()[0]) for process in processes]
    billed, full = (sum(column) for column in zip(*results, strict=True))
    assert full > 0
    with opened(path) as ledger:
        assert ledger.totals().inputs == billed <= 150
        assert billed > 142  # what does not fit is less than one lot of each
        assert count(ledger, "select sum(inputs) from requests where state = 'answered'") == billed


def test_an_input_is_known_by_what_is_sent_whatever_number_its_categories_have():
    alone = Inputs(np.zeros((1, 1), np.float32), [["blue"]], ("colour",))
    among_more = Inputs(np.ones((1, 1), np.float32), [["blue"]], ("colour",))
    another = Inputs(np.zeros((1, 1), np.float32), [["amber"]], ("colour",))
    keys = [input_keys("print", "", each)[0] for each in (alone, among_more, another)]
    assert keys[0] == keys[1] != keys[2]
