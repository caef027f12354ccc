import shutil
import sqlite3

import pytest
from in_process import moatbench

from bench.analysis.findings import Findings
from bench.analysis.recommendation import Selected
from bench.cli import confirmation, provenance
from bench.cli.confirmation import confirmation_cells, most_cells
from bench.cli.session import Session
from bench.plan.matrix import load_matrix
from bench.seeds import derive
from bench.store import Store
from bench.tasks import Cell

TINY = """
repeats = 2
reference_budget = { digits = 20 }
[report]
confirm = 3
[[block]]
defense = ["none", "label_only", "rounded(decimals=1)", "top_k(k=3)"]
attack = ["copycat(use_probability=true)", "copycat(use_probability=false)", "own_labels"]
surrogate = "logistic"
budget = [20, 40]
[[block]]
defense = ["none", "rounded(decimals=1)"]
attack = "recover"
knowledge = "full"
surrogate = "logistic"
budget = 20
"""
ROUNDED = ("rounded(decimals=1)",)
TOP_3 = ("top_k(k=3)",)
TOLD = "recover"


def choose(patch, *defenses):
    """Let every run select these stacks, under the threat model with knowledge at budget 20."""

    def selected(findings, options):
        assert options.confirm == 3
        threat = max(findings.threats, key=lambda each: each.knowledge == "full")
        return [Selected(threat, 20, defenses)]

    patch.setattr(confirmation, "selected", selected)


@pytest.fixture(scope="module")
def first_run(tmp_path_factory):
    """Return a folder in which the matrix ran once and confirmed ``rounded``, and what it printed."""
    folder = tmp_path_factory.mktemp("first")
    (folder / "tiny.toml").write_text(f'name = "tiny"\n{TINY}')
    with pytest.MonkeyPatch.context() as patch:
        choose(patch, ROUNDED)
        code, text = moatbench(folder, "run", "tiny.toml", "--jobs", "1")
    assert code == 0, text
    return folder, text


@pytest.fixture
def finished(first_run, tmp_path):
    """Return a copy of that folder."""
    return shutil.copytree(first_run[0], tmp_path / "again")


def stored(folder):
    with Store(folder / "results/tiny/store.sqlite") as store:
        return store.records(), store.meta(), store.missing()


def test_the_time_of_a_run_is_that_of_both_its_parts(first_run):
    records, meta, _ = stored(first_run[0])
    assert meta.ran == len(records)
    # One process: what all cells took fits between its start and its end.
    assert sum(sum(record.costs.seconds.values()) for record in records) <= meta.finished - meta.started


def test_where_nothing_is_left_to_run_the_times_stay_those_of_the_run(finished, monkeypatch):
    choose(monkeypatch, ROUNDED)
    before = stored(finished)[1]
    assert moatbench(finished, "run", "tiny.toml", "--jobs", "1")[0] == 0
    after = stored(finished)[1]
    assert (after.started, after.finished, after.ran) == (before.started, before.finished, before.ran)


def test_where_nothing_is_left_to_run_the_results_stay_those_of_the_earlier_code(finished, monkeypatch):
    choose(monkeypatch, ROUNDED)
    with Store(finished / "results/tiny/store.sqlite") as store:
        before = store.meta()
    monkeypatch.setattr(provenance, "commit", lambda: {"commit": "later", "dirty": True})
    code, text = moatbench(finished, "run", "tiny.toml", "--jobs", "1", "--repeats", "2")
    assert code == 0, text
    with Store(finished / "results/tiny/store.sqlite") as store:
        assert store.meta().commit == before.commit
        assert store.meta().dirty == before.dirty
        assert store.meta().command == before.command
    code, text = moatbench(finished, "run", "tiny.toml", "--jobs", "1", "--fresh")
    assert code == 0, text
    with Store(finished / "results/tiny/store.sqlite") as store:
        assert (store.meta().commit, store.meta().dirty) == ("later", True)


def test_of_a_run_whose_confirmation_came_later_only_that_part_is_timed(finished, monkeypatch):
    choose(monkeypatch, ROUNDED, TOP_3)
    before = stored(finished)[1]
    assert moatbench(finished, "run", "tiny.toml", "--jobs", "1")[0] == 0
    records, after, _ = stored(finished)
    assert after.started >= before.finished
    assert 0 < after.ran < len(records)


def confirming(records):
    return [each for each in records if isinstance(each.task, Cell) and each.task.confirmation]


def test_a_run_repeats_what_it_selected_with_new_seeds_under_all_attacks_at_that_budget(first_run):
    records, meta, missing = stored(first_run[0])
    fresh = [record.cell for record in confirming(records)]
    assert not missing
    assert meta.report.confirm == 3
    assert {cell.defense for cell in fresh} == {(), ROUNDED}
    assert {(cell.attack, cell.threat.knowledge) for cell in fresh} == {
        ("copycat(use_probability=true)", "none"),
        ("copycat(use_probability=false)", "none"),
        (TOLD, "full"),
    }
    assert {cell.budget for cell in fresh} == {20}
    assert {(cell.repeat, cell.repeats) for cell in fresh} == {(0, 3), (1, 3), (2, 3)}
    assert {cell.seed for cell in fresh} == {derive(0, "confirmation")}
    assert len(fresh) == 2 * 3 * 3


def test_fresh_repeats_have_other_queries_and_other_surrogates(first_run):
    records, *_ = stored(first_run[0])
    fresh = {record.arrays["agreement"].tobytes() for record in confirming(records)}
    old = {r.arrays["agreement"].tobytes() for r in records if r.kind == "cell" and not r.cell.confirmation}
    assert len(fresh) > 3
    assert not fresh & old


def test_a_run_says_before_it_starts_how_many_cells_may_follow(first_run):
    matrix = load_matrix(str(first_run[0] / "tiny.toml"))
    most = most_cells(matrix, matrix.tasks(), 3)
    # No defense has 3 cells a repeat, rounded 3, the other two 2.
    assert most == 3 * (3 + 3 + 2 + 2)
    assert f"up to {most} more confirm what they suggest" in first_run[1]
    assert len(confirming(stored(first_run[0])[0])) <= most


def test_a_second_run_selects_the_same_and_runs_nothing(finished, monkeypatch):
    before, *_ = stored(finished)
    choose(monkeypatch, ROUNDED)
    code, text = moatbench(finished, "run", "tiny.toml", "--jobs", "1")
    assert code == 0
    assert " to run" not in text.replace("left to run", "")
    assert [each.comparable() for each in stored(finished)[0]] == [each.comparable() for each in before]


def test_a_confirmation_run_that_was_interrupted_goes_on(finished, monkeypatch):
    before, *_ = stored(finished)
    lost = [record.key for record in confirming(before)[::2]]
    with sqlite3.connect(finished / "results/tiny/store.sqlite") as db:
        db.executemany("delete from records where key = ?", [(key,) for key in lost])
    assert len(stored(finished)[2]) == len(lost)
    choose(monkeypatch, ROUNDED)
    code, text = moatbench(finished, "run", "tiny.toml", "--jobs", "1")
    assert code == 0
    assert f"{len(lost)} to run" in text
    assert [each.comparable() for each in stored(finished)[0]] == [each.comparable() for each in before]


def test_what_is_no_longer_selected_is_no_longer_part_of_the_run(finished, monkeypatch):
    choose(monkeypatch)
    code, _ = moatbench(finished, "run", "tiny.toml", "--jobs", "1")
    records, _, missing = stored(finished)
    assert code == 0
    assert not confirming(records)
    assert not missing


def test_nothing_is_confirmed_with_only_or_without_repeats(finished, monkeypatch, caplog):
    choose(monkeypatch, ROUNDED)
    caplog.set_level("INFO")
    code, _ = moatbench(finished, "run", "tiny.toml", "--jobs", "1", "--only", "budget=20")
    assert code == 0
    assert not confirming(stored(finished)[0])
    assert "with --only nothing is confirmed" in caplog.text
    text = (finished / "tiny.toml").read_text()
    (finished / "tiny.toml").write_text(text.replace("confirm = 3", "confirm = 0"))
    code, text = moatbench(finished, "run", "tiny.toml", "--jobs", "1")
    assert code == 0
    assert "confirm" not in text
    assert not confirming(stored(finished)[0])


def test_nothing_is_confirmed_before_all_other_cells_are_finished(finished, monkeypatch):
    records, *_ = stored(finished)
    choose(monkeypatch, ROUNDED)
    with Store(finished / "results/tiny/store.sqlite") as store:
        matrix = load_matrix(str(finished / "tiny.toml"))
        session = Session(matrix, matrix.tasks(), store.path, finished, None)
        assert session.confirmation(store)
        monkeypatch.setattr(store, "missing", lambda: records[:1])
        assert not session.confirmation(store)


def test_label_only_is_confirmed_too_where_its_results_carry_over(first_run, monkeypatch):
    records, meta, _ = stored(first_run[0])
    old = [record for record in records if record not in confirming(records)]
    tasks = [record.task for record in old]
    for defense, label_only in ((TOP_3, True), (ROUNDED, False)):
        choose(monkeypatch, defense)
        assert Findings.of_run(old, meta).evaluations["digits/mlp", defense].info.claims.ties != label_only
        _, cells = confirmation_cells(tasks, old, meta, 0)
        assert (("label_only",) in {cell.defense for cell in cells}) == label_only
        assert defense in {cell.defense for cell in cells}


def test_the_regression_gate_compares_runs_that_confirmed_other_defenses(finished, monkeypatch):
    code, text = moatbench(finished, "baseline", "results/tiny/store.sqlite", "--out", "baseline.json")
    assert code == 0, text
    assert "confirmation" not in (finished / "baseline.json").read_text()
    choose(monkeypatch)
    moatbench(finished, "run", "tiny.toml", "--jobs", "1")
    code, text = moatbench(finished, "gate", "baseline.json", "results/tiny/store.sqlite")
    assert code == 0, text
