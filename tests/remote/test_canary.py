import numpy as np
import pytest
from targets import FakeExchange, Time, a_target, rejected, some_inputs, true_answers

from bench.errors import BudgetError, StoppedError, UsageError
from bench.remote.campaign import campaign_facts
from bench.remote.ledger import Ledger
from bench.remote.money import Prices
from bench.remote.purchase import Purchaser


@pytest.fixture
def make(tmp_path):
    """Return a function that makes a purchaser with a canary; those of one test share a ledger."""
    opened = []

    def made(exchange, planned=40, **changes):
        while opened:
            opened.pop().close()
        target, time = a_target(**changes), Time()
        ledger = Ledger(tmp_path / "ledger.sqlite", "print", Prices.of(target), clock=time)
        opened.append(ledger)
        return Purchaser(
            target,
            ledger,
            exchange,
            fingerprint="print",
            planned=planned,
            clock=time,
            sleep=time.sleep,
        )

    yield made
    while opened:
        opened.pop().close()


def facts(purchaser):
    return campaign_facts(
        purchaser.ledger, purchaser.target, name="shop", url="http://h", permission="loopback"
    )


def paid(purchaser):
    return {name: each.paid for name, each in facts(purchaser).purposes.items()}


def buy(purchaser, number, *, start=0):
    return purchaser.ask(some_inputs(number, start=start), session="a", purpose="a")


class Noisy:
    """A model whose answers move by ``size`` at random, and by ``shift`` once it is set."""

    def __init__(self, size=0.0):
        self.size, self.shift = size, 0.0
        self.rng = np.random.default_rng(0)

    def __call__(self, x):
        answers = true_answers(x)
        return answers + self.shift + self.rng.uniform(-self.size, self.size, answers.shape)


def test_the_canary_is_asked_twice_at_the_start_once_in_the_middle_and_once_at_the_end(make):
    exchange = FakeExchange()
    purchaser = make(exchange, planned=40)
    buy(purchaser, 40)
    purchaser.finish()
    assert paid(purchaser) == {"a": 40, "canary": 20}
    canary = [place for place, each in enumerate(exchange.requests) if each[0] == (0.0, 0.0)]
    assert len(canary) == 5  # four looks, and the first input itself
    assert (facts(purchaser).noise, facts(purchaser).moved) == (0.0, 0.0)
    purchaser.finish()
    assert paid(purchaser)["canary"] == 20, "nothing was bought since"


def test_a_run_that_buys_nothing_asks_no_canary_and_one_that_goes_on_asks_the_same(make):
    exchange = FakeExchange()
    buy(make(exchange), 8)
    purchaser = make(exchange)
    buy(purchaser, 8)
    purchaser.finish()
    assert exchange.billed == 18
    buy(purchaser, 8, start=8)
    assert paid(purchaser) == {"a": 16, "canary": 15}
    assert facts(purchaser).purposes["canary"].sent == 15
    assert exchange.requests[-4][:2] == exchange.requests[0][:2]


@pytest.mark.parametrize("shift", [0.01, 2e-6])
def test_another_model_stops_the_run(make, shift):
    model = Noisy()
    exchange = FakeExchange(model=model)
    purchaser = make(exchange)
    buy(purchaser, 8)
    model.shift = shift
    with pytest.raises(UsageError, match="another model answers: in the middle"):
        buy(purchaser, 40, start=8)
    assert facts(purchaser).moved == pytest.approx(shift)
    assert exchange.billed < 48, "it stops in the middle"


def test_another_model_is_noticed_when_a_run_goes_on_and_at_its_end(make):
    model = Noisy()
    exchange = FakeExchange(model=model)
    purchaser = make(exchange)
    buy(purchaser, 8)
    model.shift = 0.01
    with pytest.raises(UsageError, match="at the end"):
        purchaser.finish()
    before = exchange.billed
    with pytest.raises(UsageError, match="when the run went on"):
        buy(make(exchange), 8, start=8)
    assert exchange.billed - before == 10


def test_noise_that_was_there_from_the_start_is_not_another_model(make):
    model = Noisy(size=0.05)
    purchaser = make(FakeExchange(model=model), planned=10)
    buy(purchaser, 200)
    purchaser.finish()
    found = facts(purchaser)
    assert 0 < found.moved <= 3 * found.noise


def test_noise_that_shows_first_in_the_middle_is_not_another_model(make):
    model = Noisy()
    exchange = FakeExchange(model=model)
    purchaser = make(exchange)
    buy(purchaser, 8)
    model.size = 0.05
    buy(purchaser, 40, start=8)
    purchaser.finish()
    assert facts(purchaser).noise > 0.01


def test_rounding_between_requests_is_no_change(make):
    model = Noisy()
    purchaser = make(FakeExchange(model=model))
    buy(purchaser, 8)
    model.shift = 5e-7
    buy(purchaser, 40, start=8)
    purchaser.finish()


def test_a_refusal_of_a_canary_input_that_was_answered_is_a_change(make):
    model = Noisy()
    purchaser = make(FakeExchange(model=model))
    buy(purchaser, 8)
    model.shift = np.nan
    with pytest.raises(UsageError, match="another model"):
        purchaser.finish()


def test_where_the_caps_do_not_allow_the_canary_too_nothing_is_sent(make):
    exchange = FakeExchange()
    with pytest.raises(BudgetError):
        buy(make(exchange, budget=17), 8)
    assert not exchange.requests
    purchaser = make(exchange, budget=18)
    buy(purchaser, 8)
    purchaser.finish()
    assert facts(purchaser).notes == ["The caps left no room for the canary inputs at the end."]
    assert exchange.billed == 18


def test_a_canary_that_stops_leaves_the_rest_to_be_bought_later(make):
    exchange = FakeExchange()
    purchaser = make(exchange, retries=0)
    buy(purchaser, 8)
    exchange.script = [rejected()]
    with pytest.raises(StoppedError):
        purchaser.finish()
    buy(make(exchange), 12)
    assert exchange.answered[(11.0, 11.0)] == 1


@pytest.mark.parametrize("stops", [3, 12])
def test_runs_that_are_stopped_again_and_again_leave_the_last_room_of_the_caps_to_what_is_planned(
    make, stops
):
    exchange = FakeExchange()
    for total in range(4, 4 * stops, 4):
        exchange.rule = lambda inputs, total=total: rejected() if inputs.x[0, 0] >= total else None
        with pytest.raises(StoppedError):
            buy(make(exchange, planned=80, budget=80, retries=0), 48)
    exchange.rule = None
    purchaser = make(exchange, planned=80, budget=80)
    buy(purchaser, 48)
    purchaser.ask(some_inputs(12, start=48), session="b", purpose="b")
    purchaser.finish()
    assert paid(purchaser)["a"] + paid(purchaser)["b"] == 60
    assert exchange.billed == sum(paid(purchaser).values()) <= 80
    assert len(facts(purchaser).notes) == 1


@pytest.mark.parametrize(("rejects", "when"), [(1, "at the start"), (5, "when the run went on")])
def test_a_run_goes_on_where_the_caps_have_room_for_its_inputs_alone(make, rejects, when):
    exchange = FakeExchange([None] * rejects + [rejected()])
    with pytest.raises(StoppedError):
        buy(make(exchange, planned=None, budget=18, retries=0), 8)
    purchaser = make(exchange, planned=None, budget=18)
    buy(purchaser, 8)
    assert exchange.billed <= 18
    assert facts(purchaser).notes == [f"The caps left no room for the canary inputs {when}."]
