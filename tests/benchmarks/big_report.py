"""Makes a store of ten thousand cells that nobody ran, and says how long its report takes.

``python tests/benchmarks/big_report.py FOLDER [--inputs N] [--profile]``; the store stays in FOLDER. Aim: the
first page in 5 seconds, all files in 15, each with the time that Python takes to start.
"""

import argparse
import cProfile
import pstats
import subprocess
import sys
import time
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np

sys.path += [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2])]

from records import META, evaluation

from bench.records import AdaptationRecord, AttackDeclarations, Costs, Info, PlannedTask, QueryCounts, Record
from bench.store import Store
from bench.tasks import Cell, ThreatModel, VictimSpec

VICTIM = VictimSpec("digits", "mlp")
THREATS = (
    ThreatModel("in-distribution", "in-distribution", "full", "mlp", "probabilities"),
    ThreatModel("in-distribution", "in-distribution", "none", "mlp", "probabilities"),
    ThreatModel("usps", "near", "full", "mlp", "probabilities"),
    ThreatModel("noise", "none", "full", "mlp", "probabilities"),
)
DEFENSES = [
    (),
    ("label_only",),
    ("top_k(k=1)",),
    ("mahalanobis(action=refuse, fpr=0.005, space=deep)",),
    *((f"rounded(decimals={decimals})",) for decimals in (1, 2, 3)),
    *((f"gaussian_noise(scale={scale})",) for scale in (0.05, 0.1, 0.2)),
    *((f"reverse_sigmoid(beta=1, gamma={gamma})",) for gamma in (0.1, 0.3, 0.5)),
]
ATTACKS = (
    "copycat(use_probability=true)",
    "copycat(use_probability=false)",
    "knockoff(reward=all, sampling_strategy=random, use_probability=true)",
    "active_thief(use_probability=true)",
    "labels",
    "auto",
    "evade",
)
BUDGETS = (50, 100, 200)
REPEATS = 9
FRESH = 20
NAMES = (
    *("agreement_deployed", "fidelity_where_victim_errs", "fidelity_low_margin", "accuracy", "precision"),
    *("recall", "f1", "l1", "kl", "loss", "fidelity_half", "fidelity_unqueried", "fidelity_on_queries"),
    *("answered", "balanced_fidelity"),
)
LOSSES = ("balanced_accuracy_lost", "brier_added", "aurc_added", "changed", "ece_scaled")


def evaluated(defense):
    """A defense evaluation with what the recommendation asks for."""
    record = evaluation(defense, keeps_label=False)
    metrics = record.metrics | {f"honest.{name}": 0.002 for name in LOSSES}
    intervals = record.info.intervals | {f"honest.{name}": [0.0, 0.004] for name in LOSSES}
    intervals |= {"honest.accuracy_lost": [0.0, 0.004], "honest.refused": [0.0, 0.004]}
    return replace(record, metrics=metrics, info=record.info.with_values(intervals=intervals))


def cells(inputs):
    """Yield about ten thousand records, confirmation run included."""
    rng = np.random.default_rng(0)
    hard = rng.random(inputs)
    plan = [(each, REPEATS, False) for each in product(THREATS, DEFENSES, ATTACKS, BUDGETS)]
    plan += [(each, FRESH, True) for each in product(THREATS[:1], DEFENSES[:3], ATTACKS, BUDGETS[2:])]
    for (threat, defense, attack, budget), repeats, fresh in plan:
        share = (
            0.8
            + 0.05 * np.log2(budget / 200)
            - 0.01 * DEFENSES.index(defense)
            - 0.003 * ATTACKS.index(attack)
        )
        for repeat in range(repeats):
            task = Cell(VICTIM, defense, threat, attack, budget, repeat, repeats, 0, confirmation=fresh)
            agreement = (hard + rng.normal(0, 0.06, inputs) < share).astype(np.uint8)
            value = float(agreement.mean())
            metrics = {"extraction.fidelity": value} | {f"extraction.{name}": 0.9 * value for name in NAMES}
            info = Info(
                queries=QueryCounts(sent=budget, answered=budget, refused=0, flagged=0),
                steps=1000,
                attack=AttackDeclarations(knowledge=["full"], universal=attack == "auto"),
                confusion=[[10] * 10] * 10,
                adaptation=AdaptationRecord(differs=True),
            )
            costs = Costs(
                seconds={"train": 0.5, "acquire": 0.1}, cpu_seconds={"train": 0.5}, memory_mib=500.0
            )
            yield Record(repr(task), task, "ok", metrics, {"agreement": agreement}, info, costs)


def made(path, inputs):
    """Write the store in one transaction; return the number of its cells."""
    records = [*map(evaluated, DEFENSES), *cells(inputs)]
    with Store(path, create=True) as store:
        store.set_meta(META.with_values(matrix="big", report={"confirm": FRESH}))
        store.set_plan(PlannedTask(each.key, each.task) for each in records)
        store._db.execute("pragma synchronous = off")
        for record in records:
            store.put(record)
    return len(records)


def seconds(*words):
    """How long a command takes, with its start."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "bench", *words], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--inputs", type=int, default=447)
    parser.add_argument("--profile", action="store_true")
    chosen = parser.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    store = chosen.folder / "big.sqlite"
    if not store.exists():
        print(f"{made(store, chosen.inputs)} records in {store}")
    if chosen.profile:
        from bench.report.store_report import first_page_of, write_store_report

        for name, work in (
            ("first page", lambda: first_page_of(store)),
            ("all files", lambda: write_store_report(store, chosen.folder / "report")),
        ):
            profile = cProfile.Profile()
            profile.runcall(work)
            print(name)
            pstats.Stats(profile).sort_stats("cumulative").print_stats(45)
    else:
        print(f"first page: {seconds('show', str(store)):.1f} s")
        print(f"all files: {seconds('report', str(store), '--out', str(chosen.folder / 'report')):.1f} s")
