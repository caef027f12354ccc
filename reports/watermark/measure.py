"""Measures the watermark ``dawn`` on digits: false accusations, surrogates recognised, utility loss.

Writes ``measured.json`` beside this file; ``make.py`` makes the report of it. About two minutes of one core.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attacks.base import TransferSet
from attacks.recover import recover
from bench.data.data_files import data_root
from bench.files import write_atomically
from bench.metrics.ownership import by_disagreements
from bench.models import surrogates
from bench.models.batched_training import train_batched
from bench.models.defended_api import known_defenses
from bench.models.determinism import single_thread
from bench.models.interim_surrogates import InterimSurrogates
from bench.models.training_config import parse_training
from bench.models.victims import Victim
from bench.plugins import defenses
from bench.runner.context import WorkerContext
from bench.seeds import derive, random_state
from bench.tasks import VictimSpec
from defenses.base import Batch, DefenseStack

HERE = Path(__file__).parent
SPEC, OTHER = VictimSpec("digits", "mlp", 0), VictimSpec("digits", "logistic", 0)
RATE, BUDGET, SMALL, REPEATS, CLASSES = 0.05, 400, 200, 20, 10
KEYS = 20
"""Keys that each independent model is tested with; no two tests share one."""
ALPHAS = (1e-2, 1e-3)
FINE_TUNING = 300
"""Steps of fine-tuning."""

Images, Array, Labels = NDArray[np.float32], NDArray[np.float64], NDArray[np.int64]
Model = Callable[[Images], Array]


@dataclass(frozen=True)
class Sold:
    """What a client sent, and got: ``answers`` (n, classes), ``marks`` (n,), -1 where none."""

    x: Images
    answers: Array
    marks: Labels
    victim: Labels


class Seller:
    """A victim behind a watermark with a rate."""

    def __init__(self, context: WorkerContext, spec: VictimSpec, rate: float = RATE, more: str = "") -> None:
        self.victim: Victim = context.victim(spec)
        self.stack: DefenseStack = context.stack(spec, defenses_of(f"dawn(rate={rate}{more})"), 0)
        self.defense: Any = self.stack.defenses[0]

    def batch(self, x: Images) -> Batch:
        """Return a query about ``x``."""
        raw = self.victim.probabilities(x)
        return Batch(inputs=x, raw=raw, probabilities=raw, read_features=self.victim.reader())

    def sold(self, x: Images, key: str) -> Sold:
        """Return the answers to ``x`` under a key."""
        self.defense.use_key(key.encode().ljust(32, b"."))
        batch = self.batch(x)
        answers = self.defense.answer(batch).probabilities
        return Sold(x, answers, self.defense.marks(batch), batch.raw.argmax(axis=1))


def defenses_of(text: str) -> tuple[str, ...]:
    """Return a stack of one defense as its context names it."""
    return (repr(defenses.build(text)),)


def draw(victim: Victim, repeat: int, n: int) -> Images:
    """Return ``n`` random inputs of the pool."""
    pool = victim.splits.pool.x
    return np.ascontiguousarray(
        pool[random_state(derive("watermark", "draw", repeat)).permutation(len(pool))[:n]]
    )


def trained(sets: Sequence[tuple[Images, Array]], what: str, architecture: str = "mlp") -> list[Any]:
    """Return a surrogate of each set, each with a seed of its own."""
    transfer = [TransferSet(np.ascontiguousarray(x), y.astype(np.float32)) for x, y in sets]
    seeds = [derive("watermark", what, number) for number in range(len(sets))]
    return surrogates.fit(transfer, architecture, CLASSES, seeds)


def one_hot(labels: Labels) -> Array:
    """Return one-hot rows."""
    return np.asarray(np.eye(CLASSES)[labels])


def p_value(model: Model, sold: Sold) -> tuple[float, int, int]:
    """Return the p-value of a model, its matches and the number of triggers."""
    rows = np.flatnonzero(sold.marks >= 0)
    if not len(rows):
        return 1.0, 0, 0
    says = model(sold.x[rows]).argmax(axis=1)
    found = by_disagreements(says, sold.marks[rows], sold.victim[rows], CLASSES)
    return found.p_value, found.matches, found.triggers


def fine_tuned(models: Sequence[Any], x: Images, y: Array) -> list[Any]:
    """Return the surrogates after further steps on other data, at the rate of the training schedule."""
    schedule = replace(parse_training("rule").schedule("mlp", x.shape[1:], len(x)), steps=FINE_TUNING)
    networks = []
    for each in models:
        network = surrogates.initial_network("mlp", x.shape[1:], CLASSES, 0)
        network.load_state_dict(each.full)
        networks.append(network)
    seeds = [derive("watermark", "fine-tuning", number) for number in range(len(models))]
    weights = train_batched(
        networks, [x] * len(models), [y.astype(np.float32)] * len(models), schedule, seeds
    )
    return [replace(each, half=half, full=full) for each, (half, full) in zip(models, weights, strict=True)]


def recovered(seller: Seller, sold: Sold, repeat: int) -> tuple[Images, Array]:
    """Return what an attacker learns who knows the defense and its rate."""
    interim = InterimSurrogates("mlp", sold.x.shape[1:], CLASSES, derive("watermark", "interim", repeat))
    found = recover(known_defenses(seller.stack, parameters=True), sold.x, sold.answers, interim)
    return sold.x[found.usable], found.targets[found.usable]


def outcome(models: Sequence[Any], sales: Sequence[Sold], victim: Victim) -> dict[str, Any]:
    """Return what the test says of each model, and its fidelity."""
    test, truth = victim.splits.test.x, victim.probabilities(victim.splits.test.x).argmax(axis=1)
    tests = [p_value(each.probabilities, sold) for each, sold in zip(models, sales, strict=True)]
    return {
        "p": [p for p, _, _ in tests],
        "reproduced": [matches / max(1, n) for _, matches, n in tests],
        "triggers": [n for _, _, n in tests],
        "fidelity": [float((each.probabilities(test).argmax(axis=1) == truth).mean()) for each in models],
    }


def measured() -> dict[str, Any]:
    """Return all numbers of the report."""
    context = WorkerContext(data_root(None))
    seller = Seller(context, SPEC)
    victim, splits = seller.victim, seller.victim.splits
    sales = [seller.sold(draw(victim, repeat, BUDGET), f"key {repeat}") for repeat in range(REPEATS)]
    small = [Sold(s.x[:SMALL], s.answers[:SMALL], s.marks[:SMALL], s.victim[:SMALL]) for s in sales]
    found: dict[str, Any] = {}
    learned = trained([(s.x, s.answers) for s in sales], "probabilities")
    found["probabilities, 400 queries"] = outcome(learned, sales, victim)
    few = trained([(s.x, s.answers) for s in small], "probabilities")
    found["probabilities, 200 queries"] = outcome(few, small, victim)
    for name, part in (("400", sales), ("200", small)):
        by_labels = trained([(s.x, one_hot(s.answers.argmax(axis=1))) for s in part], f"labels {name}")
        found[f"labels, {name} queries"] = outcome(by_labels, part, victim)
    own = splits.calibration
    tuned = fine_tuned(learned, own.x, one_hot(own.y))
    found["fine-tuned on own data"] = outcome(tuned, sales, victim)
    elsewhere = [rest_of_pool(victim, s.x) for s in sales]
    students = [np.concatenate([own.x, x]) for x in elsewhere]
    distilled = trained(
        [(x, each.probabilities(x)) for x, each in zip(students, learned, strict=True)], "distilled", "mlp128"
    )
    found["distilled on other inputs"] = outcome(distilled, sales, victim)
    same = trained(
        [(s.x, each.probabilities(s.x)) for s, each in zip(sales, learned, strict=True)], "same", "mlp128"
    )
    found["distilled on the same inputs"] = outcome(same, sales, victim)
    for name, part in (("400", sales), ("200", small)):
        plain = trained([(s.x, victim.probabilities(s.x)) for s in part], f"no watermark {name}")
        found[f"no watermark, {name} queries"] = outcome(plain, part, victim)
    restored = trained([recovered(seller, s, number) for number, s in enumerate(sales)], "recovered")
    found["knows the defense (recover)"] = outcome(restored, sales, victim)
    return {
        "survival": found,
        "independent": independent(context, seller),
        "benign": [benign(Seller(context, SPEC, rate)) for rate in (0.005, RATE)],
        "near": [near(Seller(context, SPEC, 0.5, more), more) for more in ("", ", representation=input")],
    }


def rest_of_pool(victim: Victim, x: Images) -> Images:
    """Return the inputs of the pool that are not in ``x``."""
    sent = {row.tobytes() for row in x}
    return np.array([row for row in victim.splits.pool.x if row.tobytes() not in sent], dtype=np.float32)


def independent(context: WorkerContext, seller: Seller) -> dict[str, Any]:
    """Return the p-values of models made without the victim's answers, each test with a key of its own."""
    pool, victim = seller.victim.splits.pool, seller.victim
    other, marked = context.victim(OTHER), Seller(context, OTHER)
    draws = [draw(victim, repeat, BUDGET) for repeat in range(REPEATS)]
    order = [
        random_state(derive("watermark", "own", n)).permutation(len(pool.x))[:BUDGET] for n in range(REPEATS)
    ]
    kinds = {
        "trained on true labels": [(pool.x[rows], one_hot(pool.y[rows])) for rows in order],
        "extracted from another victim": [(x, other.probabilities(x)) for x in draws],
        "extracted from another watermarked victim": [
            (x, marked.sold(x, f"other {n}").answers) for n, x in enumerate(draws)
        ],
    }
    found: dict[str, Any] = {}
    for kind, sets in kinds.items():
        models = trained(sets, kind)
        values = [
            p_value(model.probabilities, seller.sold(draws[number], f"{kind} {number} {key}"))[0]
            for number, model in enumerate(models)
            for key in range(KEYS)
        ]
        found[kind] = {"tests": len(values), "false": {str(a): sum(v <= a for v in values) for a in ALPHAS}}
    return found


def benign(seller: Seller) -> dict[str, Any]:
    """Return the share of test inputs that get a wrong class, and the accuracy lost, a value a key."""
    test = seller.victim.splits.test
    right = seller.victim.probabilities(test.x).argmax(axis=1) == test.y
    shares, lost = [], []
    for key in range(REPEATS):
        sold = seller.sold(test.x, f"benign {key}")
        given = sold.answers.argmax(axis=1)
        shares.append(float((given != sold.victim).mean()))
        lost.append(float(right.mean() - (given == test.y).mean()))
    return {"rate": seller.defense.rate, "changed": shares, "lost": lost}


def near(seller: Seller, more: str) -> dict[str, Any]:
    """Return the share of test inputs whose decision a near-duplicate shares, by the size of the change."""
    x = seller.victim.splits.test.x
    seller.defense.use_key(b"near".ljust(32, b"."))
    before = seller.defense.marks(seller.batch(x))
    found = {}
    for size in (0.001, 0.01, 0.05):
        noise = np.random.default_rng(derive("watermark", "near")).normal(0, size, x.shape)
        changed = np.clip(x + noise, 0, 1).astype(np.float32)
        found[str(size)] = float((seller.defense.marks(seller.batch(changed)) == before).mean())
    return {"representation": "input" if more else "features", "kept": found}


if __name__ == "__main__":
    with single_thread():
        write_atomically(HERE / "measured.json", json.dumps(measured(), indent=1) + "\n")
