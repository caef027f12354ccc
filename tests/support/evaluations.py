"""Runs of defense evaluations alone, as the regression gate compares them."""

from bench.gate.baseline import Baseline
from bench.records import ClaimsRecord, Info, PredicateRecord, Record, task_of
from bench.run_facts import Meta, VictimFacts

SPEC = {"victim": "digits/mlp", "victim_seed": 0, "data": "digits", "splits": "disjoint", "seed": 0}
CELL = SPEC | {
    "defense": ["a"],
    "pool": "p",
    "access": "near",
    "knowledge": "none",
    "surrogate": "mlp",
    "shows": "labels",
    "attack": "labels",
    "training": "rule",
    "budget": 50,
    "repeat": 0,
    "repeats": 1,
}
KEPT = {"no entry below 0": PredicateRecord(worst=0.0, broken=0, answers=1000)}
CLAIMS = ClaimsRecord(keeps_label=True, distribution=True)


def evaluation(defense, metrics=None, *, arrays=None, status="ok", **info):
    """A defense evaluation; its predicates are kept and its claims made, unless ``info`` has others."""
    task = task_of("audit", SPEC | {"defense": [defense], "pools": ["noise"], "repeats": 20})
    values = {"honest.accuracy": 0.95} | (metrics or {})
    found = Info(**({"predicates": KEPT, "claims": CLAIMS} | info))
    return Record("", task, status, values if status == "ok" else {}, arrays or {}, found)


def run(*records, fingerprint="abc"):
    """A run; ``fingerprint``: of its victim."""
    victim = VictimFacts(victim="digits/mlp", fingerprint=fingerprint)
    return Baseline(Meta(victims=[victim]), records, [])
