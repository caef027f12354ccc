"""Records of a run that nobody ran, and how to find a section of the report that is made of them."""

import re
from itertools import product

import numpy as np

from bench.calls import parse_call
from bench.plugins import attacks, defenses
from bench.records import (
    AttackDeclarations,
    ClaimsRecord,
    Costs,
    Info,
    PlannedTask,
    QueryCounts,
    Record,
    task_of,
)
from bench.run_facts import Meta
from bench.store import Store

LABELS, SOFT = "copycat(use_probability=false)", "copycat(use_probability=true)"
RANDOM = "knockoff(reward=all, sampling_strategy=random, use_probability=true)"
ADAPTIVE = "knockoff(reward=all, sampling_strategy=adaptive, use_probability=false)"
OWN = "own_labels"
NONE, LABEL_ONLY, ROUNDED, SCREEN = (
    (),
    ("label_only",),
    ("rounded(decimals=1)",),
    ("mahalanobis(action=refuse, fpr=0.05, space=deep)",),
)
DEFENSES = (NONE, LABEL_ONLY, ROUNDED, SCREEN)
BUDGETS = (50, 200, 800)
REPEATS = 5
INPUTS = 300
NEAR = {"pool": "usps", "access": "near", "knowledge": "none", "surrogate": "mlp", "shows": "probabilities"}
INSIDE = NEAR | {"pool": "in-distribution", "access": "in-distribution"}
SHARE = {
    (SOFT, NONE): 0.80,
    (SOFT, LABEL_ONLY): 0.66,
    (SOFT, ROUNDED): 0.60,
    (SOFT, SCREEN): 0.50,
    (LABELS, NONE): 0.70,
    (LABELS, LABEL_ONLY): 0.70,
    (LABELS, ROUNDED): 0.70,
    (LABELS, SCREEN): 0.50,
    (ADAPTIVE, NONE): 0.76,
    (ADAPTIVE, LABEL_ONLY): 0.76,
    (ADAPTIVE, ROUNDED): 0.52,
    (ADAPTIVE, SCREEN): 0.52,
    (OWN, NONE): 0.45,
}
CLAIMS = {
    "keeps_label": True,
    "ties": False,
    "distribution": True,
    "stochastic": False,
    "consistent_noise": False,
    "may_refuse": False,
    "may_flag": False,
}


def hits(share, stream, repeat):
    """Agreement that depends on a shared difficulty of the inputs, as with real surrogates."""
    hard = np.random.default_rng(7).random(INPUTS)
    luck = np.random.default_rng([sum(map(ord, stream)), repeat]).normal(0, 0.06, INPUTS)
    return (hard + luck < share).astype(np.uint8)


def declared(attack):
    """What a cell's record says of its attack; made-up attacks declare nothing."""
    name = parse_call(attack)[0]
    if name not in attacks.names():
        return {}
    return {"knowledge": list(attacks.get(name).knowledge), "universal": attacks.get(name).universal}


def cell(threat, defense, attack, budget, repeat, *, share=None, flags=(), **fields):
    base = SHARE[SOFT if attack == RANDOM else attack, defense] if share is None else share
    known = "soft" if attack == RANDOM else attack
    stream = "soft" if attack == SOFT else known
    gain = 0.08 * np.log(max(budget, 50) / 200) / np.log(4) - 0.1 * (threat["access"] == "near")
    agreement = hits(base + gain, stream, repeat)
    value = float(agreement.mean())
    names = (
        "agreement_deployed",
        "fidelity_where_victim_errs",
        "fidelity_low_margin",
        "accuracy",
        "f1",
        "l1",
        "kl",
    )
    spec = {"victim": "digits/mlp", "victim_seed": 0, "data": "digits", "defense": list(defense), **threat}
    spec |= {"attack": attack, "budget": budget, "repeat": repeat, "repeats": REPEATS, "seed": 0}
    seconds = {"query_model": 0.01, "query_defense": 0.002, "acquire": 0.02, "train": 0.5, "evaluate": 0.01}
    values = {
        "status": "ok",
        "metrics": {"extraction.fidelity": value} | {f"extraction.{name}": 0.9 * value for name in names},
        "arrays": {"agreement": agreement},
        "info": Info(
            queries=QueryCounts(sent=budget, answered=budget, refused=0, flagged=0),
            steps=1000,
            flags=list(flags),
            attack=AttackDeclarations(**declared(attack)),
        ),
        "costs": Costs(seconds=seconds, cpu_seconds=seconds, shared=attack == RANDOM, memory_mib=512.0),
        "error": None,
    } | fields
    return Record(key=repr(spec), task=task_of("cell", spec), **values)


def failed(record, error):
    info = Info(traceback=f"Traceback …\n{error}")
    return Record(record.key, record.task, "failed", info=info, error=error)


def evaluation(defense, *, kept=1.0, lost=0.0, l1=0.0, refused=0.0, **claims):
    spec = {"victim": "digits/mlp", "victim_seed": 0, "data": "digits", "defense": list(defense)}
    spec |= {"pools": ["noise"], "repeats": 5, "seed": 0}
    metrics = {
        "honest.top1_kept": kept,
        "honest.accuracy": 0.96 - lost,
        "honest.accuracy_lost": lost,
        "honest.accuracy_undefended": 0.96,
        "honest.l1_mean": l1,
        "honest.l1_max": 4 * l1,
        "honest.nll": 0.15 + l1,
        "honest.ece": 0.02,
        "honest.aurc": 0.01,
        "honest.refused": refused,
        "honest.flagged": refused,
        "honest.client_refused": min(1.0, 20 * refused),
        "honest.client_flagged": min(1.0, 20 * refused),
    }
    intervals = {name: [max(0.0, value - 0.01), value + 0.01] for name, value in metrics.items()}
    if claims.get("may_flag"):
        metrics |= {"detection.test": refused, "detection.noise": 0.995, "detection.noise.client": 1.0}
        metrics |= {"detection.noise.queries_until": 1.0, "detection.test.queries_until": None}
        intervals |= {"detection.test": [0.03, 0.07], "detection.noise": [0.99, 1.0]}
    known_by = {name: list(defenses.get(name).known_by) for name, _ in map(parse_call, defense)}
    info = Info(intervals=intervals, claims=ClaimsRecord(**(CLAIMS | claims)), known_by=known_by)
    costs = Costs(latency_us={"1": 12.0, "256": 0.4})
    return Record(f"audit {defense}", task_of("audit", spec), "ok", metrics, {}, info, costs)


AUDITS = (
    evaluation(NONE),
    evaluation(LABEL_ONLY, l1=0.08),
    evaluation(ROUNDED, l1=0.03),
    evaluation(SCREEN, kept=0.95, lost=0.045, refused=0.05, may_refuse=True, may_flag=True),
)


def fake_run():
    """Two threat models, four defenses, three budgets, five repeats; one failed cell, one flagged."""
    cells = [
        cell(threat, defense, attack, budget, repeat)
        for threat, defense, attack, budget, repeat in product(
            (INSIDE, NEAR), DEFENSES, (LABELS, SOFT, RANDOM, ADAPTIVE), BUDGETS, range(REPEATS)
        )
    ]
    cells += [cell(INSIDE, NONE, OWN, 0, repeat) for repeat in range(REPEATS)]
    cells[0] = cell(INSIDE, NONE, LABELS, 50, 0, flags=["still_moving"])
    cells[-8] = failed(cells[-8], "ValueError: probabilities contain NaN")
    return [*AUDITS, *cells]


META = Meta.model_validate(
    {
        "matrix": "fake",
        "matrix_text": 'name = "fake"\n',
        "description": "A run that nobody ran.",
        "command": "moatbench run fake",
        "commit": "0123456789abcdef",
        "dirty": False,
        "versions": {"moatbench": "0.1.0", "torch": "2.13.0"},
        "machine": {
            "cpu": "a CPU",
            "cores": 2,
            "memory": "8 GiB",
            "python": "3.11.7",
            "platform": "Linux x86_64",
        },
        "victims": [
            {
                "victim": "digits/mlp",
                "accuracy": 0.96,
                "expected": 0.95,
                "fingerprint": "f" * 64,
                "sizes": {"train": 700, "calibration": 150, "pool": 500, "test": 447},
                "parameters": 9000,
            }
        ],
        "reference_budget": {"digits": 200},
        "started": 1_700_000_000.0,
        "finished": 1_700_000_100.0,
        "jobs": 2,
    }
)


def stored(path, records, meta=META):
    """Write records to a new store; return its path."""
    with Store(path, create=True) as store:
        store.set_meta(meta)
        store.set_plan(PlannedTask(each.key, each.task) for each in records)
        for record in records:
            store.put(record)
    return path


def section(text, heading):
    """The part of the report under a heading, up to the next of the same or a higher level."""
    level = heading.split(" ")[0]
    return re.split(
        rf"^#{{1,{len(level)}}} ", text.split(f"{heading}", 1)[1], maxsplit=1, flags=re.MULTILINE
    )[0]
