"""torchvision imports where its compiled part does not fit the installed torch."""

import subprocess
import sys

from bench.data.torchvision_compat import define_missing, load_torchvision


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_torchvision_imports_in_a_fresh_process() -> None:
    code = (
        "from bench.data.torchvision_compat import load_torchvision as load; "
        "print(load().datasets.MNIST.__name__)"
    )
    assert run_python(code) == "MNIST"


def test_only_missing_operators_are_defined_and_only_once() -> None:
    code = (
        "import torch; from bench.data.torchvision_compat import SCHEMAS, define_missing\n"
        "library = torch.library.Library('torchvision', 'DEF'); library.define(SCHEMAS['nms'])\n"
        "print(define_missing(), define_missing())"
    )
    assert run_python(code) == "['qnms'] []"


def test_loading_again_defines_nothing() -> None:
    first = load_torchvision()
    assert define_missing() == []
    assert load_torchvision() is first
