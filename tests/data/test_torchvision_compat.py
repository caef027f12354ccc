"""torchvision imports where its compiled part does not fit the installed torch."""

import subprocess
import sys

import pytest

from bench.data.torchvision_compat import define_missing, load_torchvision


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
def test_in_fresh_processes_torchvision_imports_and_missing_operators_are_defined_once() -> None:
    # Two processes, of which one is a fork: torch, which takes seconds, is imported once.
    code = (
        "import os, sys, torch\n"
        "from bench.data.torchvision_compat import SCHEMAS, define_missing, load_torchvision\n"
        "if os.fork():\n"
        "    assert os.wait()[1] == 0\n"
        "    print(load_torchvision().datasets.MNIST.__name__)\n"
        "else:\n"
        "    library = torch.library.Library('torchvision', 'DEF'); library.define(SCHEMAS['nms'])\n"
        "    print(define_missing(), define_missing())\n"
    )
    assert run_python(code) == "['qnms'] []\nMNIST"


def test_loading_again_defines_nothing() -> None:
    first = load_torchvision()
    assert define_missing() == []
    assert load_torchvision() is first
