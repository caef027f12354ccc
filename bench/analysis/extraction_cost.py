"""What it costs to extract a model by queries, by budget: inputs, money, accounts and hours."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from bench.analysis.attacker_results import AttackerResult, shared_repeats
from bench.analysis.comparison import best_of
from bench.analysis.findings import Findings
from bench.analysis.threat_models import UNDEFENDED, VictimThreatModel
from bench.metrics.intervals import Interval, as_share, paired_difference
from bench.run_facts import CampaignFacts


@dataclass(frozen=True)
class Cost:
    """What ``inputs`` cost. ``money``: with ``account_money``, the price of the ``accounts`` they need.

    ``hours``: at the allowed rate, no faster than the target answers, and no faster than an attack that waits
    for answers can go on; None where none of these is known.
    """

    inputs: int
    money: float
    accounts: int
    account_money: float
    hours: float | None


@dataclass(frozen=True)
class BudgetResult:
    """The best attack at one budget: its fidelity, a fraction with its 95 % interval, and what it costs.

    ``attack``: as shown; ``text``: in full. ``repeats``: surrogates that were trained. ``paid``: inputs that
    the campaign paid for this attack by the time it reached the budget, which is fewer than it sent where
    another purpose had bought the same; None where that is not recorded.
    """

    budget: int
    attack: str
    text: str
    fidelity: Interval
    repeats: int
    cost: Cost
    paid: int | None


@dataclass(frozen=True)
class Step:
    """What the step from one budget to the next buys: fidelity gained, a fraction, and further money.

    ``gain``: of the best attack at the larger budget over the best at the smaller one, paired by repeat;
    without limits where they share no repeat. ``per_money``: fidelity in percentage points for each unit of
    money; None where the step costs nothing.
    """

    smaller: int
    larger: int
    gain: Interval
    money: float
    per_money: float | None


def accounts_for(inputs: int, facts: CampaignFacts) -> int:
    """Return how many accounts ``inputs`` need; one where neither limit is stated.

    Each sends its quota at most, and one input fewer than the one at which it is found out.
    """
    limits = [facts.quota] if facts.quota else []
    limits += [max(1, facts.detected_after - 1)] if facts.detected_after else []
    return max(1, math.ceil(inputs / min(limits))) if limits else 1


def throughput(facts: CampaignFacts) -> float | None:
    """Return the inputs an hour that the target was seen to answer; None without any answer.

    A run that waits for the allowed rate says less than the target can do. So it is the larger of what the
    run reached, and what one connection reaches with the largest requests that were sent, at their median
    latency.
    """
    largest = max(facts.latency_ms, key=int, default="0")
    latency = facts.latency_ms.get(largest, 0.0)
    seen = [3.6e6 * int(largest) / latency] if latency > 0 else []
    paid = sum(each.paid for each in facts.purposes.values())
    if facts.seconds > 0 and paid:
        seen.append(3600 * paid / facts.seconds)
    return max(seen, default=None)


def cost_of(inputs: int, facts: CampaignFacts, round_trips: int = 1) -> Cost:
    """Return what ``inputs`` cost somebody who sends nothing else, so that free units are all theirs.

    ``round_trips``: how often a query waits for the answers to earlier ones. Each takes a request of the
    smallest size that was sent, at its median latency, however many accounts there are.
    """
    accounts = accounts_for(inputs, facts)
    units = max(0.0, inputs * facts.units_per_input - facts.free_units)
    of_accounts = accounts * facts.account_price
    speeds = [throughput(facts), facts.rate and accounts * facts.rate]
    known = [speed for speed in speeds if speed]
    smallest = min(facts.latency_ms, key=int, default="")
    waits = round_trips * facts.latency_ms.get(smallest, 0.0) / 3.6e6 if round_trips > 1 else 0.0
    hours = max(inputs / min(known), waits) if known else waits or None
    return Cost(inputs, units * facts.price_per_1000 / 1000 + of_accounts, accounts, of_accounts, hours)


def by_budget(findings: Findings, threat: VictimThreatModel, facts: CampaignFacts) -> list[BudgetResult]:
    """Return the best ranked attack at each budget, smallest first, without budgets where none is ranked."""
    found = []
    for budget in findings.conditions[threat].get(UNDEFENDED, []):
        candidates = findings.candidates(threat, UNDEFENDED, budget)
        best = best_of(candidates)
        if best is not None:
            result = candidates[best.attack]
            text = result.records[0].cell.attack
            paid = facts.bought.get(text, {}).get(str(budget))
            trips = facts.round_trips.get(text, {}).get(str(budget), 1)
            cost, repeats = cost_of(_sent(result, budget), facts, trips), len(result.repeats)
            share = as_share(best.interval)
            found.append(BudgetResult(budget, best.attack, result.attack, share, repeats, cost, paid))
    return found


def _sent(result: AttackerResult, budget: int) -> int:
    """Return the inputs that an attack sent, of the repeat that sent most; the budget where none says."""
    sent = [record.info.queries.sent for record in result.records if record.info.queries]
    return max(sent, default=budget)


def steps(findings: Findings, threat: VictimThreatModel, results: Sequence[BudgetResult]) -> list[Step]:
    """Return what each further budget buys; empty with fewer than two."""
    return [_step(findings, threat, smaller, larger) for smaller, larger in pairwise(results)]


def _step(findings: Findings, threat: VictimThreatModel, smaller: BudgetResult, larger: BudgetResult) -> Step:
    found: Sequence[Mapping[str, AttackerResult]] = [
        findings.candidates(threat, UNDEFENDED, each.budget) for each in (smaller, larger)
    ]
    less, more = shared_repeats(found[0][smaller.attack], found[1][larger.attack])
    gain = (
        paired_difference(more, less)
        if len(less) and less.shape == more.shape
        else Interval(larger.fidelity.value - smaller.fidelity.value, math.nan, math.nan)
    )
    money = larger.cost.money - smaller.cost.money
    per_money = 100 * gain.value / money if money > 0 else None
    return Step(smaller.budget, larger.budget, gain, money, per_money)
