"""The real command with an encrypted, signed model and checkpoints, and when the writer of these ends."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import httpx2
import numpy as np
import pytest
import skops.io
from sklearn.linear_model import LogisticRegression

from bench.serve import keys, signatures
from bench.serve.secret_values import Secret
from bench.serve.state import State, state_file
from tests.support.processes import children
from tests.support.served import wait_for

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


CONTROLS = """
[keys]
pepper_file = "pepper"
[model]
file = "models/model.enc"
name = "points"
version = "3"
key_file = "model.key"
public_key_file = "signing.key.pub"
"""


def moatbench(folder, *words):
    """Run a command in ``folder``; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "bench", *map(str, words)],
        cwd=folder,
        env=ENVIRON,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done
    return done.stdout


@pytest.fixture
def prepared(tmp_path):
    """Write model, data, keys and controls with the commands of the manual; return the model and a key."""
    x = np.random.RandomState(0).rand(200, 3).round(3)
    y = (x[:, 0] > 0.5).astype(int)
    model = LogisticRegression().fit(x.astype(np.float32), y)
    skops.io.dump(model, tmp_path / "model.skops")
    rows = [f"{','.join(map(str, row))},{label}" for row, label in zip(x.tolist(), y, strict=True)]
    (tmp_path / "data.csv").write_text("\n".join(["a,b,c,y", *rows]) + "\n")
    (tmp_path / "controls.toml").write_text(CONTROLS + AUDIT)
    (tmp_path / "models").mkdir()
    moatbench(tmp_path, "model", "keygen", "model.key", "--encryption")
    for name in ("signing.key", "checkpoint.key"):
        moatbench(tmp_path, "model", "keygen", name)
    out = ("--out", "models/model.enc", "--key-file", "model.key")
    moatbench(tmp_path, "model", "encrypt", "model.skops", "--as", "points@3", *out)
    (tmp_path / "model.skops").unlink()
    moatbench(tmp_path, "model", "sign", "models", "--key", "signing.key")
    pepper = Secret(b"p" * 43)
    signatures.write_secret(tmp_path / "pepper", pepper.reveal())
    with State(state_file(tmp_path / "state")) as state, state.transaction() as connection:
        key = keys.add(connection, pepper, "ann", "client", now=state.now(), by="admin")
    return model, key


@pytest.mark.slow
def test_the_command_answers_with_an_encrypted_model_and_ends_with_its_checkpoints(prepared, tmp_path):
    model, key = prepared
    words = ("models/model.enc", "--data", "data.csv", "--label", "y", "--controls", "controls.toml")
    with subprocess.Popen(
        [sys.executable, "-m", "bench", "serve", *words, "--state", "state", "--port", "0"],
        cwd=tmp_path,
        env=ENVIRON,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        end = threading.Timer(240, server.kill)
        end.start()
        try:
            line = server.stdout.readline()
            assert "is served at http://127.0.0.1:" in line, (line, server.communicate(timeout=60))
            row = [0.25, 0.5, 0.75]
            with httpx2.Client(trust_env=False, timeout=60) as client:
                answer = client.post(
                    f"{line.split()[-1]}/predict",
                    json={"inputs": [row]},
                    headers={"authorization": f"Bearer {key}"},
                )
            assert answer.status_code == 200, answer.text
            expected = model.predict_proba(np.array([row], np.float32))
            assert np.allclose(answer.json()["predictions"], expected, atol=1e-6)
            file = tmp_path / "elsewhere" / "checkpoints"
            wait_for(lambda: file.is_file() and file.stat().st_size)
            said = moatbench(tmp_path, "serve", "log", "verify", "--state", "state", "--checkpoints", file)
            assert "holds up to row" in said
            (writer,) = children(server.pid, b"bench.serve.checkpoint_writer")
            os.kill(writer, signal.SIGKILL)
            _, err = server.communicate(timeout=60)
        finally:
            end.cancel()
            server.kill()
    assert server.returncode == 3
    assert "checkpoints of the audit log are not written any more" in err
    assert "Traceback" not in err
