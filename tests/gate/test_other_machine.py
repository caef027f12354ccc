"""The committed baseline on a simulated other machine: no regression, and one where a defense got weaker."""

import json
import shutil
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from programs import HOME, program

from bench.gate.baseline import export, read
from bench.gate.runs import group_of

MACHINE = HOME / "tests" / "support" / "other_machine.py"
MATRIX = HOME / "bench" / "matrices" / "ci.toml"
COMMITTED = HOME / "reports" / "ci" / "baseline.json"
NOISE = "gaussian_noise(scale=0.2)"


def part_of_ci():
    """Return the first block of the matrix ``ci`` with noise alone, as TOML; the whole takes minutes."""
    matrix = tomllib.loads(MATRIX.read_text())
    block = matrix.pop("block")[0] | {"defense": ["none", NOISE]}
    lines = []
    for head, values in (("", matrix), ("[[block]]", block)):
        plain = {name: value for name, value in values.items() if not isinstance(value, dict)}
        tables = {name: value for name, value in values.items() if isinstance(value, dict)}
        lines += [head, *(f"{name} = {json.dumps(value)}" for name, value in plain.items())]
        for name, table in tables.items():
            inline = ", ".join(f"{key} = {json.dumps(value)}" for key, value in table.items())
            lines.append(f"{name} = {{ {inline} }}")
    return "\n".join(lines) + "\n"


def candidate(folder):
    """Leave in ``folder`` the store of the other machine, and the same part of the committed baseline."""
    (folder / "part.toml").write_text(part_of_ci())
    words = ("run", "part.toml", "--store", "ci.sqlite", "--out", "out", "--jobs", "1")
    done = program(folder, *words, python=(MACHINE,))
    assert done.returncode == 0, done.stderr
    planned = {group_of(record.task) for record in read(folder / "ci.sqlite").records}
    whole = read(COMMITTED)
    part = [record for record in whole.records if group_of(record.task) in planned]
    assert {group_of(record.task) for record in part} == planned
    export(replace(whole, records=part), folder / "baseline.json")
    return words


@pytest.mark.slow
@pytest.mark.long
def test_on_another_machine_the_committed_baseline_is_quiet_and_a_weaker_defense_is_a_regression(tmp_path):
    # One test, since two processes would each run what both need.
    folder = tmp_path / "machine"
    folder.mkdir()
    words = candidate(folder)
    facts = read(folder / "ci.sqlite").meta
    assert facts.versions != read(COMMITTED).meta.versions
    done = program(folder, "gate", "baseline.json", "ci.sqlite")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Victim digits/mlp" in done.stdout
    assert "repeats are compared in pairs" in done.stdout

    weakened = Path(shutil.copytree(folder, tmp_path / "weakened"))
    done = program(weakened, *words, python=(MACHINE,), env={"WEAKENED": "1"})
    assert done.returncode == 0, done.stderr
    done = program(weakened, "gate", "baseline.json", "ci.sqlite")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "weaker" in done.stdout
