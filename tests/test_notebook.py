"""The notebooks in examples/ hold no output and work: one on an export, one on a model in memory."""

from pathlib import Path

import matplotlib as mpl
import nbformat
import pytest
from records import AUDITS, DEFENSES, INSIDE, LABELS, SOFT, cell

from bench.report.export import export

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOK = EXAMPLES / "results.ipynb"


@pytest.fixture(scope="module")
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_is_valid_and_holds_no_output(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [each for each in notebook.cells if each.cell_type == "code"]
    assert code
    assert all(not each.outputs and each.execution_count is None for each in code)


def test_the_notebook_finds_the_best_attack_and_the_reduction_of_each_defense(
    notebook, tmp_path, monkeypatch
):
    cells = [
        cell(INSIDE, defense, attack, budget, repeat)
        for defense in DEFENSES
        for attack in (LABELS, SOFT)
        for budget in (50, 200)
        for repeat in range(2)
    ]
    export([*AUDITS, *cells], tmp_path / "results.parquet")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RESULTS", raising=False)
    names = {}
    with mpl.rc_context({"backend": "agg"}):
        import matplotlib.pyplot as plt

        for each in notebook.cells:
            if each.cell_type == "code":
                exec(each.source, names)  # noqa: S102  # our own notebook
        plt.close("all")
    best = names["best"].reset_index()
    assert len(best) == len(DEFENSES) * 2
    mean = {
        defense: max(
            sum(each.metrics["extraction.fidelity"] for each in cells if _is(each, defense, attack)) / 2
            for attack in (LABELS, SOFT)
        )
        for defense in DEFENSES
    }
    reduction = names["reduction"].query("budget == 200").set_index("defense").reduction
    for defense in DEFENSES[1:]:
        assert reduction[" + ".join(defense)] == pytest.approx(mean[()] - mean[defense])
    assert set(names["loss"].columns.get_level_values("metric")) == set(names["wanted"])


@pytest.mark.slow
@pytest.mark.long
def test_the_notebook_assesses_a_model_that_is_in_memory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINUTES", "120")
    names = {}
    for each in nbformat.read(EXAMPLES / "assess.ipynb", as_version=4).cells:
        if each.cell_type == "code":
            exec(each.source.replace("minutes=", "budgets=[30], minutes="), names)  # noqa: S102  # our own notebook
    assert names["result"].report.exists()
    assert names["result"].recommendation.startswith("diagnosis: ")
    assert (names["fidelity"].value <= 1).all()


def _is(record, defense, attack):
    return (record.cell.defense, record.cell.attack, record.cell.budget) == (defense, attack, 200)
