"""What it costs to extract a model: money, accounts and hours, by hand."""

import campaigns
import pytest
from records import LABELS, SOFT

from bench.analysis.extraction_cost import accounts_for, by_budget, cost_of, steps, throughput
from bench.analysis.findings import Findings

FOUND = Findings.of_run(campaigns.records(), campaigns.meta())
THREAT = FOUND.threats[0]


@pytest.mark.parametrize(
    ("detected_after", "quota", "accounts"),
    [
        (500, 1000, 21),
        (None, 1000, 10),
        (500, None, 21),
        (None, None, 1),
        (2, 1000, 10_000),
        (20_000, None, 1),
    ],
)
def test_each_account_stops_before_it_is_found_out_and_at_its_quota(detected_after, quota, accounts):
    assert accounts_for(10_000, campaigns.facts(detected_after=detected_after, quota=quota)) == accounts


def test_money_is_that_of_the_inputs_and_of_the_accounts():
    cost = cost_of(10_000, campaigns.facts(detected_after=500, quota=1000, account_price=2.0))
    assert cost.account_money == 42
    assert cost.money == pytest.approx(15 + 42)


def test_an_attack_that_waits_for_every_answer_takes_a_request_each_however_fast_batches_are():
    facts = campaigns.facts(latency_ms={"1": 100.0, "64": 120.0}, rate=None)
    assert cost_of(10_000, facts).hours < 0.01
    assert cost_of(10_000, facts, round_trips=10_000).hours == pytest.approx(1000 / 3600)


def test_free_units_are_not_paid_and_units_are_counted_by_input():
    facts = campaigns.facts(units_per_input=2.0, free_units=1000)
    assert cost_of(10_000, facts).money == pytest.approx((20_000 - 1000) * 1.5 / 1000)
    assert cost_of(100, facts).money == 0


def test_hours_are_those_of_the_rate_of_all_accounts_where_the_target_answers_faster():
    limited = campaigns.facts(rate=600.0, quota=1000)
    assert cost_of(10_000, limited).hours == pytest.approx(10_000 / (10 * 600))
    assert cost_of(900, limited).hours == pytest.approx(900 / 600)


def test_hours_are_those_of_the_target_where_it_is_slower_than_the_rate():
    slow = campaigns.facts(rate=1e9, latency_ms={"64": 64_000.0}, seconds=0.0)
    assert throughput(slow) == pytest.approx(3600)
    assert cost_of(7200, slow).hours == pytest.approx(2)


def test_a_run_that_waited_for_the_rate_does_not_make_the_target_slow():
    waited = campaigns.facts(seconds=36_000.0, latency_ms={"64": 16.0})
    assert throughput(waited) == pytest.approx(64 / 0.016 * 3600)


def test_hours_are_unknown_where_nothing_was_answered_and_no_rate_is_stated():
    assert cost_of(100, campaigns.facts(seconds=0.0, latency_ms={}, purposes={})).hours is None


def test_each_budget_has_its_best_attack_with_its_cost_and_what_was_paid():
    found = by_budget(FOUND, THREAT, campaigns.facts())
    assert [each.budget for each in found] == [50, 200, 800]
    assert all(each.text == SOFT and each.repeats == 5 for each in found)
    assert [each.paid for each in found] == [50, 200, 800]
    assert found[-1].cost.money == pytest.approx(1.2)
    shares = [each.fidelity.value for each in found]
    assert shares == sorted(shares)


def test_an_attack_is_charged_for_what_it_sent_though_another_had_bought_it():
    alone = Findings.of_run(
        [r for r in campaigns.records() if r.kind == "audit" or r.cell.attack == LABELS], campaigns.meta()
    )
    found = by_budget(alone, alone.threats[0], campaigns.facts())
    assert [each.paid for each in found] == [0, 0, 0]
    assert [each.cost.inputs for each in found] == [50, 200, 800]


def test_a_step_gains_the_paired_difference_and_costs_the_further_money():
    facts = campaigns.facts()
    found = by_budget(FOUND, THREAT, facts)
    first, last = steps(FOUND, THREAT, found)
    assert (first.smaller, first.larger, last.smaller, last.larger) == (50, 200, 200, 800)
    assert last.gain.value == pytest.approx(found[2].fidelity.value - found[1].fidelity.value)
    assert last.gain.low < last.gain.value < last.gain.high
    assert last.money == pytest.approx(0.9)
    assert last.per_money == pytest.approx(100 * last.gain.value / 0.9)


def test_a_step_within_the_free_units_has_no_fidelity_per_money():
    facts = campaigns.facts(free_units=10_000)
    assert [each.per_money for each in steps(FOUND, THREAT, by_budget(FOUND, THREAT, facts))] == [None, None]
