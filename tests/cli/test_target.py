"""``moatbench target``: plan, purchase, report; what is refused, and what a stop leaves behind."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from in_process import moatbench
from made_target import MadeBuyer

from bench.cli import target_request
from bench.remote.target import load_target
from bench.run_facts import Meta
from bench.store import Store

ROOT = Path(__file__).parents[2]
FILE = """\
url = "http://127.0.0.1:{port}"
protocol = "oip"
model = "rings"
output = "p"
classes = ["in", "out"]
"""
ATTACK = ("--data", "rings.npz", "--label", "y", "--test", "60", "--surrogate", "sklearn-logistic")
RUN = ("target", "attack", "rings.toml", *ATTACK, "--budget", "20,40", "--repeats", "2", "--attack", "labels")


def model(x):
    """Answers (n, 2) to inputs (n, 4): whether their sum is large."""
    likely = 1 / (1 + np.exp(4 * (np.asarray(x, np.float64).reshape(len(x), -1).sum(axis=1) - 2)))
    return np.stack([likely, 1 - likely], axis=1)


def write_inputs(folder, port=1, more=""):
    rng = np.random.default_rng(0)
    x = rng.random((300, 4), dtype=np.float32)
    np.savez(folder / "rings.npz", x=x, y=np.array(["in", "out"])[model(x).argmax(axis=1)])
    (folder / "rings.toml").write_text(FILE.format(port=port) + more)
    return folder


@pytest.fixture
def folder(tmp_path):
    return write_inputs(tmp_path)


@pytest.fixture
def buyers(monkeypatch):
    """Sell answers of a local function; return the buyers that were started. They share one ledger a file."""
    started, ledgers = [], {}

    def start(file, ledger, **options):
        buyer = MadeBuyer(model, load_target(file), ledgers.setdefault(str(ledger), {}))
        buyer.options = options
        started.append(buyer)
        return buyer

    monkeypatch.setattr(target_request, "start_buyer", start)
    return started


def test_an_attack_says_its_price_first_and_ends_with_what_was_paid(folder, buyers):
    code, said = moatbench(folder, *RUN)
    assert code == 0, said
    assert (
        "up to 120 inputs: 60 for the evaluation, 20 to see whether the model changes, 40 for labels" in said
    )
    assert "100 inputs paid, 100 of them now: 0.15" in said
    assert "results/rings/report.md" in said
    assert buyers[0].closed
    assert buyers[0].finished


def test_a_second_run_and_all_that_reads_a_store_pay_nothing(folder, buyers):
    moatbench(folder, *RUN)
    code, said = moatbench(folder, *RUN)
    assert code == 0, said
    assert "nothing left to run" in said
    assert "100 inputs paid, 0 of them now" in said
    assert "100 inputs were paid before" in said
    assert not buyers[1].sold
    store = "results/rings/store.sqlite"
    for words in (
        ("report", store),
        ("show", store),
        ("export", store, "all.csv"),
        ("compare", store, store),
        ("baseline", store, "--out", "base.json"),
    ):
        code, said = moatbench(folder, *words)
        assert code == 0, said
    assert len(buyers) == 2
    with Store(folder / store) as opened:
        meta = opened.meta()
    assert meta.command.startswith("moatbench target attack rings.toml")
    assert meta.reference_budget == {"own:rings": 40}
    assert meta.report.price == 1.5


def test_more_budgets_buy_only_what_is_new(folder, buyers, caplog):
    moatbench(folder, *RUN)
    code, said = moatbench(folder, *["20,60" if word == "20,40" else word for word in RUN])
    assert code == 0, said
    assert len(buyers[1].sold) == 20
    assert "largest budget 40 -> 60" in caplog.text


@pytest.mark.parametrize(
    ("more", "words", "sentence"),
    [
        ("budget = 119\n", RUN, "the target file allows budget = 119"),
        ("money_cap = 0.1\n", RUN, "the target file allows money_cap = 0.1"),
        ("", (*RUN, "--buy-repeats", "3"), "--buy-repeats 3: [1, 2] is allowed"),
        ("", (*RUN, "--attack", "copycut"), "did you mean 'copycat'?"),
        ("", (*RUN, "--budget", "0"), "--budget '0'"),
        ("", (*RUN, "--test", "400"), "--test 400: rings.npz has 300 different rows"),
        ("", (*RUN, "--label", "z"), "rings.npz"),
        ("", (*RUN, "--surrogate", "boosting"), "did you mean 'sklearn-boosting'"),
        ("", (*RUN, "--surrogate", "cnn"), "surrogate = 'cnn': it needs images"),
        ("", ("target", "check", "rings.toml", "--budget", "20"), "name them by --data FILE"),
        ("", ("target", "check", "rings.toml", *ATTACK[:2], "--budget", "20"), "belong together"),
        ("", ("target", "check", "none.toml"), "none.toml"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_sentence_before_anything_is_sent(
    folder, buyers, more, words, sentence
):
    write_inputs(folder, more=more)
    code, said = moatbench(folder, *words)
    assert code == 2, said
    assert sentence in said
    assert "Traceback" not in said
    assert not any(buyer.asked for buyer in buyers)
    assert not list(folder.glob("results/**/*.sqlite"))


def test_a_look_books_at_most_50_inputs_and_an_attack_does_not_pay_them_again(folder, buyers):
    words = ("target", "check", "rings.toml", *ATTACK[:6], "--budget", "200", "--attack", "labels")
    code, said = moatbench(folder, *words)
    assert code == 0, said
    assert 0 < len(buyers[0].sold) <= 50
    assert buyers[0].options["run_limit"] == 50
    assert "the planned attack: up to 280 inputs" in said
    write_inputs(folder, more="budget = 300\n")
    _, said = moatbench(folder, *["200" if word == "20,40" else word for word in RUN])
    assert len(buyers[1].sold) < 260
    assert "42 inputs were paid for other purposes: budget = 300 may not be enough" in said


def test_a_look_loads_neither_torch_nor_art():
    code = "import sys, bench.cli.target_check; sys.exit(bool({'torch', 'art'} & set(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


@pytest.mark.usefixtures("buyers")
def test_a_target_that_always_answers_the_same_is_not_worth_an_attack(folder, monkeypatch):
    start = target_request.start_buyer

    def constant(*words, **options):
        buyer = start(*words, **options)
        buyer.model = lambda x: np.tile([0.25, 0.75], (len(x), 1))
        return buyer

    monkeypatch.setattr(target_request, "start_buyer", constant)
    code, said = moatbench(folder, "target", "check", "rings.toml", *ATTACK[:2])
    assert code == 2, said
    assert "not worth an attack: the target gives every one of these inputs the same answer" in said


KEY = "s3cret-of-the-target"


@pytest.mark.usefixtures("buyers")
def test_matrices_and_live_targets_share_no_store(folder):
    moatbench(folder, *RUN)
    block = 'data = "digits"\nvictim = "logistic"\ndefense = "none"\nattack = "labels"\nbudget = 20\n'
    (folder / "tiny.toml").write_text(f'name = "tiny"\n[[block]]\n{block}[report]\nconfirm = 0\n')
    code, said = moatbench(folder, "run", "tiny.toml", "--store", "results/rings/store.sqlite")
    assert code == 2, said
    assert "holds what moatbench target attack bought; name another store with --store" in said
    (folder / "results/other").mkdir()
    with Store(folder / "results/other/store.sqlite", create=True) as store:
        store.set_meta(Meta(matrix="other", matrix_text="name"))
    code, said = moatbench(folder, *RUN, "--out", "results/other")
    assert code == 2, said
    assert "holds the results of a matrix; name another folder with --out" in said


class Rings(BaseHTTPRequestHandler):
    """Answers OIP requests by ``model``; its server has ``sold``, the number of inputs that it answered."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Say nothing."""

    def do_GET(self):
        self._send({"name": "rings", "versions": ["1"], "inputs": [], "outputs": []})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers["Authorization"] != f"Bearer {KEY}":
            self._send({"error": f"not {KEY}"}, 401)
            return
        tensor = asked["inputs"][0]
        x = np.array(tensor["data"], dtype=np.float32).reshape(tensor["shape"])
        with self.server.lock:
            self.server.sold += len(x)
        answers = model(x)
        output = {"name": "p", "datatype": "FP64", "shape": list(answers.shape)}
        output["data"] = answers.ravel().tolist()
        found = {"model_name": "rings", "model_version": "1", "outputs": [output]}
        self._send(found | {"id": asked.get("id", "")})

    def _send(self, content, status=200):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Rings) as served:
        served.sold, served.lock = 0, threading.Lock()
        thread = threading.Thread(target=served.serve_forever, daemon=True)
        thread.start()
        yield served
        served.shutdown()
        thread.join()


def stopped_at(run, server, sold, number):
    """Start a run, stop it by signal ``number`` once ``sold`` inputs are answered; return code and text."""
    process = run()
    while server.sold < sold and process.poll() is None:
        threading.Event().wait(0.05)
    if number is signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does: the buying process gets it too
    else:
        process.kill()
    said, _ = process.communicate(timeout=120)
    return process.returncode, said


@pytest.mark.slow
def test_a_real_server_is_asked_within_the_caps_and_a_stop_pays_nothing_twice(server, tmp_path):
    port = server.server_address[1]
    # 20 inputs a second: slow enough to be stopped.
    limits = 'batch = 4\nbudget = 250\nmoney_cap = 1.0\nrate = "20/second"\n'
    account = '[[accounts]]\nname = "one"\nkey_env = "RINGS_KEY"\n'
    folder = write_inputs(tmp_path, port, limits + account)
    run = functools.partial(
        subprocess.Popen,
        [sys.executable, "-m", "bench", *["20,60" if word == "20,40" else word for word in RUN]],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "RINGS_KEY": KEY},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    code, said = stopped_at(run, server, 40, signal.SIGINT)
    assert code == 130, said
    assert "resume with: moatbench target attack rings.toml" in said
    code, killed = stopped_at(run, server, 90, signal.SIGKILL)
    assert code == -signal.SIGKILL, killed
    last = run()
    done, _ = last.communicate(timeout=300)
    assert last.returncode == 0, done
    with Store(folder / "results/rings/store.sqlite") as store:
        facts = store.meta().campaign
    answered = {name: each.paid - each.unknown for name, each in facts.purposes.items()}
    paid = sum(each.paid for each in facts.purposes.values())
    assert sum(answered.values()) <= server.sold <= paid <= 250
    assert (answered["test"], answered["labels"]) == (60, 60)
    written = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert KEY.encode() not in written + (said + killed + done).encode()
