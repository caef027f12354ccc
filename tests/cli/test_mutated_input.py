"""Whatever a matrix or a command line says, planning ends with 0, or with one sentence and exit code 2."""

import os
import random
import signal
from collections import Counter
from contextlib import contextmanager

import pytest
from cases import slow_unless
from in_process import moatbench
from mutations import mutated, mutated_words, sources

from bench.cli import provenance, session
from bench.plan.matrix import MOST_CELLS

CPU_SECONDS = 20
"""CPU time after which a plan counts as one that never ends; the slowest takes a few seconds."""
MOST = int(os.environ.get("MOATBENCH_MUTATIONS", "3"))
"""How often 245 mutations are tried in the slow tests; each time takes twenty seconds."""


@contextmanager
def limited():
    """Raise in the block after CPU_SECONDS of CPU time, which depends on no other program."""

    def stop(*_):
        raise AssertionError(f"no end after {CPU_SECONDS} s of CPU time")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@pytest.fixture
def planned(monkeypatch):
    """Plan, and do not run: return the list of the numbers of tasks that runs would have had."""
    numbers = []

    def run_tasks(tasks, *_, **__):
        numbers.append(len(tasks))
        return Counter(ok=len(tasks))

    monkeypatch.setattr(session, "run_tasks", run_tasks)
    monkeypatch.setattr(session, "_dask_backend", lambda _: None)
    monkeypatch.setattr(session, "write_store_report", lambda _, out: out / "report.md")
    monkeypatch.setattr(provenance, "commit", dict)
    monkeypatch.setattr(provenance, "machine", dict)
    return numbers


def check(folder, words):
    """Run a command line; fail unless it ends with 0, or with 2 and one short sentence."""
    with limited():
        code, text = moatbench(folder, *words)
    # As the standard streams of a command write it.
    text = text.encode("utf-8", "backslashreplace").decode()
    shown = f"moatbench {' '.join(repr(word[:200]) for word in words)}\n{text[-3_000:]}"
    assert code in {0, 2}, shown
    assert "Traceback" not in text, shown
    if code == 2:
        complaints = [line for line in text.splitlines() if line.startswith(("moatbench: ", "Error: "))]
        assert len(complaints) == 1, shown
        # Typer's own, "Error: …", repeat what was typed.
        assert complaints[0].startswith("Error") or len(complaints[0]) < 1_100, shown
        assert complaints[0].isprintable(), shown


def example(rng, texts, path):
    """Return a command line: a mutated matrix in ``path`` alone, or a small one with mutated words."""
    if rng.random() < 0.7:
        path.write_bytes(mutated(rng, texts))
        return ["run", str(path)]
    path.write_bytes(min(texts, key=len) if rng.random() < 0.8 else mutated(rng, texts))
    return mutated_words(rng, str(path))


# 5,000 examples in all, a hundred of them in every `tox`.
@pytest.mark.parametrize(
    ("seed", "examples"),
    slow_unless(
        lambda seed, _: seed == 0, [(0, 100), *((seed, 245) for seed in range(1, MOST + 1))], long=True
    ),
)
def test_no_matrix_and_no_command_line_ends_in_anything_but_a_plan_or_one_sentence(
    seed, examples, planned, tmp_path
):
    rng, texts = random.Random(seed), sources()
    for number in range(examples):
        path = tmp_path / f"m{number}.toml"
        check(tmp_path, example(rng, texts, path))
    assert len(planned) > examples / 50
    assert max(planned) <= 2 * MOST_CELLS
