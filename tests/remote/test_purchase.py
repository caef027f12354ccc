import datetime as dt
import threading

import numpy as np
import pytest
from targets import (
    FakeExchange,
    Time,
    a_target,
    failing,
    rejected,
    some_inputs,
    timed_out,
    too_large,
    true_answers,
    unreadable,
    wrong_file,
)

from bench.errors import BudgetError, StoppedError, UsageError
from bench.remote.campaign import purposes
from bench.remote.exchange import AttemptError, Reply
from bench.remote.ledger import Ledger
from bench.remote.money import Prices, RunLimitError
from bench.remote.pace import Pace
from bench.remote.purchase import Purchaser


@pytest.fixture
def make(tmp_path):
    """Return a function that makes a purchaser; those of one test share a ledger, one after another."""
    opened = []

    def made(exchange, *, planned=None, chance=lambda: 1.0, time=None, until=None, run_limit=None, **changes):
        while opened:
            opened.pop().close()
        target, time = a_target(**changes), time or Time()
        ledger = Ledger(
            tmp_path / "ledger.sqlite",
            "print",
            Prices.of(target),
            pace=Pace.of(target),
            run_limit=run_limit,
            clock=time,
        )
        opened.append(ledger)
        return Purchaser(
            target,
            ledger,
            exchange,
            fingerprint="print",
            canary=False,
            planned=planned,
            until=until,
            clock=time,
            sleep=time.sleep,
            chance=chance,
        )

    yield made
    while opened:
        opened.pop().close()


def paid(purchaser):
    return purchaser.ledger.totals().inputs


def test_answers_come_in_order_and_are_bought_once(make):
    exchange = FakeExchange()
    inputs = some_inputs(10)
    first = make(exchange)
    answers = first.ask(inputs, session="a", purpose="a")
    np.testing.assert_array_equal(answers, true_answers(inputs.x))
    np.testing.assert_array_equal(first.ask(inputs, session="b", purpose="b"), answers)
    again = make(exchange)
    np.testing.assert_array_equal(again.ask(inputs, session="a", purpose="a"), answers)
    assert exchange.billed == paid(again) == 10


def test_equal_inputs_of_one_session_are_bought_one_by_one(make):
    exchange = FakeExchange()
    purchaser = make(exchange)
    for _ in range(20):
        purchaser.ask(some_inputs(1), session="a", purpose="a")
    assert exchange.billed == 20
    purchaser.ask(some_inputs(1), session="b", purpose="b")
    assert exchange.billed == 20


def test_requests_over_several_connections_answer_in_order(make):
    exchange = FakeExchange()
    inputs = some_inputs(101)
    answers = make(exchange, connections=4).ask(inputs, session="a", purpose="a")
    np.testing.assert_array_equal(answers, true_answers(inputs.x))
    assert exchange.billed == 101
    assert len(exchange.requests) == 26


def test_nothing_is_sent_where_the_caps_do_not_allow_all_of_it(make):
    exchange = FakeExchange()
    with pytest.raises(BudgetError, match="budget of 9"):
        make(exchange, budget=9).ask(some_inputs(10), session="a", purpose="a")
    with pytest.raises(BudgetError, match=r"money_cap of 0\.02"):
        make(exchange, money_cap=0.0199).ask(some_inputs(10), session="a", purpose="a")
    assert not exchange.requests
    purchaser = make(exchange, money_cap=0.02)
    purchaser.ask(some_inputs(10), session="a", purpose="a")
    assert purchaser.ledger.totals().money == 20_000


def test_caps_count_what_earlier_runs_booked_and_may_be_raised(make):
    exchange = FakeExchange()
    make(exchange, budget=10).ask(some_inputs(8), session="a", purpose="a")
    with pytest.raises(BudgetError, match="8 are booked"):
        make(exchange, budget=10).ask(some_inputs(12), session="a", purpose="a")
    make(exchange, budget=12).ask(some_inputs(12), session="a", purpose="a")
    assert exchange.billed == 12


def test_a_rejected_request_is_sent_again_after_the_wait_that_the_target_asks_for(make):
    exchange, time = FakeExchange([None, rejected(3.0), rejected()]), Time()
    purchaser = make(exchange, time=time)
    purchaser.ask(some_inputs(8), session="a", purpose="a")
    assert time.slept == [3.0, 2.0]
    assert paid(purchaser) == exchange.billed == 8


def test_no_retries_means_none(make):
    exchange = FakeExchange([rejected()] * 3)
    with pytest.raises(StoppedError, match="run the same command"):
        make(exchange, retries=0).ask(some_inputs(4), session="a", purpose="a")
    assert len(exchange.requests) == 1


def test_a_storm_of_rejections_ends_after_the_retries_and_bills_nothing(make):
    exchange = FakeExchange(rule=lambda _: rejected())
    purchaser = make(exchange)
    with pytest.raises(StoppedError, match="6 times"):
        purchaser.ask(some_inputs(4), session="a", purpose="a")
    assert len(exchange.requests) == 6
    assert paid(purchaser) == 0


def test_a_wait_longer_than_patience_stops_before_sleeping_and_says_when_to_come_back(make):
    exchange, time = FakeExchange([rejected(3601.0)]), Time()
    with pytest.raises(StoppedError, match="after 1970-01-12 14:46 UTC"):
        make(exchange, time=time, patience=3600.0).ask(some_inputs(4), session="a", purpose="a")
    assert not time.slept


def test_waits_add_up_to_patience(make):
    exchange, time = FakeExchange([rejected(250.0)] * 3), Time()
    with pytest.raises(StoppedError, match="patience = 600 s"):
        make(exchange, time=time).ask(some_inputs(4), session="a", purpose="a")
    assert time.slept == [250.0, 250.0]


def test_an_endless_wait_is_one_sentence(make):
    with pytest.raises(StoppedError, match="for ever"):
        make(FakeExchange([rejected(float("inf"))])).ask(some_inputs(1), session="a", purpose="a")


def test_what_may_have_been_billed_is_booked_and_asked_again_with_the_same_idempotency_key(make):
    exchange = FakeExchange([None, timed_out()])
    purchaser = make(exchange)
    purchaser.ask(some_inputs(8), session="a", purpose="a")
    assert exchange.billed == paid(purchaser) == 12
    assert exchange.tokens[1] == exchange.tokens[2] != exchange.tokens[0]


def test_what_may_have_been_billed_is_asked_again_only_within_the_caps(make):
    exchange = FakeExchange([None, timed_out()])
    purchaser = make(exchange, budget=8)
    with pytest.raises(StoppedError, match=r"it may have been billed, and .* budget of 8"):
        purchaser.ask(some_inputs(8), session="a", purpose="a")
    assert exchange.billed == paid(purchaser) == 8


def test_what_is_unknown_is_bought_by_the_next_run(make):
    exchange = FakeExchange([None, timed_out(), timed_out()])
    with pytest.raises(StoppedError):
        make(exchange).ask(some_inputs(8), session="a", purpose="a")
    purchaser = make(exchange)
    purchaser.ask(some_inputs(8), session="a", purpose="a")
    assert exchange.billed == paid(purchaser) == 4 + 3 * 4


def test_a_target_that_takes_fewer_inputs_gets_fewer_from_then_on(make):
    exchange = FakeExchange(rule=lambda inputs: too_large() if len(inputs) > 3 else None)
    purchaser = make(exchange, batch=16)
    answers = purchaser.ask(some_inputs(40), session="a", purpose="a")
    np.testing.assert_array_equal(answers, true_answers(some_inputs(40).x))
    assert sum(len(each) > 3 for each in exchange.requests) == 3
    assert exchange.billed == paid(purchaser) == 40


def test_a_target_that_takes_no_single_input_is_one_sentence(make):
    with pytest.raises(UsageError, match="not even one input"):
        make(FakeExchange(rule=lambda _: too_large())).ask(some_inputs(4), session="a", purpose="a")


@pytest.mark.parametrize("bad", [0, 5, 63, 64])
def test_one_bad_input_is_isolated_and_the_others_are_answered(make, bad):
    exchange = FakeExchange(rule=lambda inputs: failing() if bad in inputs.x[:, 0] else None)
    purchaser = make(exchange, batch=64)
    purchaser.ask(some_inputs(1, start=1000), session="a", purpose="a")
    answers = purchaser.ask(some_inputs(128), session="a", purpose="a")
    expected = true_answers(some_inputs(128).x)
    expected[bad] = np.nan
    np.testing.assert_array_equal(answers, expected)
    assert exchange.billed == paid(purchaser) <= 129 + 4 * 64
    before = len(exchange.requests)
    np.testing.assert_array_equal(
        make(exchange).ask(some_inputs(128), session="b", purpose="b"), expected, strict=True
    )
    assert len(exchange.requests) == before


def refusing():
    return AttemptError("the target answers 400", billed="no", action="isolate")


@pytest.mark.parametrize("bad", [0, 5, 63, 64])
def test_one_rejected_input_is_isolated_without_a_bill_for_the_others(make, bad):
    exchange = FakeExchange(rule=lambda inputs: refusing() if bad in inputs.x[:, 0] else None)
    purchaser = make(exchange, batch=64)
    purchaser.ask(some_inputs(1, start=1000), session="a", purpose="a")
    answers = purchaser.ask(some_inputs(128), session="a", purpose="a")
    expected = true_answers(some_inputs(128).x)
    expected[bad] = np.nan
    np.testing.assert_array_equal(answers, expected)
    assert exchange.billed == 128
    assert paid(purchaser) == 129, "the rejected input stays booked"
    before = len(exchange.requests)
    np.testing.assert_array_equal(
        purchaser.ask(some_inputs(128), session="b", purpose="b"), expected, strict=True
    )
    assert len(exchange.requests) == before


def test_a_target_that_rejects_the_first_request_stops_at_once_and_bills_nothing(make):
    exchange = FakeExchange(rule=lambda _: refusing())
    purchaser = make(exchange)
    with pytest.raises(UsageError, match="400; nothing was answered yet"):
        purchaser.ask(some_inputs(8), session="a", purpose="a")
    assert len(exchange.requests) == 1
    assert paid(purchaser) == 0


def test_a_target_that_rejects_everything_later_stops_early(make):
    exchange = FakeExchange(rule=lambda inputs: refusing() if (inputs.x < 1000).all() else None)
    purchaser = make(exchange, batch=64)
    purchaser.ask(some_inputs(1, start=1000), session="a", purpose="a")
    with pytest.raises(StoppedError, match=r"400 \(12 requests in a row\)"):
        purchaser.ask(some_inputs(1_000), session="a", purpose="a")
    assert exchange.billed == 1
    assert paid(purchaser) < 10


def test_a_target_that_fails_on_everything_stops_after_its_second_failure(make):
    exchange = FakeExchange(rule=lambda _: failing())
    purchaser = make(exchange, batch=64)
    with pytest.raises(UsageError, match=r"tried 2 times\); .* lower batch; nothing was answered yet"):
        purchaser.ask(some_inputs(1_000), session="a", purpose="a")
    assert len(exchange.requests) == 2
    assert exchange.billed == paid(purchaser) == 128


def outage(error, *, after):
    """Return a rule of a target that answers ``after`` requests, and then none."""
    requests = iter(range(1_000_000))
    return lambda _: error() if next(requests) >= after else None


@pytest.mark.parametrize("connections", [1, 3])
@pytest.mark.parametrize("batch", [1, 4, 64])
@pytest.mark.parametrize("error", [failing, refusing])
def test_inputs_that_were_refused_in_an_outage_are_asked_again_by_the_next_run(
    make, batch, error, connections
):
    exchange = FakeExchange(rule=outage(error, after=2))
    purchaser = make(exchange, batch=batch, connections=connections)
    with pytest.raises(StoppedError, match="requests in a row"):
        purchaser.ask(some_inputs(640), session="a", purpose="a")
    assert sum(each.refused for each in purposes(purchaser.ledger).values()) == 0
    assert exchange.billed == paid(purchaser), "what was not billed is not booked"
    exchange.rule = None
    answers = make(exchange).ask(some_inputs(640), session="a", purpose="a")
    np.testing.assert_array_equal(answers, true_answers(some_inputs(640).x))


@pytest.mark.parametrize("error", [failing, refusing])
def test_the_last_input_of_a_purchase_is_refused_for_good_once_another_is_answered(make, error):
    exchange = FakeExchange(rule=lambda inputs: error() if 7 in inputs.x[:, 0] else None)
    purchaser = make(exchange)
    for session in ("a", "b"):  # it is not sent again meanwhile
        answers = purchaser.ask(some_inputs(8), session=session, purpose="a")
        assert np.isnan(answers).any(axis=1).tolist() == [False] * 7 + [True]
    before, bill = len(exchange.requests), paid(purchaser)
    assert purposes(purchaser.ledger)["a"].refused == 0
    purchaser.ask(some_inputs(1, start=8), session="a2", purpose="a")
    assert purposes(purchaser.ledger)["a"].refused == 1
    assert (len(exchange.requests), paid(purchaser)) == (before + 1, bill + 1)
    make(exchange).ask(some_inputs(9), session="a", purpose="a")
    assert len(exchange.requests) == before + 1


def test_what_was_refused_last_of_all_is_left_to_another_run(make):
    exchange = FakeExchange(rule=lambda inputs: refusing() if 7 in inputs.x[:, 0] else None)
    purchaser = make(exchange)
    purchaser.ask(some_inputs(8), session="a", purpose="a")
    purchaser.close()
    exchange.rule = None
    purchaser = make(exchange)
    np.testing.assert_array_equal(
        purchaser.ask(some_inputs(8), session="a", purpose="a"), true_answers(some_inputs(8).x)
    )
    assert exchange.billed == paid(purchaser) == 8


@pytest.mark.parametrize("after", [0, 3])
def test_what_may_have_been_billed_is_not_sent_again_where_the_file_allows_no_such_try(make, after):
    exchange = FakeExchange(rule=outage(failing, after=after))
    purchaser = make(exchange, retry_unknown=0)
    with pytest.raises(StoppedError, match="retry_unknown = 0 allows no further try"):
        purchaser.ask(some_inputs(40), session="a", purpose="a")
    assert len(exchange.requests) == after + 1
    assert exchange.billed == paid(purchaser)


def test_a_target_that_fails_on_its_first_input_is_one_sentence(make):
    with pytest.raises(UsageError, match="nothing was answered yet"):
        make(FakeExchange(rule=lambda _: failing())).ask(some_inputs(1), session="a", purpose="a")


def test_the_first_unreadable_answer_of_a_run_stops_it(make):
    exchange = FakeExchange(rule=lambda _: unreadable())
    purchaser = make(exchange, connections=8)
    with pytest.raises(UsageError, match="no JSON; nothing was answered yet"):
        purchaser.ask(some_inputs(256), session="a", purpose="a")
    assert exchange.billed == paid(purchaser) == 4


def test_later_unreadable_answers_are_refusals_until_the_third(make):
    exchange = FakeExchange([None, unreadable(), unreadable(), None, unreadable()])
    purchaser = make(exchange)
    answers = purchaser.ask(some_inputs(16), session="a", purpose="a")
    assert np.isnan(answers).all(axis=1).tolist() == [False] * 4 + [True] * 8 + [False] * 4
    with pytest.raises(StoppedError, match="3rd answer"):
        purchaser.ask(some_inputs(8, start=16), session="a", purpose="a")
    assert exchange.billed == paid(purchaser) == 20


@pytest.mark.parametrize("shape", [(4, 1), (3, 3), (4,), (4, 4)])
def test_answers_of_another_shape_are_not_broadcast(make, shape):
    with pytest.raises(UsageError, match="is due"):
        make(FakeExchange([Reply(np.ones(shape))])).ask(some_inputs(4), session="a", purpose="a")


def test_a_wrong_file_stops_at_once_and_bills_nothing(make):
    exchange = FakeExchange([wrong_file()])
    purchaser = make(exchange)
    with pytest.raises(UsageError, match="404; nothing was answered yet: change the target or its file"):
        purchaser.ask(some_inputs(8), session="a", purpose="a")
    assert len(exchange.requests) == 1
    assert paid(purchaser) == 0


def test_another_identity_in_mid_run_stops_and_its_answers_are_not_kept(make):
    exchange = FakeExchange()
    purchaser = make(exchange)
    purchaser.ask(some_inputs(4), session="a", purpose="a")
    exchange.identity = "m v2"
    with pytest.raises(UsageError, match="'m v2', not 'm v1'"):
        purchaser.ask(some_inputs(4, start=4), session="a", purpose="a")
    with pytest.raises(UsageError, match="'m v2', not 'm v1'"):
        make(exchange).ask(some_inputs(8), session="a", purpose="a")


def test_no_window_of_the_rate_sees_more_inputs_than_it_allows(make):
    time = Time()
    times = []
    exchange = FakeExchange(rule=lambda inputs: times.extend([time.now] * len(inputs)))
    for total in (37, 60):  # a resumed run keeps to the rate of the one before
        purchaser = make(exchange, time=time, rate="10/second", batch=4)
        purchaser.ask(some_inputs(total), session="a", purpose="a")
    assert len(times) == 60
    assert max(sum(at <= each < at + 1 for each in times) for at in times) <= 10


def test_a_rate_below_the_batch_makes_requests_smaller(make):
    exchange = FakeExchange()
    make(exchange, rate="3/minute", batch=64).ask(some_inputs(7), session="a", purpose="a")
    assert [len(each) for each in exchange.requests] == [3, 3, 1]


def test_a_target_that_bills_rejected_requests_is_paid_for_them_within_the_caps(make):
    exchange = FakeExchange([None, rejected(1.0, billed="yes")])
    purchaser = make(exchange)
    purchaser.ask(some_inputs(8), session="a", purpose="a")
    assert exchange.billed == paid(purchaser) == 12
    exchange.script = [rejected(1.0, billed="yes")]
    with pytest.raises(StoppedError, match="budget of 18"):
        make(exchange, budget=18).ask(some_inputs(12), session="a", purpose="a")
    assert exchange.billed == 16


class SetBack(Time):
    """A clock that is set back a day while somebody sleeps, once."""

    def sleep(self, seconds):
        super().sleep(seconds)
        self.now -= 0 if len(self.slept) > 1 else 86_400


def test_a_clock_that_is_set_back_in_a_wait_makes_it_no_longer(make):
    time = SetBack()
    make(FakeExchange([rejected(3.0)]), time=time).ask(some_inputs(8), session="a", purpose="a")
    assert time.slept == [3.0]
    time = SetBack()
    make(FakeExchange([rejected()]), time=time).ask(some_inputs(12), session="a", purpose="a")
    assert time.slept == [1.0]


def test_a_clock_that_is_set_back_while_another_connection_waits_makes_it_no_longer(make):
    time, exchange = Time(), FakeExchange()
    purchaser = make(exchange, time=time)
    purchaser._delivery._waits.ask(5.0)
    time.now -= 86_400
    purchaser.ask(some_inputs(12), session="a", purpose="a")
    assert time.slept == [5.0]


def test_nothing_is_sent_after_the_last_day_of_the_permission(make):
    time = Time(1_798_761_599.0 - 10)  # ten seconds before the end of 2026, in UTC
    exchange = FakeExchange()
    purchaser = make(exchange, time=time, rate="4/minute", until=dt.date(2026, 12, 31))
    with pytest.raises(StoppedError, match="permission to test this target ended on 2026-12-31"):
        purchaser.ask(some_inputs(12), session="a", purpose="a")
    assert exchange.billed == paid(purchaser) == 4


def test_a_run_books_no_more_than_its_limit(make):
    exchange = FakeExchange(rule=lambda inputs: failing() if len(inputs) > 1 else None)
    purchaser = make(exchange, batch=8, run_limit=20)
    purchaser.ask(some_inputs(1), session="a", purpose="a")
    with pytest.raises(RunLimitError, match="limit of 20"):
        purchaser.ask(some_inputs(8), session="a", purpose="a")
    assert exchange.billed == paid(purchaser) == 17
    with pytest.raises(RunLimitError):
        purchaser.ask(some_inputs(8), session="a", purpose="a")
    assert exchange.billed == 17
    exchange.rule = None
    make(exchange, run_limit=20).ask(some_inputs(21), session="a", purpose="a")
    assert exchange.billed == 37, "each run has a limit of its own"


def test_patience_is_for_waits_that_the_target_asks_for(make):
    exchange = FakeExchange([rejected(), None])
    make(exchange, patience=0.0).ask(some_inputs(4), session="a", purpose="a")
    assert len(exchange.requests) == 2


def test_a_connection_does_not_wait_for_what_another_has_stopped(make):
    """The second of two requests at a time is told to wait, the third that the file is wrong."""
    together = threading.Barrier(2)

    def rule(inputs):
        if inputs.x[0, 0] == 0:
            return None
        together.wait(30)
        return rejected(500.0) if inputs.x[0, 0] == 4 else wrong_file()

    time = Time()
    purchaser = make(FakeExchange(rule=rule), connections=2, time=time)
    purchaser._sleep = lambda _seconds: purchaser.stop.wait(30)
    with pytest.raises(StoppedError, match="404"):
        purchaser.ask(some_inputs(12), session="a", purpose="a")
    assert time.now == 1_000_000.0
    time.now += 500
    purchaser.ask(some_inputs(4), session="b", purpose="a")  # it goes on


def test_seconds_are_those_of_requests_and_waits(make):
    time = Time()
    purchaser = make(FakeExchange([None, rejected(7.0)]), time=time)
    purchaser.ask(some_inputs(8), session="a", purpose="a")
    time.now += 1_000  # a surrogate is trained
    purchaser.ask(some_inputs(12), session="a2", purpose="a")
    assert purchaser.ledger.rows("select seconds from runs") == [(7.0,)]


def test_accounts_buy_for_themselves(make):
    exchange = FakeExchange()
    purchaser = make(exchange)
    for session, account in enumerate(("one", "two", "one")):
        purchaser.ask(some_inputs(4), session=str(session), purpose="a", account=account)
    assert exchange.billed == 8


def test_what_is_fresh_is_bought_whatever_was_bought_before(make):
    exchange = FakeExchange()
    purchaser = make(exchange)
    for _ in range(2):
        purchaser.ask(some_inputs(3), session="check", purpose="check", fresh=True)
    make(exchange).ask(some_inputs(3), session="check", purpose="check", fresh=True)
    assert exchange.billed == 9


def test_no_inputs_have_no_answers(make):
    exchange = FakeExchange()
    assert make(exchange).ask(some_inputs(0), session="a", purpose="a").shape == (0, 3)
    assert not exchange.requests


def test_a_fault_of_the_exchange_leaves_what_was_sent_booked(make):
    def rule(_):
        raise RuntimeError("a fault")

    exchange = FakeExchange(rule=rule)
    purchaser = make(exchange)
    with pytest.raises(RuntimeError):
        purchaser.ask(some_inputs(4), session="a", purpose="a")
    assert paid(purchaser) == 4
    exchange.rule = None
    purchaser.ask(some_inputs(4), session="a", purpose="a")
    assert paid(purchaser) == 8


def test_inputs_that_another_process_buys_with_the_last_of_the_caps_are_no_error(tmp_path, monkeypatch):
    target, exchange = a_target(budget=8, batch=4), FakeExchange()
    ledgers = [Ledger(tmp_path / "ledger.sqlite", "print", Prices.of(target)) for _ in range(2)]
    one, two = (Purchaser(target, each, exchange, fingerprint="print", canary=False) for each in ledgers)
    known, inputs = two._known, some_inputs(8)

    def bought_after_the_look(purchases):
        monkeypatch.setattr(two, "_known", known)
        found = known(purchases)
        one.ask(inputs, session="a", purpose="a")
        return found

    monkeypatch.setattr(two, "_known", bought_after_the_look)
    answers = two.ask(inputs, session="a", purpose="a")
    np.testing.assert_array_equal(answers, true_answers(inputs.x))
    with pytest.raises(BudgetError):
        two.ask(some_inputs(1, start=100), session="b", purpose="a")
    assert exchange.billed == 8
    for each in ledgers:
        each.close()
