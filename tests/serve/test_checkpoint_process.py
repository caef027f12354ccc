"""A writer of checkpoints that hangs is noticed, and ended; one that works is not."""

import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from bench.serve import audit, signatures
from bench.serve.checkpoint_process import checkpoints
from bench.serve.evidence_controls import Audit
from bench.serve.state import State, state_file
from tests.support.processes import children
from tests.support.served import wait_for

SETTINGS = Audit(checkpoints="elsewhere/checkpoints", key_file="checkpoint.key", rows=1, seconds=0.1)


@pytest.fixture
def written(tmp_path):
    """A folder with a key and a log of one row; returns what reads the checkpoints' numbers."""
    signatures.new_key_pair(tmp_path / "checkpoint.key")
    append(tmp_path)
    file = tmp_path / "elsewhere" / "checkpoints"
    return lambda: [json.loads(line)["number"] for line in file.read_text().splitlines()]


def append(folder):
    with State(state_file(folder)) as state, state.transaction() as connection:
        audit.append(connection, "tested", {})


def writer():
    (found,) = children(os.getpid(), b"bench.serve.checkpoint_writer")
    return found


@pytest.mark.slow
def test_a_writer_that_hangs_is_killed_and_it_is_said(written, tmp_path):
    said, came = [], threading.Event()

    def died(sentence):
        said.append(sentence)
        came.set()

    with checkpoints(SETTINGS, state_file(tmp_path), tmp_path, died, silent=5.0):
        process = writer()
        append(tmp_path)
        wait_for(lambda: written()[-1:] == [2])
        assert not said
        os.kill(process, signal.SIGSTOP)
        assert came.wait(60)
        assert not children(os.getpid(), b"bench.serve.checkpoint_writer")
    assert said == [
        "checkpoints of the audit log are not written any more: the process has said nothing for 5 seconds"
    ]


def test_a_writer_goes_on_to_its_last_checkpoint_though_nobody_listens(tmp_path, written):
    """As after the server was killed: its end of both pipes is closed."""
    words = ("--state", state_file(tmp_path), "--file", tmp_path / "elsewhere" / "checkpoints")
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "bench.serve.checkpoint_writer", *map(str, words)),
            *("--key", str(tmp_path / "checkpoint.key"), "--rows", "1000", "--seconds", "1000"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    ) as process:
        assert process.stdout.readline() == b"ready\n"
        assert process.stdout.readline() == b"alive\n"
        process.stdout.close()
        append(tmp_path)
        threading.Event().wait(1.2)  # longer than it takes until the next word
        assert process.poll() is None
        process.stdin.close()
        assert process.wait(60) == 0, process.stderr.read()
    assert written() == [2]
