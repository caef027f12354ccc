"""Published claims and records that nobody measured, whose losses are known by hand."""

import numpy as np
from records import cell, evaluation

from bench.analysis.claim_table import ClaimRun, claim_table
from bench.analysis.published_claims import PublishedClaims
from bench.run_facts import Meta

INPUTS = 400
PLAIN, ADAPTIVE = "copycat(use_probability=true)", "auto"
THREAT = {
    "pool": "in-distribution",
    "access": "in-distribution",
    "knowledge": "none",
    "surrogate": "mlp",
    "shows": "probabilities",
}
POISON = ("rounded(decimals=1)",)
META = Meta(matrix="made", reference_budget={"digits": 200}, command="moatbench run made", commit="a" * 40)


def table(share, repeat):
    """Arrays in which the first ``share`` of the inputs is right; one input more in odd repeats."""
    right = np.zeros(INPUTS, np.uint8)
    right[: round(share * INPUTS) + repeat % 2] = 1
    return {"agreement": right, "correct": right}


def cells(attack, defense, share, *, knowledge="none", repeats=5, training="rule", pool="in-distribution"):
    """A cell for each repeat."""
    found = []
    access = pool if pool == "in-distribution" else "none"
    for repeat in range(repeats):
        threat = THREAT | {"knowledge": knowledge, "pool": pool, "access": access}
        record = cell(threat, defense, attack, 200, repeat, share=0.5, arrays=table(share, repeat))
        spec = record.spec | {"training": training}
        task = type(record.task)(**{**vars(record.task), "training": training})
        found.append(type(record)(**{**vars_of(record), "key": repr(spec), "task": task}))
    return found


def vars_of(record):
    return {name: getattr(record, name) for name in type(record).__dataclass_fields__}


def where(**axes):
    found = {
        "data": "digits",
        "victim": "mlp",
        "splits": "disjoint",
        "defense": POISON[0],
        "attack": PLAIN,
        "pool": "in-distribution",
        "surrogate": "mlp",
        "training": "rule",
        "budget": 200,
    }
    return found | axes


def claim(undefended=90.0, defended=80.0, **fields):
    found = {
        "id": "made",
        "quantity": "accuracy",
        "data": "digits",
        "victim": "mlp",
        "surrogate": "mlp",
        "pool": "in-distribution",
        "attack": "random inputs",
        "budget": 200,
        "victim_accuracy": 96.0,
        "undefended": undefended,
        "defended": defended,
        "place": "Table 1",
        "read": "text",
        "where": where(),
    }
    return {name: value for name, value in (found | fields).items() if value is not None}


def published(*claims, name="rounded", default=POISON[0], paper="Nobody 2026"):
    return PublishedClaims.model_validate(
        {
            "version": 1,
            "defense": [{"name": name, "paper": paper, "default": default, "claim": list(claims)}],
        }
    )


def rows(*claims, records=None, meta=META, **fields):
    run = ClaimRun("made", RECORDS if records is None else records, meta)
    return claim_table(published(*claims, **fields), [run]).rows


RECORDS = [
    *cells(PLAIN, (), 0.90),
    *cells(PLAIN, POISON, 0.80),
    *cells(ADAPTIVE, (), 0.91, knowledge="full"),
    *cells(ADAPTIVE, POISON, 0.88, knowledge="full"),
    evaluation(()),
    evaluation(POISON, l1=0.2),
]
