import os
import subprocess
import sys
from pathlib import Path

import pytest
from records import META, fake_run

import bench
from bench.cli import main
from bench.records import PlannedTask
from bench.store import Store

TINY = """
repeats = 2
reference_budget = { digits = 20 }
[[block]]
defense = ["none", "label_only"]
attack = ["copycat(use_probability=true)", "own_labels"]
surrogate = "logistic"
budget = [20, 40]
"""


@pytest.fixture
def moatbench(monkeypatch, capsys, tmp_path, fresh_workers):
    """Run the command in this process, in an empty folder; return exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    assert fresh_workers is None

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["moatbench", *map(str, words)])
        code = 0
        try:
            main.main()
        except SystemExit as stop:
            code = stop.code or 0
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def test_a_run_leaves_a_report_and_a_store_that_makes_the_same_report(moatbench, matrix_file, tmp_path):
    code, out, err = moatbench("run", matrix_file(TINY), "--jobs", "1")
    assert code == 0, err
    assert "ok" in out
    report = tmp_path / "results/tiny/report.md"
    assert out.splitlines()[-1] == "results/tiny/report.md"
    text = report.read_text()
    assert "label_only" in text
    again = tmp_path / "again"
    code, out, _ = moatbench("report", tmp_path / "results/tiny/store.sqlite", "--out", again)
    assert code == 0
    assert (again / "report.md").read_text() == text


def test_a_second_run_finds_nothing_left(moatbench, matrix_file):
    moatbench("run", matrix_file(TINY), "--jobs", "1")
    code, _, err = moatbench("run", matrix_file(TINY), "--jobs", "1")
    assert code == 0
    assert "nothing left to run" in err


def test_only_and_repeats_run_a_part(moatbench, matrix_file, tmp_path):
    part = ("--only", "defense=none", "--only", "budget=20", "--repeats", 1, "--jobs", 1)
    code, *_ = moatbench("run", matrix_file(TINY), *part)
    assert code == 0
    with Store(tmp_path / "results/tiny/store.sqlite") as store:
        assert [(r.kind, r.spec["defense"]) for r in store.records()] == [("audit", []), ("cell", [])]


def test_failed_cells_end_in_exit_code_3(moatbench, matrix_file, tmp_path, caplog):
    (tmp_path / "mine.py").write_text(
        "from moatbench import Extraction\n"
        "class Breaks(Extraction):\n"
        "    name = 'breaks'\n"
        "    def acquire(self, api, pool, learner, streams):\n"
        "        raise RuntimeError('no luck')\n"
    )
    text = TINY.replace("repeats = 2", 'repeats = 1\nplugins = ["mine.py"]')
    text = text.replace('"own_labels"', '"breaks"')
    code, out, _ = moatbench("run", matrix_file(text), "--jobs", "1")
    assert code == 3
    assert "4 failed" in out
    assert "no luck" in caplog.text
    assert "**This run is not complete**" in (tmp_path / "results/tiny/report.md").read_text()
    assert "no luck" in (tmp_path / "results/tiny/provenance.md").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "digit"], "unknown matrix 'digit', and no path of a .toml file; did you mean 'digits'"),
        (["run", "smoke", "--only", "budget=7"], "nothing in this matrix has it"),
        (["run", "smoke", "--victim", "nothing.py:make"], "no Python file"),
        (["run", "smoke", "--victim", "nowhere.to:make"], "no module 'nowhere'"),
        (["report", "nothing.sqlite", "--out", "x"], "no store at nothing.sqlite"),
        (["data", "fetch", "mnits"], "unknown data set 'mnits'; did you mean 'mnist'"),
    ],
)
def test_a_wrong_word_is_one_sentence_and_exit_code_2(moatbench, words, message):
    code, out, err = moatbench(*words)
    assert code == 2
    assert not out
    complaint = [line for line in err.splitlines() if line.startswith("moatbench: ")]
    assert len(complaint) == 1
    assert message in complaint[0]


@pytest.mark.parametrize("words", [["run"], ["list", "attack"], ["run", "smoke", "--jobs", "-1"], ["walk"]])
def test_a_wrong_command_is_exit_code_2(moatbench, words):
    assert moatbench(*words)[0] == 2


def test_a_store_that_is_not_ours_is_left_alone(moatbench, matrix_file, tmp_path):
    notes = tmp_path / "notes.txt"
    notes.write_text("mine")
    code, _, err = moatbench("run", matrix_file(TINY), "--store", notes)
    assert code == 2
    assert "not a moatbench store" in err
    assert notes.read_text() == "mine"


def test_a_run_whose_data_is_missing_names_the_command_and_runs_nothing(moatbench, matrix_file, tmp_path):
    text = TINY.replace('surrogate = "logistic"', 'pool = "kmnist"')
    code, _, err = moatbench("run", matrix_file(text), "--data-root", tmp_path / "empty")
    assert code == 2
    assert f"moatbench data fetch kmnist --data-root {tmp_path / 'empty'}" in err


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        ("attacks", "knockoff"),
        ("defenses", "mahalanobis"),
        ("victims", "resnet18"),
        ("datasets", "fashion-mnist"),
        ("matrices", "smoke"),
    ],
)
def test_list_shows_what_a_matrix_can_name(moatbench, kind, word):
    code, out, _ = moatbench("list", kind)
    assert code == 0
    assert word in out


def test_data_list_shows_what_is_here(moatbench, tmp_path):
    code, out, _ = moatbench("data", "list", "--data-root", tmp_path)
    assert code == 0
    assert str(tmp_path) in out
    assert "1797" in out.replace(",", "")


@pytest.mark.slow
def test_a_victim_of_the_users_own_runs_through_any_matrix(moatbench, matrix_file, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n"
        "from moatbench import Labelled, Splits\n"
        "def make():\n"
        "    rng = np.random.default_rng(0)\n"
        "    def part(n):\n"
        "        x = rng.random((n, 1, 8, 8), dtype=np.float32)\n"
        "        return Labelled(x, (x.mean(axis=(1, 2, 3)) > 0.5).astype(np.int64))\n"
        "    def predict(x):\n"
        "        p = 1 / (1 + np.exp(-60 * (x.mean(axis=(1, 2, 3)) - 0.5)))\n"
        "        return np.stack([1 - p, p], axis=1)\n"
        "    return predict, Splits(part(300), part(200), part(100), part(300), classes=2)\n"
    )
    code, _, err = moatbench("run", matrix_file(TINY), "--victim", "mine.py:make", "--jobs", "2")
    assert code == 0, err
    assert "mine.py:make" in (tmp_path / "results/tiny/report.md").read_text()


def test_version_is_printed(moatbench):
    assert moatbench("--version") == (0, f"moatbench {bench.__version__}\n", "")


def test_help_imports_nothing_heavy():
    heavy = ("art", "torch", "sklearn", "numpy", "pandas", "matplotlib", "scipy")
    code = (
        "import sys; sys.argv = ['moatbench', '--help']\n"
        "from bench.cli.main import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        f"print('heavy:', [name for name in {heavy} if name in sys.modules])"
    )
    env = os.environ | {"PYTHONPATH": str(Path(main.__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert done.stdout.endswith("heavy: []\n")


def test_commands_that_read_results_load_neither_torch_nor_art(tmp_path):
    commands = [
        "report store.sqlite --out report",
        "show store.sqlite",
        "export store.sqlite results.csv",
        "compare store.sqlite store.sqlite --out changes.md",
        "baseline store.sqlite --out baseline.json",
        "gate store.sqlite store.sqlite",
        "claims store.sqlite --out reports",
        "index reports",
    ]
    records = [record for record in fake_run() if record.status == "ok"]
    with Store(tmp_path / "store.sqlite", create=True) as store:
        store.set_meta(META)
        store.set_plan(PlannedTask(each.key, each.task) for each in records)
        for record in records:
            store.put(record)
    (tmp_path / "reports/one").mkdir(parents=True)
    (tmp_path / "reports/one/report.md").write_text("# One\n")
    code = (
        "import sys\n"
        "from bench.cli.main import main\n"
        f"for words in {commands}:\n"
        "    sys.argv = ['moatbench', *words.split()]\n"
        "    try: main()\n"
        "    except SystemExit as stop: assert not stop.code, (words, stop.code)\n"
        "    heavy = [name for name in ('torch', 'torchvision', 'art') if name in sys.modules]\n"
        "    assert not heavy, (words, heavy)\n"
        "print('all', sys.argv)"
    )
    env = os.environ | {"PYTHONPATH": str(Path(main.__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("all ['moatbench', 'index', 'reports']\n")


def test_the_module_is_the_command():
    env = os.environ | {"PYTHONPATH": str(Path(main.__file__).parents[2])}
    words = [sys.executable, "-m", "bench", "--version"]
    done = subprocess.run(words, capture_output=True, text=True, env=env, check=True)
    assert done.stdout == f"moatbench {bench.__version__}\n"


def test_a_plugin_without_a_word_is_listed_all_the_same(tmp_path):
    from bench.cli import listing
    from bench.plugins import Registry

    (tmp_path / "silent.py").write_text(
        "from moatbench import Extraction\nclass Silent(Extraction):\n    name = 'silent'\n"
        "    def acquire(self, api, pool, surrogates, seeds): ...\n"
    )
    registry = Registry("attack", "attacks", "attacks.base:Attack")
    registry.add_file(tmp_path / "silent.py")
    assert "silent" in listing._plugins(registry)
