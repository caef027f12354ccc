"""Tables of every kind through ``check``, and every option of the data through ``check`` and ``assess``."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from in_process import moatbench

from bench.cli import checking
from bench.cli.assessing import Request, start
from bench.errors import UsageError
from bench.models.victim_options import VictimOptions

MODEL = """
import numpy as np
import pandas as pd


def parity(table: pd.DataFrame):
    return pd.util.hash_pandas_object(table, index=False).to_numpy() % 2


def risk(customers: pd.DataFrame):
    points = customers.age / 10 + customers.smoker * 3 + (customers.town == "Mons") - customers.years / 20
    p = 1 / (1 + np.exp(6 - points))
    return np.stack([1 - p, p], axis=1)


def channels(images):
    assert images.shape[1:] == (6, 6, 3)
    return 1 / (1 + np.exp(-(np.asarray(images, dtype=float).mean(axis=(1, 2, 3)) - 127) / 8))
"""


def column(kind, rng, rows):
    """Return a column of a table as a user's file may have it."""
    made = {
        "integer": lambda: rng.integers(-5, 1_000, rows),
        "large": lambda: rng.integers(2**30, 2**40, rows),
        "number": lambda: rng.normal(size=rows) * 10.0 ** rng.integers(-8, 8),
        "boolean": lambda: rng.random(rows) < 0.3,
        "text": lambda: rng.choice(["a", "b c", "é", '"', "1", ","], rows),
        "name": lambda: np.array([f"person {number}" for number in range(rows)]),
        "constant": lambda: np.full(rows, 7),
        "empty": lambda: np.full(rows, np.nan),
        "infinite": lambda: np.where(rng.random(rows) < 0.05, np.inf, 1.0),
        "mixed": lambda: np.where(rng.random(rows) < 0.05, "unknown", rng.integers(0, 9, rows).astype(str)),
        "date": lambda: np.array([f"2024-01-{1 + number % 28:02}" for number in range(rows)]),
    }[kind]()
    return pd.Series(made)


KINDS = (
    "integer",
    "large",
    "number",
    "boolean",
    "text",
    "name",
    "constant",
    "empty",
    "infinite",
    "mixed",
    "date",
)


@settings(max_examples=25, deadline=None)
@given(
    kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=5),
    rows=st.integers(1, 260),
    gaps=st.floats(0, 0.5),
    label=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_any_table_is_looked_at_or_refused_in_one_sentence(tmp_path_factory, kinds, rows, gaps, label, seed):
    folder = tmp_path_factory.mktemp("table")
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({f"c{place}": column(kind, rng, rows) for place, kind in enumerate(kinds)})
    table = table.mask(rng.random(table.shape) < gaps)
    table["y"] = rng.integers(0, 2, rows)
    (folder / "m.py").write_text(MODEL)
    table.to_csv(folder / "t.csv", index=False)
    options = VictimOptions(
        model=f"{folder}/m.py:parity", data=f"{folder}/t.csv", label="y" if label else None
    )
    page = refused = ""
    try:
        page, _ = checking.checked(options)
    except UsageError as error:
        refused = str(error)
    assert "splits: train" in page if page else 0 < len(refused) < 500
    assert "\n" not in refused
    assert sorted(each.name for each in folder.iterdir() if each.suffix) == ["m.py", "t.csv"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return a folder with a package that holds a model, and three files of customers."""
    rng = np.random.default_rng(0)

    def customers(number):
        return pd.DataFrame(
            {
                "age": rng.integers(18, 90, number),
                "smoker": rng.random(number) < 0.3,
                "years": rng.normal(9, 3, number).round(2),
                "town": rng.choice(["Ghent", "Mons", "Liège"], number),
            }
        )

    package = tmp_path / "insurer_models"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "risks.py").write_text(MODEL)
    for name, number in (("customers", 1_500), ("attacker", 300), ("everyone", 200)):
        customers(number).to_csv(tmp_path / f"{name}.csv", index=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


WORDS = (
    *("insurer_models.risks:risk", "--data", "customers.csv", "--pool", "attacker.csv"),
    *("--public", "everyone.csv", "--shift", "town=Mons", "--group", "smoker"),
)


def test_check_takes_every_option_of_the_data(folder):
    code, text = moatbench(folder, "check", *WORDS)
    assert code == 0, text
    assert "rows with town = 'Mons' are held out as the pool 'shifted'" in text
    assert "splits: train" in text
    assert "pool 300" in text


def test_check_takes_axes_and_range_as_they_are_declared(folder):
    x = np.random.default_rng(0).integers(0, 250, (300, 6, 6, 3)).astype(np.float32)
    np.savez(folder / "d.npz", x=x + np.arange(300)[:, None, None, None] / 60)
    words = ("check", "insurer_models/risks.py:channels", "--data", "d.npz", "--channels", "last")
    code, text = moatbench(folder, *words, "--range", "0,255")
    assert code == 0, text
    assert "images 3 × 6 × 6 (channels, height, width)" in text
    assert "pixels from 0 to 255" in text
    for wrong, message in (
        ("0", "write LOW,HIGH as in 0,255"),
        ("9,1", "--range"),
        ("0,100", "not within the range"),
    ):
        code, text = moatbench(folder, *words, "--range", wrong)
        assert code == 2
        assert message in text


@pytest.mark.slow
@pytest.mark.long
def test_an_assessment_that_is_stopped_goes_on_and_uses_every_pool(folder):
    options = VictimOptions(
        model="insurer_models.risks:risk",
        data="customers.csv",
        pool="attacker.csv",
        public="everyone.csv",
        shift={"town": "Mons"},
        groups=("smoker",),
    )
    request = Request(options, "risk", minutes=120, budgets=(30,))

    def stopping(records, *_, **__):
        for number, record in enumerate(records):
            yield record
            if number == 3:
                raise KeyboardInterrupt

    def running(records, *_, **__):
        return records

    with pytest.raises(KeyboardInterrupt):
        start(request, out=None, jobs=1, say=lambda _: None).run("moatbench assess", stopping)
    matrix = (folder / "results/risk/matrix.toml").read_text()
    said = io.StringIO()
    assessment = start(request, out=None, jobs=1, say=lambda line: print(line, file=said))
    counts, _ = assessment.run("moatbench assess", running)
    assert "going on with" in said.getvalue()
    assert (folder / "results/risk/matrix.toml").read_text() == matrix
    assert counts["failed"] == 0
    for name in ("public", "shifted", "marginals"):
        assert f'"{name}"' in matrix
    report = (folder / "results/risk/report.md").read_text()
    assert "held out as the pool 'shifted'" in report
    assert "smoker" in (folder / "results/risk/utility.md").read_text()
