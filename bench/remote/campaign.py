"""What a campaign came to, counted in its ledger, and so over all its runs."""

from __future__ import annotations

from bench.remote.canary import PURPOSE, Seen
from bench.remote.ledger import Ledger
from bench.remote.ledger_file import POWER_LOSS
from bench.remote.money import MICRO
from bench.remote.target import Target
from bench.run_facts import CampaignFacts, PurposeFacts


def campaign_facts(
    ledger: Ledger, target: Target, *, name: str, url: str, permission: str, digits: int = 0
) -> CampaignFacts:
    """Return what was bought of a target. ``name``: of its file; ``url``: without anything secret."""
    seen = Seen.of(text) if (text := ledger.noted(PURPOSE)) else None
    known = max(digits, int(ledger.noted("digits") or 0))
    (requests,) = ledger.rows("select count(*) from requests")[0]
    (seconds,) = ledger.rows("select total(seconds) from runs")[0]
    return CampaignFacts(
        target=name,
        url=url,
        protocol=target.protocol,
        identity=ledger.noted("identity") or "",
        permission=permission,
        answers=target.answers,
        digits=known or None,
        price_per_1000=target.price_per_1000,
        units_per_input=target.units_per_input,
        free_units=target.free_units,
        money_cap=target.money_cap,
        budget=target.budget,
        rate=target.rate_per_hour,
        quota=target.quota,
        detected_after=target.detected_after,
        account_price=target.account_price,
        requests=requests,
        seconds=seconds,
        latency_ms=latencies(ledger),
        purposes=purposes(ledger),
        moved=seen.moved if seen else None,
        noise=seen.noise if seen else None,
        notes=notes(ledger),
    )


def purposes(ledger: Ledger) -> dict[str, PurposeFacts]:
    """Return what each purpose came to."""
    found: dict[str, PurposeFacts] = {}
    for purpose, inputs in ledger.rows("select purpose, sum(inputs) from asked group by purpose"):
        found[purpose] = PurposeFacts(sent=inputs)
    for purpose, paid, answered, refused, money in ledger.rows("select * from purposes order by purpose"):
        sent = found[purpose].sent if purpose in found else 0
        found[purpose] = PurposeFacts(
            sent=sent, paid=paid, unknown=paid - answered, refused=refused, money=money / MICRO
        )
    return found


def latencies(ledger: Ledger) -> dict[str, float]:
    """Return the median milliseconds of a request, by the number of its inputs as text."""
    rows = ledger.rows(
        """select inputs, avg(seconds) from (
               select inputs, seconds, row_number() over (partition by inputs order by seconds) as place,
                      count(*) over (partition by inputs) as number from requests
                      where seconds is not null)
           where place in ((number + 1) / 2, number / 2 + 1) group by inputs order by inputs"""
    )
    return {str(inputs): 1000 * seconds for inputs, seconds in rows}


def notes(ledger: Ledger) -> list[str]:
    """Return what a reader of the report has to know besides, a sentence each."""
    found = []
    if left_out := ledger.noted("canary left out"):
        found.append(f"{left_out[0].upper()}{left_out[1:]}.")
    power = purposes(ledger).get(POWER_LOSS)
    if power and power.unknown:
        found.append(
            f"{power.unknown:,} inputs are booked that may have been sent before the machine lost its power."
        )
    return found
