"""Makes README.md: campaigns against MLServer and MLflow, one of them killed and resumed.

``python transcript.py MLSERVER MLFLOW``: the commands ``mlserver`` and ``mlflow`` of environments of their
own, for example ``.tox/mlserver/bin/mlserver .tox/mlflow/bin/mlflow``. Everything runs on this machine.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import servers

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CHECKED = "--data digits.npz --label y"
DATA = f"{CHECKED} --test 300"
MLSERVER = (
    f"target attack mlserver.toml {DATA} --budget 100,200,400 "
    "--attack copycat(use_probability=true) --attack copycat(use_probability=false)"
)
MLFLOW = f"target attack mlflow.toml {DATA} --budget 100,200,400 --attack copycat(use_probability=false)"

KILLED_AT = 450


def main() -> None:
    """Start the servers one after the other, run every command, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mlserver", type=Path)
    parser.add_argument("mlflow", type=Path)
    options = parser.parse_args()
    parts = [HEAD]
    with tempfile.TemporaryDirectory() as name, servers.mlserver(options.mlserver, Path(name)) as server:
        folder = _prepared(Path(name), "mlserver.toml", server.url)
        parts.append("## MLServer, probabilities\n")
        parts.append(_shown((HERE / "mlserver.toml").read_text(encoding="utf-8"), "toml"))
        parts.append(_console(folder, [f"target check mlserver.toml {CHECKED}"]))
        parts.append(
            f"Killed (`kill -9`) once {KILLED_AT} inputs are booked, the same command then goes on.\n"
        )
        parts.append(_killed(folder, MLSERVER, KILLED_AT))
        parts.append(_console(folder, [MLSERVER, "show results/mlserver/store.sqlite"]))
        parts.append(_counted(folder, server.billed()))
    with tempfile.TemporaryDirectory() as name, servers.mlflow(options.mlflow, Path(name)) as server:
        folder = _prepared(Path(name), "mlflow.toml", server.url)
        parts.append("## MLflow, labels\n")
        parts.append(_shown((HERE / "mlflow.toml").read_text(encoding="utf-8"), "toml"))
        commands = [f"target check mlflow.toml {CHECKED}", MLFLOW, "show results/mlflow/store.sqlite"]
        parts.append(_console(folder, commands))
    (HERE / "README.md").write_text("\n".join(parts), encoding="utf-8")


HEAD = """# What does it cost to extract the model behind a URL: a transcript

Two real prediction servers with a logistic regression on handwritten digits. The 899 inputs that it did not
learn from are the evaluation's and the attacker's. [servers.py](servers.py) starts the servers on this
machine, [model.py](model.py) makes their models, [transcript.py](transcript.py) this page.
[server.py](server.py) is a server that needs no installation.
"""


def _prepared(folder: Path, file: str, url: str) -> Path:
    """Copy a target file, with the port at which the server listens."""
    text = (HERE / file).read_text(encoding="utf-8")
    (folder / file).write_text(re.sub(r"http://127\.0\.0\.1:\d+", url, text), encoding="utf-8")
    return folder


def _shown(text: str, language: str = "console") -> str:
    return f"```{language}\n{text.strip()}\n```\n"


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "110", "NO_COLOR": "1"}


def _words(command: str) -> list[str]:
    return [sys.executable, "-m", "bench", *command.split()]


def _console(folder: Path, commands: list[str]) -> str:
    """Return commands with what they printed, their exit codes and wall times."""
    lines = []
    for command in commands:
        started = time.monotonic()
        done = subprocess.run(
            _words(command), cwd=folder, env=_environment(), capture_output=True, text=True, check=False
        )
        lines += _told(command, done.stdout, done.stderr)
        lines.append(f"# exit code {done.returncode}, {time.monotonic() - started:.0f} s")
    return _shown("\n".join(lines))


def _told(command: str, out: str, err: str) -> list[str]:
    # What is written over itself in a terminal is shown as it stands at the end.
    last = [line.rsplit("\r", 1)[-1].rstrip() for line in err.splitlines()]
    quoted = re.sub(r"(\S*\(\S*\))", r"'\1'", command)
    return [f"$ moatbench {quoted}", *filter(None, last), *([out.rstrip()] if out.strip() else [])]


def _killed(folder: Path, command: str, inputs: int) -> str:
    """Return a command that was killed once its ledger had as many inputs."""
    ledger = folder / "results" / "mlserver" / "ledger.sqlite"
    process = subprocess.Popen(
        _words(command),
        cwd=folder,
        env=_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    while process.poll() is None and _booked(ledger) < inputs:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    out, _ = process.communicate()
    return _shown("\n".join([*_told(command, "", out), f"# killed, {_booked(ledger)} inputs booked"]))


def _booked(ledger: Path) -> int:
    if not ledger.exists():
        return 0
    try:
        with sqlite3.connect(f"file:{ledger}?mode=ro", uri=True) as opened:
            return int(opened.execute("select inputs from totals").fetchone()[0])
    except (sqlite3.Error, TypeError):
        return 0


def _counted(folder: Path, billed: int) -> str:
    """Return how many requests MLServer counts, and how many the ledger has."""
    with sqlite3.connect(folder / "results" / "mlserver" / "ledger.sqlite") as opened:
        known = opened.execute("select count(*) from requests").fetchone()[0]
    return f"MLServer's own counter has {billed} requests answered; the ledger has {known} sent.\n"


if __name__ == "__main__":
    main()
