"""The real command with an encrypted, signed model and checkpoints, and when the writer of these ends."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.serve import signatures

ROOT = Path(__file__).parents[2]
ENVIRON = {**os.environ, "PYTHONPATH": str(ROOT)}
AUDIT = '[audit]\ncheckpoints = "elsewhere/checkpoints"\nkey_file = "checkpoint.key"\nseconds = 0.1\n'


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2])
def test_a_server_stops_when_its_checkpoints_end_while_the_model_loads(number, tmp_path):
    (tmp_path / "controls.toml").write_text(AUDIT + "[keys]\non = false\n")
    signatures.new_key_pair(tmp_path / "checkpoint.key")
    code = f"from tests.support.loading_server import main; main({str(tmp_path)!r}, {number})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=ENVIRON,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    loading, *said = done.stdout.splitlines()
    assert (loading, done.returncode) == ("loading", 3), done
    assert said == [
        "checkpoints of the audit log are not written any more: the process ended with exit code -9"
    ]
