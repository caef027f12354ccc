import numpy as np
import pytest
from live_targets import inputs, target
from targets import FakeExchange, a_target, failing, some_inputs, too_large

from bench.errors import UsageError
from bench.remote.campaign import campaign_facts
from bench.remote.ledger import Ledger
from bench.remote.look import LARGEST, MOST_BOOKED, look
from bench.remote.money import Prices, RunLimitError
from bench.remote.purchase import Purchaser
from bench.run_facts import CampaignFacts


class Bought:
    """A buyer whose answers are made by ``answer(n, number of the request)``."""

    def __init__(self, answer, **facts):
        self.answer, self.sizes, self.given = answer, [], facts

    def ask(self, rows):
        self.sizes.append(len(rows))
        return np.asarray(self.answer(len(rows), len(self.sizes)), dtype=np.float64)

    def facts(self):
        requests = self.given.get("requests", len(self.sizes))
        latency = {str(size): 4.0 * size**0.5 for size in self.sizes}
        values = {"latency_ms": latency, **self.given, "requests": requests}
        return CampaignFacts(target="t", url="u", protocol="oip", price_per_1000=1.5, **values)


def looked(tmp_path, answer, n=60, metadata=None, facts=None, **values):
    bought = Bought(answer, **(facts or {}))
    found = look(bought.ask, bought.facts, inputs(n), target(tmp_path, **values), metadata or {})
    return found, bought, " ".join(found.findings)


def constant(n, _):
    return [[0.5, 0.25, 0.25]] * n


def test_a_look_sends_one_input_twice_and_two_batches(tmp_path):
    said = {
        "server": {"name": "mlserver", "version": "1.7.1"},
        "model": {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 64]}]},
    }
    found, bought, text = looked(
        tmp_path, constant, metadata=said, facts={"identity": "digits v1", "digits": 8}
    )
    assert bought.sizes == [1, 1, 8, 32]
    assert found.asked == sum(bought.sizes) == LARGEST <= 50
    assert (found.identity, found.server, found.change, found.refused) == (
        "digits v1",
        "mlserver 1.7.1",
        0,
        0,
    )
    assert "protocol oip as digits v1, from mlserver 1.7.1." in text
    assert "the shape x FP32 [-1, 64]" in text
    assert "probabilities of 3 classes, with 8 significant digits" in text
    assert "One input sent twice got equal answers." in text
    assert found.throughput == pytest.approx(32 / (4.0 * 32**0.5) * 1000)


@pytest.mark.parametrize(
    ("n", "batch", "sizes"), [(1, 64, [1, 1]), (5, 64, [1, 1, 4]), (60, 1, [1, 1, 1, 1])]
)
def test_a_look_keeps_to_the_inputs_and_the_batch_that_there_are(tmp_path, n, batch, sizes):
    assert looked(tmp_path, constant, n=n, batch=batch)[1].sizes == sizes


def test_noise_labels_and_refusals_are_told(tmp_path):
    noisy = looked(tmp_path, lambda n, turn: [[0.5, 0.25, 0.25] if turn == 1 else [0.4, 0.35, 0.25]] * n)
    assert noisy[0].change == pytest.approx(0.1)
    assert "Two answers to one input differ by up to 0.1." in noisy[2]
    hidden = looked(tmp_path, lambda n, _: [[1, 0, 0]] * n)
    assert "no more than labels" in hidden[2]
    labels = looked(tmp_path, lambda n, _: [[1, 0, 0]] * n, answers="labels")
    assert "Answers are labels, of 3 classes." in labels[2]
    assert "no more than labels" not in labels[2]
    lost = looked(tmp_path, lambda n, turn: [[np.nan] * 3 if turn == 2 else [1, 0, 0]] * n)
    assert (lost[0].refused, lost[0].change) == (1, None)
    assert "1 of 42 inputs got no answer." in lost[2]


def test_a_limit_of_the_batch_is_told(tmp_path):
    found, _, text = looked(tmp_path, constant, facts={"latency_ms": {"1": 2.0, "16": 8.0}})
    assert "Requests of more than 16 inputs were not answered; lower batch." in text
    assert found.throughput == 2000


def test_answers_that_were_bought_before_are_told(tmp_path):
    found, _, text = looked(tmp_path, constant, facts={"requests": 4, "latency_ms": {}})
    assert "nothing was sent" in text
    assert found.throughput is None


def test_a_fault_passes(tmp_path):
    def fault(*_):
        raise UsageError("the target answers 401")

    with pytest.raises(UsageError, match="401"):
        looked(tmp_path, fault)


@pytest.mark.parametrize(
    "said",
    [
        {"server": "3.17.2"},
        {"server": 3.1},
        {"server": True},
        {"server": ["x"], "model": {"inputs": "x"}},
        {"model": []},
    ],
)
def test_whatever_a_server_says_of_itself_is_survived(tmp_path, said):
    found, *_ = looked(tmp_path, constant, metadata=said)
    assert found.shape == ""
    assert found.server in {"version 3.17.2", "version 3.1", ""}


def test_a_look_that_reaches_its_limit_says_what_it_reached(tmp_path):
    def answer(n, _):
        if n > 8:
            raise RunLimitError("26 inputs are booked in this run, and 32 more would exceed its limit of 50")
        return constant(n, _)

    found, _, text = looked(tmp_path, answer, facts={"latency_ms": {"1": 1.0, "4": 2.0}})
    assert found.asked == 10
    assert "A request of 32 inputs was not answered in full: 26 inputs are booked" in text
    assert "Requests of more than 4 inputs were not answered; lower batch." in text


@pytest.mark.parametrize("billed", ["unknown", "no"])
@pytest.mark.parametrize("largest", [1, 4])
def test_a_look_books_at_most_50_inputs_of_a_target_that_answers_few_at_a_time(tmp_path, billed, largest):
    def few(inputs):
        if len(inputs) <= largest:
            return None
        return failing() if billed == "unknown" else too_large()

    exchange, file = FakeExchange(rule=few), a_target(batch=64)
    with Ledger(tmp_path / "ledger", "print", Prices.of(file), run_limit=MOST_BOOKED) as ledger:
        buyer = Purchaser(file, ledger, exchange, fingerprint="print", canary=False)

        def facts():
            return campaign_facts(ledger, file, name="t", url="u", permission="loopback")

        found = look(lambda part: buyer.ask(part, session="c", purpose="c"), facts, some_inputs(41), file, {})
        assert exchange.billed == ledger.totals().inputs <= MOST_BOOKED
        assert ("not answered in full" in " ".join(found.findings)) is (billed == "unknown")
