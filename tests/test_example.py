"""The example project passes its own gate as committed, and fails it once its defense is weakened."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "guarded-model"


def moatbench(folder, *words, **more):
    command = [sys.executable, "-m", "bench", *words]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, env=os.environ | more
    )


@pytest.fixture(scope="module")
def gated(tmp_path_factory):
    """Return a function that runs the example, its defense replaced, and the gate as its README says."""
    commands = re.findall(r"^moatbench (.*)$", (EXAMPLE / "README.md").read_text(), re.MULTILINE)[:2]

    def gate(weaken=None):
        folder = tmp_path_factory.mktemp("example")
        shutil.copytree(EXAMPLE, folder, dirs_exist_ok=True)
        if weaken:
            code = folder / "guarded_model.py"
            before = code.read_text()
            code.write_text(before.replace(*weaken))
            assert code.read_text() != before
        run = moatbench(folder, *commands[0].split())
        assert run.returncode == 0, run.stderr
        return moatbench(folder, *commands[1].split())

    return gate


def test_the_example_passes_as_committed(gated):
    done = gated()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Regression" not in done.stdout


def test_a_weaker_defense_fails_the_gate(gated):
    done = gated(("    return told\n", "    return probabilities\n"))
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(r"^weaker +strength: .*shown", done.stdout, re.MULTILINE)


def test_the_action_gives_every_input_to_the_gate(tmp_path):
    text = (ROOT / "action.yml").read_text()
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
