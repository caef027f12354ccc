"""The example project passes its own gate as committed, and fails it once its defense is weakened."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from in_process import moatbench
from programs import program

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "guarded-model"
COMMANDS = re.findall(r"^moatbench (.*)$", (EXAMPLE / "README.md").read_text(), re.MULTILINE)[:2]


def here(folder, *words):
    """Run moatbench on this machine."""
    return moatbench(folder, *words)


def elsewhere(folder, *words):
    """Run moatbench as on a machine with other instructions and other minor versions of the libraries."""
    done = program(folder, *words, python=(ROOT / "tests" / "support" / "other_machine.py",))
    return done.returncode, done.stdout + done.stderr


def gated(folder, machine):
    """Run the example in ``folder``, and the regression gate as its README says; return the latter."""
    code, text = machine(folder, *COMMANDS[0].split(), "--jobs", "1")
    assert code == 0, text
    return machine(folder, *COMMANDS[1].split())


@pytest.fixture(scope="module", params=[here, pytest.param(elsewhere, marks=pytest.mark.long)])
def committed(request, tmp_path_factory):
    """Return a folder in which the example ran as it is committed, on which machine, and the decision."""
    folder = tmp_path_factory.mktemp("example") / "guarded-model"
    shutil.copytree(EXAMPLE, folder)
    return folder, request.param, gated(folder, request.param)


@pytest.mark.slow
def test_the_example_passes_as_committed(committed):
    _, machine, (code, text) = committed
    assert code == 0, text
    assert "Regression" not in text
    if machine is elsewhere:
        assert "its answers differ by a mean L1 of" in text


@pytest.mark.slow
def test_a_weaker_defense_fails_the_gate(committed, tmp_path):
    # What ran without the defense need not run again.
    folder = shutil.copytree(committed[0], tmp_path / "guarded-model")
    code = folder / "guarded_model.py"
    before = code.read_text()
    code.write_text(
        re.sub(
            r"(def shown\(probabilities\):\n.*?\n    return )\w+\n",
            r"\1probabilities\n",
            before,
            flags=re.DOTALL,
        )
    )
    assert code.read_text() != before
    code, text = gated(folder, committed[1])
    assert code == 1, text
    assert re.search(r"^weaker +strength: .*shown", text, re.MULTILINE)


def test_nobody_has_to_allow_another_victim():
    """The commands of README, of the action and of this project's own gate are those with defaults."""
    texts = [EXAMPLE / "README.md", ROOT / "README.md", ROOT / "tox.ini", ROOT / "action.yml"]
    assert not [path for path in texts if "allow victim" in path.read_text()]
    assert "allow:" not in (EXAMPLE / "README.md").read_text()
    assert yaml.safe_load((ROOT / "action.yml").read_text())["inputs"]["allow"]["default"] == ""


def test_the_action_gives_every_input_to_the_gate(tmp_path):
    text = (ROOT / "action.yml").read_text()
    assert yaml.safe_load(text)["runs"]["using"] == "composite"
    script = text.split("run: |\n")[1]
    names = re.findall(r"^  ([a-z-]+):$", text.split("runs:")[0], re.MULTILINE)
    assert {f"inputs.{name}" for name in names} == set(re.findall(r"inputs\.[a-z-]+", text))
    # The last step, with a moatbench that writes down how it was called.
    fake = tmp_path / "moatbench"
    fake.write_text('#!/bin/sh\necho "$@" >> "$CALLS"\n')
    fake.chmod(0o755)
    given = {
        "MATRIX": "my matrix.toml; echo no",
        "BASELINE": "b.json",
        "VICTIM": "v.py:make",
        "TOLERANCE": "1",
        "ALLOW": "victim versions",
        "STRICT": "true",
        "RUNNER_TEMP": str(tmp_path),
        "CALLS": str(tmp_path / "calls"),
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
    }
    subprocess.run(["bash", "-e", "-c", script], env=given, check=True)
    store = f"{tmp_path}/moatbench/store.sqlite"
    assert (tmp_path / "calls").read_text().splitlines() == [
        f"run my matrix.toml; echo no --store {store} --out {tmp_path}/moatbench --victim v.py:make",
        f"gate b.json {store} --tolerance 1 --allow victim --allow versions --strict",
    ]


@pytest.mark.parametrize(
    ("run", "gate", "code", "calls"),
    [
        (0, 0, 0, "run gate"),
        (0, 1, 1, "run gate"),
        (2, 0, 2, "run"),
        (3, 0, 3, "run gate"),
        (3, 1, 1, "run gate"),
        (70, 1, 70, "run"),
    ],
)
def test_the_action_ends_with_the_code_that_matters_most(tmp_path, run, gate, code, calls):
    fake = tmp_path / "moatbench"
    fake.write_text(f'#!/bin/sh\necho "$1" >> "$CALLS"\ntest "$1" = run && exit {run}\nexit {gate}\n')
    fake.chmod(0o755)
    names = ("MATRIX", "BASELINE", "VICTIM", "TOLERANCE", "ALLOW", "STRICT")
    env = dict.fromkeys(names, "") | {"RUNNER_TEMP": str(tmp_path), "CALLS": str(tmp_path / "calls")}
    env["PATH"] = f"{tmp_path}:{os.environ['PATH']}"
    script = (ROOT / "action.yml").read_text().split("run: |\n")[1]
    assert subprocess.run(["bash", "-e", "-c", script], env=env, check=False).returncode == code
    assert (tmp_path / "calls").read_text().split() == calls.split()
