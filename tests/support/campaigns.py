"""Facts and records of a campaign against a live target that never was."""

from itertools import product

from records import BUDGETS, INSIDE, LABELS, META, NONE, REPEATS, SOFT, cell, evaluation

from bench.run_facts import CampaignFacts, PurposeFacts, ReportOptions


def facts(**fields):
    """What two attacks bought of a target on this machine; the second one used what the first had bought."""
    values = {
        "target": "digits-api",
        "url": "http://127.0.0.1:8080",
        "protocol": "oip",
        "identity": "digits v1",
        "digits": 9,
        "price_per_1000": 1.5,
        "budget": 5000,
        "money_cap": 5.0,
        "requests": 40,
        "seconds": 4.0,
        "latency_ms": {"1": 5.0, "64": 16.0},
        "purposes": {
            SOFT: PurposeFacts(sent=800, paid=800, unknown=64, money=1.2),
            LABELS: PurposeFacts(sent=800, paid=0),
            "test": PurposeFacts(sent=300, paid=300, money=0.45),
            "canary": PurposeFacts(sent=15, paid=15, money=0.0225),
        },
        "bought": {SOFT: {"50": 50, "200": 200, "800": 800}, LABELS: {"50": 0, "200": 0, "800": 0}},
        "moved": 0.0,
        "noise": 0.0,
    }
    return CampaignFacts(**(values | fields))


def records(budgets=BUDGETS):
    """Five repeats of two attacks at each budget, and what is known of the target's answers."""
    cells = [
        cell(INSIDE, NONE, attack, budget, repeat)
        for attack, budget, repeat in product((SOFT, LABELS), budgets, range(REPEATS))
    ]
    return [evaluation(NONE), *cells]


def meta(**fields):
    """What a campaign's store says beside its records; ``fields``: of its facts."""
    known = facts(**fields)
    report = ReportOptions(confirm=0, price=known.price_per_1000, rate=known.rate, quota=known.quota)
    command = "moatbench target attack digits-api.toml"
    return META.model_copy(
        update={"matrix": "digits-api", "campaign": known, "command": command, "report": report}
    )
