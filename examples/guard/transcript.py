"""Makes README.md: which controls MLServer enforces as it comes, and which behind ``moatbench guard``.

``python transcript.py MLSERVER``: the command ``mlserver`` of an environment of its own, for example
``.tox/mlserver/bin/mlserver``. Everything runs on this machine. Both are probed at the same time, as probes
of limits wait for minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "examples" / "live-target")]

import servers  # noqa: E402  # the servers of the other transcript

from bench.remote.probes.second_factor import one_time_code  # noqa: E402

GUARD = (
    "guard --upstream {upstream} --model digits --input x --output predict_proba --classes 10 --shape 64 "
    "--state served --controls controls.toml --name digits --port {port} "
    "--defense mahalanobis(layers=input,fpr=0.01,action=label_only) --benign benign.npz "
    "--defense rounded(decimals=2)"
)
PROBES = "target controls {name}.toml --data ordinary.npz"
STARTING = 300.0
"""Seconds that the guard has to start."""
HEAD = """# Which controls does a prediction server enforce: a transcript

MLServer with a logistic regression on handwritten digits, as it comes; then the same server behind `moatbench
guard`. [transcript.py](transcript.py) makes this page; everything runs on one machine.
[METHOD.md](../../METHOD.md#probes-of-controls) says what each probe asks, and what "holds" does not mean.

A guard does not know the model. Its detector of unusual inputs learns from a file of ordinary ones: every
second one of the digits, in `benign.npz`. Where probes need no unusual ones, they send the others,
`ordinary.npz`.
"""


def main() -> None:
    """Start both servers, probe them, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mlserver", type=Path)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as name,
        tempfile.TemporaryDirectory() as model,
        servers.mlserver(options.mlserver.absolute(), Path(model)) as server,
    ):
        folder = Path(name)
        port, admin = servers.free_ports(2)
        _place(folder, "bare.toml", {"8080": server.url.rpartition(":")[2]})
        _place(folder, "guarded.toml", {"8090": str(port), "8091": str(admin)})
        _place(folder, "controls.toml", {"8091": str(admin)})
        digits = (load_digits().data / 16).astype(np.float32)
        for start, file in enumerate(("benign", "ordinary")):
            np.savez(folder / f"{file}.npz", x=digits[start::2])
        keys = _keys(folder)
        with (
            _guard(folder, GUARD.format(upstream=server.url, port=port), port),
            ThreadPoolExecutor(2) as pool,
        ):
            jobs = [pool.submit(_probed, folder, each, keys) for each in ("bare", "guarded")]
            bare, guarded = (job.result() for job in jobs)
        parts = [
            HEAD,
            "## What differs\n",
            _differences(*(_document(folder, each) for each in ("bare", "guarded"))),
            "## MLServer as it comes\n",
            _shown((HERE / "bare.toml").read_text(encoding="utf-8"), "toml"),
            _shown(bare, "console"),
            "## The same server behind a guard\n",
            _shown((HERE / "controls.toml").read_text(encoding="utf-8"), "toml"),
            _shown(
                "$ moatbench " + _quoted(GUARD.format(upstream="http://127.0.0.1:8080", port=8090)), "console"
            ),
            _shown((HERE / "guarded.toml").read_text(encoding="utf-8"), "toml"),
            _shown(guarded, "console"),
        ]
    (HERE / "README.md").write_text("\n".join(parts), encoding="utf-8")


def _place(folder: Path, file: str, ports: Mapping[str, str]) -> None:
    """Copy a file, with the ports of this run."""
    text = (HERE / file).read_text(encoding="utf-8")
    for stated, port in ports.items():
        text = text.replace(stated, port)
    (folder / file).write_text(text, encoding="utf-8")


def _moatbench(folder: Path, words: list[str], more: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "110", "NO_COLOR": "1"} | (more or {})
    command = [sys.executable, "-m", "bench", *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def _keys(folder: Path) -> dict[str, str]:
    """Make the accounts ann and ops; return their keys, and the secret of the codes of ops."""
    _, out, err = _moatbench(folder, ["keys", "init", "--state", "served", "ann"])
    ann, admin = _key(out + err), _secret(out + err)
    code = one_time_code(admin, time.time())
    words = ["keys", "add", "--state", "served", "--role", "metrics", "--code", code, "ops"]
    _, out, err = _moatbench(folder, words)
    return {"ANN": ann, "OPS": _key(out + err), "TOTP": _secret(out + err)}


def _key(text: str) -> str:
    return _found(r"\bmb_[\w-]+", text)


def _secret(text: str) -> str:
    return _found(r"(?<=secret=)[A-Z2-7]+", text)


def _found(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    if found is None:
        raise RuntimeError(
            "moatbench keys did not show what it was to: " + re.sub(r"mb_\S+", "mb_…", text)[-500:]
        )
    return found[0]


@contextmanager
def _guard(folder: Path, command: str, port: int) -> Iterator[None]:
    """Run the guard until the block ends."""
    words = [sys.executable, "-m", "bench", *command.split()]
    with (folder / "guard.log").open("wb") as log:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(words, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        end = time.monotonic() + STARTING
        while not _ready(port):
            if time.monotonic() > end or process.poll() is not None:
                raise RuntimeError((folder / "guard.log").read_text(encoding="utf-8")[-2000:])
            time.sleep(0.5)
        yield
    finally:
        process.terminate()
        process.wait(60)


def _ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _probed(folder: Path, name: str, keys: Mapping[str, str]) -> str:
    """Return what the probes of a target printed, and how they ended."""
    words = PROBES.format(name=name)
    code, out, err = _moatbench(folder, words.split(), keys)
    first = err.strip().splitlines()[0] if err.strip() else ""
    text = f"$ moatbench {words}\n{first}\n{out.strip()}\n# exit code {code}"
    return re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:PORT", text)


def _document(folder: Path, name: str) -> Mapping[str, dict[str, str]]:
    """Return the results of a run: of probes by name, of controls by title."""
    document = json.loads((folder / "results" / name / "controls.json").read_text(encoding="utf-8"))
    probes = {each["name"]: each["result"] for each in document["probes"]}
    controls = {f"{each['id']} {each['title']}": each["result"] for each in document["owasp_ml05_2023"]}
    return {"probe": probes, "control of OWASP ML05:2023": controls}


def _differences(bare: Mapping[str, dict[str, str]], guarded: Mapping[str, dict[str, str]]) -> str:
    tables = []
    for kind, results in bare.items():
        lines = [f"| {kind} | MLServer | behind the guard |", "| --- | --- | --- |"]
        lines += [
            f"| {name} | {result} | {guarded[kind][name]} |"
            for name, result in results.items()
            if result != guarded[kind][name]
        ]
        same = [name for name, result in results.items() if result == guarded[kind][name]]
        tables.append("\n".join(lines) + f"\n\nThe same for both: {', '.join(same)}.\n")
    return "\n".join(tables)


def _quoted(command: str) -> str:
    return re.sub(r"(\S*\(\S*\))", r"'\1'", command)


def _shown(text: str, language: str) -> str:
    return f"```{language}\n{text.strip()}\n```\n"


if __name__ == "__main__":
    main()
