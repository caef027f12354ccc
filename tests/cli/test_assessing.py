"""``moatbench assess`` and ``check``: what is asked for, what is refused, and a whole assessment."""

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from in_process import moatbench

from bench.cli import assessing
from bench.cli.assessing import Request, relative, start
from bench.cli.model_options import assessed_name, parsed_budgets, victim_name, victim_options
from bench.errors import UsageError
from bench.inputs import InputSpace
from bench.models.victim_options import VictimOptions
from bench.plan.assessment import Subject, everything

MODEL = """
import pandas as pd


def tariff(customers: pd.DataFrame):
    points = customers.age / 10 + customers.smoker * 3
    return ["high" if each > 6 else "low" for each in points]


def constant(customers: pd.DataFrame):
    return ["low"] * len(customers)
"""


@pytest.fixture
def folder(tmp_path):
    """Return a folder with a model that answers labels, and its data."""
    (tmp_path / "mine.py").write_text(MODEL)
    rows = [f"{20 + number % 60},{number % 7 < 2!s},{number / 10}" for number in range(700)]
    (tmp_path / "customers.csv").write_text("age,smoker,years\n" + "\n".join(rows) + "\n")
    return tmp_path


def test_check_shows_the_columns_and_exits_with_0_where_nothing_stands_in_the_way(folder):
    code, text = moatbench(folder, "check", "mine.py:tariff", "--data", "customers.csv")
    assert code == 0, text
    assert re.search(r"smoker\s+boolean", text)
    assert "nothing stands in the way" in text
    assert not (folder / "results").exists()


def test_a_model_with_one_answer_is_a_fault_of_check_and_cannot_be_assessed(folder):
    words = ("mine.py:constant", "--data", "customers.csv")
    code, text = moatbench(folder, "check", *words)
    assert code == 2
    assert "would make an assessment worthless" in text
    code, text = moatbench(folder, "assess", *words)
    assert code == 2
    assert not (folder / "results").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mine.py:tariff", "--data", "none.csv"], "none.csv"),
        (["mine.py:tarif", "--data", "customers.csv"], "tarif"),
        (["mine.pkl", "--data", "customers.csv"], "never loaded"),
        (["mine.py:tariff", "--data", "customers.csv", "--label", "agee"], "age"),
        (["mine.py:tariff", "--data", "customers.csv", "--shift", "age"], "COLUMN=VALUE"),
    ],
)
def test_what_cannot_be_used_is_one_sentence_and_exit_code_2(folder, words, message):
    code, text = moatbench(folder, "check", *words)
    complaint = [line for line in text.splitlines() if line.startswith("moatbench: ")]
    assert code == 2
    assert len(complaint) == 1
    assert message in complaint[0]


def test_a_matrix_that_somebody_edited_is_not_replaced(folder):
    out = folder / "out"
    out.mkdir()
    (out / "matrix.toml").write_text('name = "mine"\n')
    code, text = moatbench(
        folder, "assess", "mine.py:tariff", "--data", "customers.csv", "--out", "out", "--jobs", "1"
    )
    assert code == 2
    assert "--out" in text
    assert (out / "matrix.toml").read_text() == 'name = "mine"\n'


def test_the_same_request_goes_on_with_its_matrix_and_another_makes_one_anew(tmp_path):
    options = VictimOptions(model="m.py:f", data="x.csv")
    request = Request(options, "f")
    text = 'name = "f"\n'
    (tmp_path / "matrix.toml").write_text(assessing._sealed(request, text))
    assert start(request, out=tmp_path, jobs=1)._earlier() == text
    assert start(Request(options, "f", minutes=20), out=tmp_path, jobs=1)._earlier() is None
    (tmp_path / "matrix.toml").write_text(assessing._sealed(request, text) + "# mine\n")
    with pytest.raises(UsageError, match="was edited"):
        start(request, out=tmp_path, jobs=1)._earlier()


def test_paths_become_relative_to_the_matrix_and_modules_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "results/mine"
    options = VictimOptions(model="a/m.py:f", data="x.csv", label="y", train=str(tmp_path / "t.csv"))
    moved = relative(options, folder)
    assert (moved.model, moved.data, moved.label, moved.train) == (
        "../../a/m.py:f",
        "../../x.csv",
        "y",
        "../../t.csv",
    )
    assert relative(options.model_copy(update={"model": "pkg.mod:f"}), folder).model == "pkg.mod:f"
    assert relative(options.model_copy(update={"model": "m.onnx"}), folder).model == "../../m.onnx"


@pytest.mark.parametrize(
    ("model", "name"),
    [("a/b.py:predict", "predict"), ("x/my model.onnx", "my-model"), ("p.q:f", "f"), ("--.skops", "model")],
)
def test_the_victim_is_named_for_its_function_or_its_file(model, name):
    assert victim_name(model) == name


@pytest.mark.parametrize(
    ("model", "name"),
    [("boosting.skops", "boosting-model"), ("a.py:digits", "digits-model"), ("m.onnx", "m")],
)
def test_an_assessment_has_no_name_of_a_shipped_victim_or_matrix(model, name):
    assert assessed_name(model) == name


def test_budgets_are_sorted_and_each_counts_once():
    assert parsed_budgets("500, 50,500") == (50, 500)
    assert parsed_budgets(None) == ()


@pytest.mark.parametrize("text", ["", "a", "0", "1,-2", "2.5", "9999999999"])
def test_a_budget_that_is_none_is_a_usage_error(text):
    with pytest.raises(UsageError, match="N,N"):
        parsed_budgets(text)


def test_options_of_the_command_line_become_those_of_a_victim():
    options = {"data": "x.csv", "label": None, "shift": ["country=US"], "group": ["sex"], "trust": None}
    found = victim_options("m.skops", options)
    assert (found.shift, tuple(found.groups), found.label) == ({"country": "US"}, ("sex",), None)
    with pytest.raises(UsageError, match="--threshold"):
        victim_options("m.skops", {"data": "x.csv", "threshold": 1.0})


@pytest.fixture
def table(tmp_path):
    """Return an assessment of a model of three numbers in 10 minutes, and what it says."""
    said = []
    request = Request(VictimOptions(model="m.skops", data="x.csv"), "m", minutes=10)
    found = start(request, out=tmp_path / "out", jobs=1, say=said.append)
    x = np.random.default_rng(0).random((400, 3), dtype=np.float32)
    found.victim = SimpleNamespace(
        splits=SimpleNamespace(pool=SimpleNamespace(x=x)),
        inputs=InputSpace((3,)),
        classes=2,
        probabilities=lambda x: np.column_stack([x[:, 0] > 0.5, x[:, 0] <= 0.5]).astype(float),
    )
    found.subject = Subject("m", "table", (3,), 2, pool=400, calibration=100)
    return found, said


def test_a_surrogate_that_trains_too_long_is_left_out_before_anything_is_measured(table, monkeypatch):
    found, said = table
    slow = {"mlp": 1.0, "sklearn-boosting": 121.0, "logistic": 119.0}
    monkeypatch.setattr(assessing, "seconds_of_trainings", lambda name, *_: slow[name])
    assert found._too_slow() == ("sklearn-boosting",)
    assert "surrogate sklearn-boosting left out for lack of time" in said[0]
    assert "--minutes 11" in said[0]
    left = replace(found.subject, left_out=found._too_slow())
    assert everything(left).others == ("logistic",)


def test_a_model_whose_every_surrogate_trains_too_long_is_refused_with_the_minutes(table, monkeypatch):
    found, _ = table
    monkeypatch.setattr(assessing, "seconds_of_trainings", lambda *_: 300.0)
    with pytest.raises(UsageError, match="--minutes 25 is needed"):
        found._too_slow()


@pytest.mark.parametrize(
    ("seconds", "surrogate"),
    [({"mlp": 60, "logistic": 60}, "mlp"), ({"mlp": 6000, "logistic": 60}, "logistic")],
)
def test_the_best_surrogate_that_fits_the_time_is_trained_and_a_better_one_is_named(
    table, monkeypatch, seconds, surrogate
):
    found, said = table
    monkeypatch.setattr(found, "_too_slow", tuple)
    monkeypatch.setattr(found, "_measured", lambda _: [])
    monkeypatch.setattr(found, "_by_fidelity", lambda *_: ["mlp", "logistic"])
    monkeypatch.setattr(found, "_seconds", lambda scope, *_: seconds[scope.surrogate])
    found.options = found.request.options
    text = found._fitting(None)
    assert f'surrogate = "{surrogate}"' in text.partition("[[block]]")[2].partition("[[block]]")[0]
    better = "mlp makes the most faithful surrogates, but needs --minutes 102: these attackers train logistic"
    assert any(better in each for each in said) is (better in text) is (surrogate == "logistic")


def test_where_no_surrogate_fits_the_least_minutes_are_named(table, monkeypatch):
    found, _ = table
    monkeypatch.setattr(found, "_too_slow", tuple)
    monkeypatch.setattr(found, "_measured", lambda _: [])
    monkeypatch.setattr(found, "_by_fidelity", lambda *_: ["mlp", "logistic"])
    monkeypatch.setattr(found, "_seconds", lambda scope, *_: {"mlp": 6000, "logistic": 900}[scope.surrogate])
    with pytest.raises(UsageError, match="--minutes 17 can"):
        found._fitting(None)


def test_the_time_of_trainings_is_measured_for_networks_and_models_of_scikit_learn(table):
    found, _ = table
    found.request = replace(found.request, minutes=1e6)
    assert found._too_slow() == ()


@pytest.mark.slow
def test_a_whole_assessment_writes_a_matrix_that_runs_again_and_a_report(folder):
    words = ("assess", "mine.py:tariff", "--data", "customers.csv", "--minutes", "60", "--budget", "30")
    code, text = moatbench(folder, *words)
    assert code == 0, text
    assert "this takes at most about" in text
    report = (folder / "results/tariff/report.md").read_text()
    assert "what the model was trained on" in report
    matrix = (folder / "results/tariff/matrix.toml").read_text()
    assert json.loads(matrix.partition("for: ")[2].partition("\n")[0])["budgets"] == [30]
    code, text = moatbench(folder, *words)
    assert code == 0
    assert "nothing left to run" in text
    code, text = moatbench(folder, "run", "results/tariff/matrix.toml")
    assert code == 0
    assert "nothing left to run" in text
