"""``moatbench run --plan`` prints cells and time, and runs nothing."""

import pytest
from in_process import moatbench

from bench.store import Store

TINY = """
name = "tiny"
repeats = 2
[report]
confirm = 0
[[block]]
defense = ["none", "label_only"]
attack = ["copycat(use_probability=true)", "own_labels"]
surrogate = "logistic"
budget = [20, 40]
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "tiny.toml").write_text(TINY)
    return tmp_path


def test_nothing_is_run_and_nothing_written(folder):
    code, text = moatbench(folder, "run", "tiny.toml", "--plan")
    assert code == 0
    assert "10 cells and 2 defense evaluations, 0 of them stored" in text
    assert "unknown until the first cells have run" in text
    assert [path.name for path in folder.iterdir()] == ["tiny.toml"]


def test_the_time_comes_from_what_finished_cells_took(folder):
    assert moatbench(folder, "run", "tiny.toml", "--jobs", "1")[0] == 0
    _, done = moatbench(folder, "run", "tiny.toml", "--plan")
    assert "nothing is left to run" in done
    _, again = moatbench(folder, "run", "tiny.toml", "--plan", "--fresh", "--jobs", "2")
    assert "in 2 processes (from what finished cells took)" in again
    with Store(folder / "results/tiny/store.sqlite") as store:
        assert len(store.records()) == 12


def test_a_wrong_matrix_is_a_usage_error(folder):
    (folder / "tiny.toml").write_text(TINY.replace("label_only", "label_onyl"))
    assert moatbench(folder, "run", "tiny.toml", "--plan")[0] == 2
