"""Measures this program compared with plain ART, in pairs, and writes ``reports/performance.md``.

Run by ``tox -e perf``, on an idle machine. Absolute times mean nothing on a shared machine; ratios of two
measurements taken one after the other do. Rows on 28×28 images need MNIST.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from functools import partial
from importlib import metadata
from itertools import product
from pathlib import Path

import numpy as np
import plain_art
import torch
from threadpoolctl import threadpool_limits

from bench.cli import provenance
from bench.data import data_files, query_pools
from bench.errors import MissingDataError
from bench.models import batched_training, training
from bench.models.determinism import on_device, resolve_device, single_thread
from bench.models.networks import build
from bench.models.training_config import parse_training
from bench.plan.matrix import load_matrix
from bench.plugins import attacks, defenses
from bench.records import Record
from bench.report.markdown import markdown
from bench.report.page import written
from bench.report.store_report import write_store_report
from bench.run_facts import Meta
from bench.runner import extraction
from bench.runner import run as execute
from bench.runner.cells import run_cells
from bench.runner.context import WorkerContext
from bench.runner.defense_evaluation import evaluate_defense
from bench.runner.local_backend import LocalBackend, WorkerSettings, available_cores
from bench.runner.timing import memory_mib
from bench.store import Store
from bench.tasks import Cell, ThreatModel, VictimSpec

PAIRS = 5
SOFT = "copycat(use_probability=true)"
ADAPTIVE = "knockoff(sampling_strategy=adaptive, reward=all)"
STEALS = (
    SOFT,
    "copycat(use_probability=false)",
    "knockoff(sampling_strategy=random, use_probability=true)",
    "knockoff(sampling_strategy=random, use_probability=false)",
    ADAPTIVE,
)
"""Attacks of the shipped matrices that ART has."""
HEAD = """\
Everything compared with **plain ART**: the loop that a user would write (`tests/benchmarks/plain_art.py`),
with a fresh victim, defense, attack and surrogate for each cell, batches of 64, as many optimiser steps as
here, and the number of threads that suits it best. A ratio is plain ART's time over ours, one measured
after the other after a warm-up: the median of the pairs, then the lowest and the highest. Absolute times
mean nothing on a shared machine. In the rows on cells without sharing, workers that served one pair know
the victim's answers in the next. `tox -e perf` makes this page; it wants an idle machine. With `--only
PART` it makes some rows anew and keeps the others, on the same machine with the same versions alone.

Adaptive Knockoff has a row on buying alone, at a victim whose answers on the pool are known, and rows on the
cell around it. ART trains in the call that buys: one epoch, the least that it takes, is in its time."""
TRIED = """\
On a LeNet's training step, most of which is the library's convolutions; none was faster by more than the
noise, or it was slower:

- images with channels last, by themselves and with pooling in that layout; convolutions without oneDNN;
- pooling by maxima over an unfolded view, or by masks, `torch.where`, stacking or pixel shuffling on the way
  back; differences and thresholds have vectors, and are what is used;
- the second convolution told to give the four corners apart, as the first one is: with more than a few input
  channels its backward pass takes several times as long;
- both convolutions as matrix products of unfolded images, batch last, whole or in pieces: no faster than the
  way taken, and with other last bits;
- an allocator that gives nothing back: there were no page faults to save.

ART on all cores has them for one training, where this program trains one surrogate on each; the row on LeNet
with ART on one thread, and that on cells of `mnist`, compare like with like.

On adaptive Knockoff, whose queries are a step on one row each: Adam over all weights and the first layer's
products are about half of a query; the rest is some thirty calls of operators on a few numbers, each slow
because what the large ones touch has pushed its code out of the cache. A step written as one function without
layers was a quarter faster, which is not worth a second way of training. A cell adds the surrogate's training
and its answers on the test split, which the library's matrix products bound; the first cell of a victim adds
chunks of the victim's answers, and its answers on the test split."""
GPU = """\
None was at hand, so nothing is claimed. Where there is one, `tox -e perf` measures the cells above and a
ResNet-18 on it, compared with plain ART on the same GPU (`tox -e perf -- --only gpu`: these alone)."""


@dataclass(frozen=True)
class Row:
    """A mechanism, our seconds and theirs by pair, and what was asked of it."""

    what: str
    ours: list[float]
    theirs: list[float]
    least: str
    aim: str

    def cells(self):
        """Return the row of the table."""
        ratios = [b / a for a, b in zip(self.ours, self.theirs, strict=True)]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        times = [f"{statistics.median(each):.3g}" for each in (self.ours, self.theirs)]
        return [self.what, *times, f"**{statistics.median(ratios):.2f} ×**", spread, self.least, self.aim]


def seconds(what):
    """Return how long a call takes."""
    start = time.perf_counter()
    what()
    return time.perf_counter() - start


def paired(what, ours, theirs, least, aim):
    """Time both, one after the other, ours first in every other pair; theirs is warm (see `best`)."""
    ours()
    found = []
    for place in range(PAIRS):
        order = (ours, theirs) if place % 2 else (theirs, ours)
        took = {call: seconds(call) for call in order}
        found.append((took[ours], took[theirs]))
        print(f"{what}: {found[-1][0]:.3g} s, plain ART {found[-1][1]:.3g} s", flush=True)
    return Row(what, *map(list, zip(*found, strict=True)), least, aim)


class Threads:
    """Hold torch and BLAS to so many threads."""

    def __init__(self, number):
        self.number = number

    def __enter__(self):
        self.before = torch.get_num_threads()
        torch.set_num_threads(self.number)
        self.limits = threadpool_limits(self.number)

    def __exit__(self, *_):
        self.limits.restore_original_limits()
        torch.set_num_threads(self.before)


def best(call, trial=None):
    """Return ``call`` at the number of threads that suits it, of one and all, by ``trial`` or itself."""
    found = {}
    for number in {1, available_cores()}:
        with Threads(number):
            (trial or call)()
            found[number] = min(seconds(trial or call) for _ in range(2))
    number = min(found, key=found.get)

    def run():
        with Threads(number):
            call()

    return run


OWN = "in-distribution"


def cell(spec, name, budget, stack="none", architecture="mlp", repeat=0, repeats=1, how="rule", pool=OWN):
    """Return a cell against a non-adaptive attacker."""
    threat = ThreatModel(pool, query_pools.access(pool, spec.data), "none", architecture, "probabilities")
    defense = () if stack == "none" else (defenses.canonical(stack),)
    return Cell(spec, defense, threat, attacks.canonical(name), budget, repeat, repeats, 0, how)


def sold(bench, spec):
    """Return a network as ART's user would have it on sale: trained for a few epochs, with its softmax."""
    victim = bench.victim(spec)
    network = build(spec.architecture, victim.shape, victim.classes)
    train = victim.splits.train
    targets = np.eye(victim.classes, dtype=np.float32)[train.y]
    plain_art.fit(plain_art.classifier(network, victim.shape, victim.classes), train.x, targets, 5)
    return plain_art.Probabilities(network)


def fit(bench, spec, what, architecture, budget, steps, members, least, aim):
    """Give the rows on training one copy, or several side by side."""
    x = bench.pool(spec, "in-distribution", 0).x[:budget]
    y = bench.victim(spec).probabilities(x).astype(np.float32)
    shape = x.shape[1:]
    epochs = steps // training.epochs(budget, plain_art.BATCH, 1)
    schedule = training.TrainingSchedule(training.epochs(budget, plain_art.BATCH, epochs), learning_rate=3e-3)

    def ours():
        with single_thread():
            networks = [build(architecture, shape, 10) for _ in range(members)]
            if members > 1:
                xs, ys, seeds = [x] * members, [y] * members, range(members)
                batched_training.train_batched(networks, xs, ys, schedule, seeds)
            else:
                training.train(networks[0], x, y, schedule, 0)

    def theirs():
        for _ in range(members):
            plain_art.fit(plain_art.surrogate(architecture, shape, 10), x, y, epochs)

    def single():
        with Threads(1):
            theirs()

    name = f"fit, {what}, {schedule.steps} steps"
    yield paired(name, ours, best(theirs), least, aim)
    if members == 1:
        yield paired(f"{name}, ART on one thread too", ours, single, "", "")


def knockoff(bench, spec):
    """Give the rows on adaptive Knockoff: buying alone, and the cell around it.

    A cell also asks the victim about the test split, trains the copy and compares; the first one of a victim
    finds none of its answers known.
    """
    victim, pool = bench.victim(spec), bench.pool(spec, "in-distribution", 0)
    pool = replace(pool, x=np.resize(pool.x, (30_000, *pool.x.shape[1:])), y=np.resize(pool.y, 30_000))
    steal, network = cell(spec, ADAPTIVE, 1000, how="rule(epochs=20)"), sold(bench, spec)
    attack, shape = attacks.build(steal.attack), pool.x.shape[1:]

    def opened():
        part, unasked = WorkerContext(bench.data_root), replace(victim)
        unasked.expect(pool.x)
        part.add({spec: unasked, (spec, "in-distribution", 0): pool})
        return part

    def buy(part):
        with single_thread():
            extraction.acquire(steal, attack, pool, part)

    def whole(part):
        with single_thread():
            run_cells([steal], part)

    def arts_buy(budget=1000):
        # ART trains the copy in the same call: one epoch is the least that it takes.
        asked, copy = plain_art.classifier(network, shape, 10), plain_art.surrogate("mlp", shape, 10)
        labels = np.eye(10, dtype=np.float32)[pool.y]
        plain_art.attack(ADAPTIVE, asked, budget, 1).extract(x=pool.x, y=labels, thieved_classifier=copy)

    def arts_whole():
        plain_art.cell(network, pool, victim.splits.test, "mlp", 10, ADAPTIVE, "none", 1000, 20)

    found, trial = [], lambda: arts_buy(50)
    arts_buy, arts_whole = best(arts_buy, trial), best(arts_whole, trial)
    whole(opened())
    for _ in range(PAIRS):
        part = opened()
        calls = partial(whole, part), partial(whole, part), partial(buy, part), arts_buy, arts_whole
        found.append([seconds(call) for call in calls])
        told = (f"{each:.3g} s" for each in found[-1])
        print("Knockoff, first cell, next cell, buying; ART buying, cell:", *told, flush=True)
    first, known, bought, arts_bought, arts = map(list, zip(*found, strict=True))
    what = f"adaptive Knockoff, 1,000 queries, pool of {len(pool.x):,}, MLP"
    yield Row(f"{what}: buying, answers known", bought, arts_bought, "20 ×", "25 ×")
    yield Row(f"{what}: the whole cell, answers known", known, arts, "", "")
    yield Row(f"{what}: the whole cell, first of a victim", first, arts, "", "")


@dataclass(frozen=True)
class Job:
    """Cells that both can run: every attack on every defense."""

    spec: VictimSpec
    architecture: str
    budget: int
    names: tuple[str, ...]
    stacks: tuple[str, ...]
    repeats: int
    how: str = "rule"

    def tasks(self):
        """Return the cells as ours."""
        return [
            cell(self.spec, name, self.budget, stack, self.architecture, repeat, self.repeats, self.how)
            for name, stack in product(self.names, self.stacks)
            for repeat in range(self.repeats)
        ]


def matrix(bench, job, what, least, aim, *, training_cache, device="cpu"):
    """Return the row on cells of a matrix; victims were trained before. On a GPU, one process has it."""
    victim, network = bench.victim(job.spec), sold(bench, job.spec)
    pool, tasks = bench.pool(job.spec, "in-distribution", 0), job.tasks()
    steps = parse_training(job.how).schedule(job.architecture, victim.shape, job.budget).steps
    epochs = steps // training.epochs(job.budget, plain_art.BATCH, 1)

    def ours():
        with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "s.sqlite", create=True) as store:
            shared = Path(folder) / "memo" if training_cache else None
            setting = WorkerSettings(bench.data_root, shared, device=device)
            jobs = available_cores() if device == "cpu" else 1
            counts = execute.run(tasks, store, setting, jobs=jobs)
            assert counts == {"ok": len(tasks)}, counts

    def theirs(some=None):
        given = (network, pool, victim.splits.test, job.architecture, 10)
        for name, stack in list(product(job.names, job.stacks))[:some]:
            for _ in range(job.repeats):
                plain_art.cell(*given, name, stack, job.budget, epochs, device)

    return paired(f"{what}, {len(tasks)} cells", ours, best(theirs, lambda: theirs(1)), least, aim)


def residual(device, rows=640, epochs=5):
    """Return the row on training one ResNet-18 on random images of CIFAR-10's shape."""
    rng, shape = np.random.default_rng(0), (3, 32, 32)
    x = rng.random((rows, *shape), dtype=np.float32)
    y = rng.dirichlet(np.ones(10), len(x)).astype(np.float32)
    schedule = training.TrainingSchedule(training.epochs(len(x), plain_art.BATCH, epochs), learning_rate=3e-3)

    def ours():
        with single_thread(), on_device(device):
            training.train(build("resnet18", shape, 10), x, y, schedule, 0)

    def theirs():
        plain_art.fit(plain_art.surrogate("resnet18", shape, 10, device), x, y, epochs)

    return paired(f"fit, ResNet-18 on 3×32×32, {schedule.steps} steps", ours, best(theirs), "", "")


def workers(bench, spec):
    """Return the row on two workers, up and warm, beside one."""
    tasks = [
        cell(spec, "own_labels" if place % 2 else SOFT, 50 + place, repeat=repeat, repeats=5)
        for place in range(10)
        for repeat in range(5)
    ]
    setting = WorkerSettings(bench.data_root, None)

    def run(jobs):
        list(LocalBackend(jobs).records([(task, "") for task in tasks[:20]], setting, bench))
        with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "s.sqlite", create=True) as store:
            return seconds(lambda: execute.run(tasks, store, setting, jobs=jobs))

    found = [(run(2), run(1)) for _ in range(PAIRS)]
    what = f"two workers, compared with one of ours, {len(tasks)} cells"
    return Row(what, *map(list, zip(*found, strict=True)), "1.8 ×", "1.9 ×")


def overhead(bench, spec):
    """Return the milliseconds that a cell costs beyond queries, training and evaluation; medians."""
    cells = [cell(spec, SOFT, 200, repeat=repeat, repeats=5, how="rule(epochs=1)") for repeat in range(5)]
    found = []
    with single_thread():
        for _ in range(30):
            start = time.perf_counter()
            outcomes = run_cells(cells, bench)
            took = time.perf_counter() - start
            named = [each.costs.seconds for each in outcomes]
            known = sum(each[name] for each in named for name in ("acquire", "train", "evaluate"))
            found.append((took - known) / len(cells))
    return 1e3 * statistics.median(found[5:])


def stored(bench, spec, folder, number):
    """Fill a store with so many cells that look as if they had run; return its tasks and setting."""
    rng = np.random.default_rng(0)
    stacks = ["none", *(f"rounded(decimals={places})" for places in range(1, 10))]
    budgets = range(50, 50 + number // (len(stacks) * len(STEALS) * 5))
    tasks = [
        cell(spec, name, budget, stack, repeat=repeat, repeats=5)
        for stack, name, budget in product(stacks, STEALS, budgets)
        for repeat in range(5)
    ]
    setting = WorkerSettings(bench.data_root, None)
    with single_thread():
        (made,) = run_cells([replace(tasks[0], repeats=1)], bench)
        plan = execute.task_keys(tasks, execute.prepare(tasks, bench))
    inputs = len(made.arrays["agreement"])
    with Store(folder / "s.sqlite", create=True) as store:
        store.set_meta(Meta(**provenance.commit(), matrix="many"))
        store.set_plan(plan)
        for task, key in ((each.task, each.key) for each in plan):
            arrays = made.arrays | {"agreement": (rng.random(inputs) < 0.9).astype(np.uint8)}
            store.put(Record(key, task, "ok", made.metrics, arrays, made.info, made.costs))
    return tasks, setting


def big_store(bench, spec):
    """Return the cells of a store, the seconds to see that it is finished, and to write its report."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tasks, setting = stored(bench, spec, folder, 10_000)
        with Store(folder / "s.sqlite") as store:
            known = seconds(lambda: execute.run(tasks, store, setting, jobs=1))
        return len(tasks), known, seconds(lambda: write_store_report(folder / "s.sqlite", folder))


def command(*words):
    """Return the median seconds of a command, after one run to warm up."""
    call = [sys.executable, "-m", "bench", *words]
    took = [seconds(lambda: subprocess.run(call, capture_output=True, check=True)) for _ in range(6)]
    return statistics.median(took[1:])


def grown(what, cells):
    """Return seconds and peak MiB of cells in a process of its own, victims and imports apart."""
    here = str(Path(__file__).parent)
    code = f"import sys; sys.path.insert(0, {here!r}); import perf; perf.alone(perf.{what}({cells}))"
    call = [sys.executable, "-c", code]
    told = subprocess.run(call, capture_output=True, check=True, text=True).stdout
    return json.loads(told.splitlines()[-1])


def alone(tasks):
    """Run cells here and print what they took, and the most memory."""
    bench = WorkerContext(data_files.data_root(None))
    with single_thread():
        for task in tasks[:4]:
            run_one(task, bench)
        took = seconds(lambda: [run_one(task, bench) for task in tasks[4:]])
    print(json.dumps([took, memory_mib()]))


def run_one(task, bench):
    """Run a cell or an audit."""
    return run_cells([task], bench) if isinstance(task, Cell) else evaluate_defense(task, bench)


def many(cells):
    """Return so many short cells on digits, and four to warm up with."""
    spec, how = VictimSpec("digits", "mlp", 0), "rule(epochs=5)"
    return [cell(spec, SOFT, 200 + place % 20, how=how, repeat=place) for place in range(cells + 4)]


def heavy(_):
    """Return one short cell of `mnist` for every defense, pool and surrogate, and the audits."""
    found = {}
    for task in load_matrix("mnist").tasks(repeats=1, data_root=data_files.data_root(None)):
        if isinstance(task, Cell):
            short = replace(task, attack=attacks.canonical(SOFT), budget=200, training="rule(epochs=1)")
            found.setdefault((task.defense, task.threat.pool, task.threat.surrogate), short)
        else:
            found[task] = task
    return list(found.values())


def shared(path):
    """Return a row on the trainings that a finished run did not need, by what its records say."""
    with Store(path) as store:
        records = [record for record in store.records() if record.kind == "cell" and record.status == "ok"]
    blind = [record for record in records if _on_labels(record.spec)]
    spared = [sum(record.costs.shared for record in group) for group in (records, blind)]
    told = (
        f"{spared[0]:,} of {len(records):,}; of {len(blind):,} on labels alone {spared[1] / len(blind):.0%}"
    )
    return [f"trainings not needed, `{path.parent.name}`", told, "", "40 % of those on labels"]


def _on_labels(spec):
    words = str(spec["attack"]) + str(spec["defense"]) + str(spec["shows"])
    return any(word in words for word in ("label", "use_probability=false", "adaptive"))


class Page:
    """Rows of pairs, and of single numbers, part by part."""

    def __init__(self, bench, digits, mnist, stores, device):
        pinned = ", ".join(f"{name} {metadata.version(name)}" for name in provenance.PACKAGES)
        self.made = markdown(["", ""], [*provenance.machine().items(), ["versions", pinned]], text=2)
        self.kept = {}
        self.bench, self.digits, self.mnist, self.stores = bench, digits, mnist, stores
        self.pairs, self.facts, self.accelerated, self.device = [], [], [], device

    def keep(self, path):
        """Keep the rows of a page that was made on this machine with these versions, by columns and name."""
        text = path.read_text(encoding="utf-8").rstrip() if path.is_file() else ""
        if text.endswith(self.made):
            for line in text.splitlines():
                cells = [each.strip() for each in line.strip("|").split("|")]
                if line.startswith("|") and set("".join(cells)) - set(":-") and cells[0] != "what":
                    self.kept.setdefault(len(cells), {})[cells[0]] = cells

    def table(self, headers, rows):
        """Return a table of what was kept and what was measured now."""
        return markdown(
            headers, {**self.kept.get(len(headers), {}), **{row[0]: row for row in rows}}.values()
        )

    def fit(self):
        """One copy, trained."""
        small, large = (self.bench, self.digits), (self.bench, self.mnist)
        self.pairs.extend(fit(*small, "MLP 64-128-64-10", "mlp", 200, 1000, 1, "1.8 ×", ""))
        self.pairs.extend(fit(*small, "five of MLP 64-128-64-10", "mlp", 200, 1000, 5, "3 ×", "6 ×"))
        if self.mnist:
            self.pairs.extend(fit(*large, "MLP 784-128-64-10", "mlp", 1000, 640, 1, "1.5 ×", "2.5 ×"))
            self.pairs.extend(fit(*large, "LeNet", "lenet", 1000, 640, 1, "1.2 ×", "1.6 ×"))

    def knockoff(self):
        """A bandit that trains while it asks."""
        if self.mnist:
            self.pairs.extend(knockoff(self.bench, self.mnist))

    def cells(self, device="cpu"):
        """Cells of the shipped matrices that ART can run."""
        names, rows = (*STEALS[:2], ADAPTIVE), self.pairs if device == "cpu" else self.accelerated
        job = Job(self.digits, "mlp", 100, names, ("none", "reverse_sigmoid(beta=1.0, gamma=0.5)"), 5)
        what = "`digits`, what ART can run"
        rows.append(matrix(self.bench, job, what, "5 ×", "10 ×", training_cache=True, device=device))
        if self.mnist:
            for architecture in ("lenet", "mlp"):
                stacks = ("none", "rounded(decimals=1)")
                job = Job(self.mnist, architecture, 500, STEALS[:2], stacks, 2, "rule(epochs=20)")
                what = f"`mnist`, {architecture}, 20 epochs, without sharing"
                rows.append(
                    matrix(self.bench, job, what, "1.6 ×", "3 ×", training_cache=False, device=device)
                )

    def gpu(self):
        """The same cells, and a larger network, with both on the accelerator."""
        if self.device != "cpu":
            self.cells(self.device)
            self.accelerated.append(residual(self.device))

    def workers(self):
        """Two workers beside one."""
        self.pairs.append(workers(self.bench, self.digits))

    def overhead(self):
        """What is not queries, training or evaluation."""
        took = overhead(self.bench, self.digits)
        self.facts.append(["a cell beyond queries, training, evaluation", f"{took:.2f} ms", "2 ms", "1 ms"])
        for words, most, aim in (("--help", ".3 s", ""), ("list attacks", "5 s", "1 s")):
            told = f"{command(*words.split()):.2f} s"
            self.facts.append([f"`moatbench {words}`", told, most, aim])

    def store(self):
        """Many cells in one store."""
        number, known, written = big_store(self.bench, self.digits)
        told = f"{number:,} finished cells"
        self.facts.append([f"{told}: to know that nothing is left", f"{known:.2f} s", "2 s", ".5 s"])
        self.facts.append([f"{told}: report", f"{written:.1f} s", "20 s", "8 s"])
        self.facts += [shared(path) for path in self.stores]

    def memory(self):
        """Ten times the cells."""
        found = [(grown("many", 50), grown("many", 500)) for _ in range(PAIRS)]
        ratios = [more[0] / few[0] for few, more in found]
        told = f"{statistics.median(ratios):.2f} × ({min(ratios):.2f} to {max(ratios):.2f})"
        self.facts.append(["ten times the cells: time", told, "9 to 11 ×", ""])
        told = " and ".join(f"{max(each[1] for each in side):,.0f}" for side in zip(*found, strict=True))
        self.facts.append(["ten times the cells: memory at most", f"{told} MiB", "the same", ""])
        if self.mnist:
            told = f"{grown('heavy', 0)[1]:,.0f} MiB"
            self.facts.append(["memory of a worker at most, `mnist`", told, "1,536 MiB", "820 MiB"])

    def parts(self):
        """Return the parts of the page."""
        headers = ["what", "ours, s", "compared with, s", "ratio", "lowest to highest", "at least", "aim"]
        accelerated = self.table(headers[:5], [row.cells()[:5] for row in self.accelerated])
        return [
            "# Performance",
            HEAD,
            self.table(headers, [row.cells() for row in self.pairs]),
            self.table(["what", "measured", "at most", "aim"], self.facts),
            "## What was tried and did not help",
            TRIED,
            "## On a GPU",
            f"{torch.cuda.get_device_name()}, for both.\n\n{accelerated}" if accelerated else GPU,
            "## How it was made",
            self.made,
        ]


PARTS = ("knockoff", "overhead", "store", "fit", "workers", "cells", "memory", "gpu")


def main():
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("reports/performance.md"))
    parser.add_argument("--store", type=Path, nargs="*", default=[], help="finished stores: what was shared")
    parser.add_argument("--only", nargs="*", choices=PARTS, default=PARTS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = WorkerContext(data_files.data_root(None), Path(folder))
        digits, mnist = VictimSpec("digits", "mlp", 0), VictimSpec("mnist", "lenet", 0)
        try:
            bench.victim(mnist)
        except MissingDataError as error:
            print(f"no rows on MNIST: {error}")
            mnist = None
        page = Page(bench, digits, mnist, given.store, resolve_device("auto"))
        if given.only != PARTS:
            page.keep(given.out)
        for name in given.only:
            getattr(page, name)()
            written(given.out, page.parts())


if __name__ == "__main__":
    main()
