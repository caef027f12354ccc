"""A plugin spoils nothing that others use: neither what it gets, nor the process that it runs in."""

import contextlib
import decimal
import gc
import hashlib
import logging
import os
import random
import re
import signal
import socket
import sys
import warnings
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import spoiling_plugins
import torch
from cases import slow_unless

from bench.plugins import attacks, defenses
from bench.runner import local_backend
from bench.runner.cells import run_cells
from bench.runner.context import WorkerContext
from bench.runner.defense_evaluation import evaluate_defense
from bench.runner.local_backend import WorkerSettings, run_group
from bench.tasks import Cell, DefenseEvaluation, ThreatModel, VictimSpec

SPEC = VictimSpec("digits", "mlp", 0)
THREAT = ThreatModel("in-distribution", "in-distribution", "none", "sklearn-logistic", "probabilities")
COPYCAT = "copycat(use_probability=true)"
GATE = ("mahalanobis(fpr=0.05, action=noise, layers=all)",)
FILE = Path(spoiling_plugins.__file__)


def cell(attack=COPYCAT, defense=(), budget=20, repeats=1):
    return Cell(SPEC, defense, THREAT, attack, budget, 0, repeats, 0)


HONEST = (
    cell(repeats=2),
    cell(defense=GATE),
    cell(defense=("rounded(l1=0.02)",)),
    cell("membership_threshold(members=40)", budget=80),
    DefenseEvaluation(SPEC, GATE, ("noise",), 1, 0),
)


@pytest.fixture(autouse=True)
def plugins():
    attacks.add_file(FILE)
    defenses.add_file(FILE)


@pytest.fixture(autouse=True)
def interruptible():
    """Ctrl-C as a terminal has it: a program in the background starts with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def results(context, tasks=HONEST):
    """Return everything that tasks give but their costs."""
    found = []
    for task in tasks:
        outcomes = (
            run_cells(task.group(), context) if isinstance(task, Cell) else [evaluate_defense(task, context)]
        )
        found += [(o.metrics, {n: a.tobytes() for n, a in o.arrays.items()}, o.info) for o in outcomes]
    return repr(found)


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory):
    """Return a context that plugins are let loose on, and what honest cells gave before."""
    context = WorkerContext(tmp_path_factory.mktemp("no-data"), None)
    return context, results(context)


def shared(context):
    """Return a digest of all arrays that the context keeps for its cells."""
    h = hashlib.sha256()

    def add(kept):
        if isinstance(kept, np.ndarray):
            h.update(np.ascontiguousarray(kept).tobytes())
        elif hasattr(kept, "__dataclass_fields__") and not hasattr(kept, "model"):
            for each in fields(kept):
                add(getattr(kept, each.name))
        elif hasattr(kept, "splits"):
            add(kept.splits)

    for key in sorted(context._kept, key=repr):
        if "spoils" not in repr(key):
            add(context._kept[key])
    return h.hexdigest()


DEFENSES = [
    *(
        (part, "fit")
        for part in ("train_inputs", "train_labels", "inputs", "labels", "probabilities", "costs", "features")
    ),
    *((part, "answer") for part in ("inputs", "raw", "probabilities", "features")),
    ("inputs", "later"),
]
ATTACKS = ("x", "y", "reference", "answers", "api", "surrogates", "applicable", "surrogate")
SPOILING = [
    *(cell(defense=(f"spoils_as_defense(what={what}, hook={hook})",)) for what, hook in DEFENSES),
    *(cell(f"spoils_as_attack(what={what})", repeats=2) for what in ATTACKS),
    cell("spoils_as_membership", budget=40),
    DefenseEvaluation(SPEC, ("spoils_as_defense(what=inputs, hook=answer)",), ("noise",), 1, 0),
]


@pytest.mark.slow
def test_a_plugin_that_writes_into_whatever_it_gets_changes_no_bit_of_others(spoilt):
    context, before = spoilt
    clean, loose = shared(context), []
    for task in SPOILING:
        with contextlib.suppress(Exception):
            results(context, [task])
        if shared(context) != clean:
            loose.append((task.defense, getattr(task, "attack", "evaluation")))
            break
    assert not loose
    # With new APIs and stacks, but the same victim, pool and calibration data.
    for key in [key for key in context._kept if isinstance(key, tuple) and GATE in key]:
        del context._kept[key]
    assert results(context) == before


def test_what_a_plugin_gets_can_be_written_to_and_handed_to_torch_without_a_warning(spoilt):
    # As an error, a warning would have made these cells fail.
    context, _ = spoilt
    writes = [cell(f"spoils_as_attack(what={what})") for what in ("x", "answers")]
    writes.append(cell(defense=("spoils_as_defense(what=inputs, hook=answer)",)))
    assert results(context, writes)


def test_a_repeat_gets_the_pool_as_it_was_not_as_the_repeat_before_left_it(spoilt):
    context, _ = spoilt
    for what in ("x", "y"):
        one, two = (
            run_cells(cell(f"spoils_as_attack(what={name})", repeats=2).group(), context)
            for name in (what, "nothing")
        )
        assert [o.arrays["agreement"].tolist() for o in one] == [o.arrays["agreement"].tolist() for o in two]


# --- the process


def process():
    """Return the settings of this process that plugins change here."""
    return {
        "generators": (
            np.random.get_state()[1].tobytes(),
            np.random.get_state()[2],
            random.getstate(),
            torch.get_rng_state().numpy().tobytes(),
        ),
        "torch": (
            torch.is_grad_enabled(),
            torch.get_default_dtype(),
            str(torch.empty(0).device),
            torch.are_deterministic_algorithms_enabled(),
            torch.get_num_threads(),
            torch.is_autocast_enabled("cpu"),
            dict(torch.nn.modules.module._global_forward_hooks),
        ),
        "denormals": spoiling_tiny() * 1.0,
        "numpy": np.geterr(),
        "environment": dict(os.environ),
        "folder": Path.cwd(),
        "warnings": [*warnings.filters],
        "logging": (logging.root.manager.disable, logging.getLogger("bench").level),
        "signals": signal.getsignal(signal.SIGINT),
        "path": [*sys.path],
        "output": sys.stdout,
        "decimal": decimal.getcontext().prec,
        "recursion": sys.getrecursionlimit(),
        "garbage": gc.isenabled(),
        "sockets": socket.getdefaulttimeout(),
        "alarm": signal.getitimer(signal.ITIMER_REAL)[0],
    }


def spoiling_tiny():
    return float("5e-324")


@pytest.fixture
def settings(tmp_path, monkeypatch, spoilt):
    """Return the settings of a worker whose context has the victim already."""
    settings = WorkerSettings(tmp_path, None, (FILE,))
    context = WorkerContext(tmp_path, None)
    context.add(spoilt[0].loaded())
    monkeypatch.setattr(local_backend, "worker_context", lambda _: context)
    return settings


def ran(settings, task):
    (record,) = run_group(settings, [(task, "key")])
    return record


KINDS = [*spoiling_plugins.CHANGES, *spoiling_plugins.SETTINGS]


def test_what_an_attack_changes_in_the_process_is_undone_and_said(settings):
    run_group(settings, [(cell(), "key")])
    before = process()
    for what in KINDS:
        record = ran(settings, cell(f"changes_as_attack(what='{what}')"))
        assert process() == before, what
        assert record.status == "ok", (what, record.error)
        said = record.costs.undone
        assert len(said) == (what != "generators"), (what, said)
        if said:
            verb = "left 1 thread running" if what == "thread" else "changed "
            assert f"attack 'changes_as_attack' (spoiling_plugins.py) {verb}" in said[0]
    for module in [each for name, each in sys.modules.items() if name.startswith("moatbench_file_spoiling")]:
        module.stopped.set()  # ends the thread


@pytest.mark.parametrize("what", ["default dtype", "hooks", "mixed precision", "generators"])
def test_what_an_import_changes_in_the_process_is_undone_and_said(what, tmp_path, caplog):
    path = tmp_path / "imported.py"
    path.write_text(
        f"import sys; sys.path.insert(0, {str(FILE.parent)!r})\n"
        f"from spoiling_plugins import CHANGES, ChangesAsAttack as Base\nCHANGES[{what!r}]()\n"
        "class Imported(Base):\n    name = 'imported'\n"
    )
    before = process()
    local_backend.worker_context(WorkerSettings(tmp_path, None, (path,)))
    after = process()
    assert {key for key in before if before[key] != after[key]} <= {"path"}
    said = [line for line in caplog.messages if "imported.py changed" in line]
    assert len(said) == (what != "generators"), caplog.messages
    sys.path.remove(str(FILE.parent))


@pytest.mark.parametrize(
    "what", slow_unless(lambda what: what in ("threads of torch", "numpy errors"), spoiling_plugins.CHANGES)
)
def test_what_a_defense_changes_in_the_process_is_undone_and_said(what, settings):
    plain = ran(settings, cell())
    before = process()
    record = ran(settings, cell(defense=(f"changes(what='{what}')",)))
    assert process() == before
    assert record.arrays["agreement"].tobytes() == plain.arrays["agreement"].tobytes()
    said = record.costs.undone
    assert bool(said) == (what != "generators")
    named = "defense 'changes' (spoiling_plugins.py) changed "
    assert any(named in each for each in said) or not said
    # What short calls leave is put back when the cell ends, when nobody knows any more whose it was.
    assert all(named in each or each.startswith("a plugin changed ") for each in said)


def test_a_defense_that_seeds_the_global_generators_leaves_the_draws_of_an_attack_alone(settings):
    plain = ran(settings, cell("draws", budget=40))
    seeded = ran(settings, cell("draws", ("changes(what=generators)",), budget=40))
    assert plain.status == seeded.status == "ok"
    assert plain.arrays["agreement"].tobytes() == seeded.arrays["agreement"].tobytes()
    assert plain.metrics["extraction.fidelity_on_queries"] == seeded.metrics["extraction.fidelity_on_queries"]


def test_an_undone_change_is_no_difference_between_two_results(settings):
    record = ran(settings, cell("changes_as_attack(what=environment)"))
    assert record.costs.undone
    clean = replace(record, costs=record.costs.with_values(undone=[]))
    assert record.comparable() == clean.comparable()


# --- a plugin that ends the program

ENDS = """
import os, signal
from moatbench import Answers, Defense, Extraction

def end(how):
    if how == "exit":
        raise SystemExit(0)
    if how == "interrupt":
        raise KeyboardInterrupt
    if how == "other":
        class Odd(BaseException):
            pass
        raise Odd("odd")
    os.kill(os.getpid(), signal.SIGINT)

class Ends(Extraction):
    name = "ends"
    def __init__(self, *, how: str = "exit") -> None:
        self.how = how
    def acquire(self, api, pool, surrogates, seeds):
        end(self.how)

class EndsAsDefense(Defense):
    name = "ends_as_defense"
    def __init__(self, *, how: str = "exit", hook: str = "answer") -> None:
        self.how, self.hook = how, hook
    def fit(self, calibration):
        if self.hook == "fit":
            end(self.how)
    def answer(self, batch):
        if self.hook == "answer":
            end(self.how)
        return Answers.of(batch.probabilities)
"""


@pytest.fixture
def ends(tmp_path, settings):
    path = tmp_path / "ends.py"
    path.write_text(ENDS)
    attacks.add_file(path)
    defenses.add_file(path)
    return lambda task: ran(settings, task)


@pytest.mark.parametrize("how", ["exit", "interrupt", "other"])
def test_a_plugin_that_ends_the_program_fails_its_cell_alone(how, ends):
    kind = {"exit": r"SystemExit\(0\)", "interrupt": r"KeyboardInterrupt\(\)", "other": r"Odd\(odd\)"}[how]
    for task, who in (
        (cell(f"ends(how={how})"), "attack 'ends' (ends.py) tried to end the program in acquire, by "),
        *(
            (cell(defense=(f"ends_as_defense(how={how}, hook={hook})",)), f"in {hook}, by ")
            for hook in ("fit", "answer")
        ),
    ):
        record = ends(task)
        assert record.status == "failed"
        assert who in record.error
        assert re.search(kind, record.error)
        assert "Traceback" in record.info.traceback


def test_ctrl_c_while_a_plugin_runs_ends_the_run(ends):
    with pytest.raises(KeyboardInterrupt):
        ends(cell("ends(how=signal)"))
