"""``moatbench watermark``: from answers of a defended victim to a verdict on a model."""

import json
import sqlite3
from contextlib import closing

import numpy as np
import pytest
from in_process import moatbench

from bench.errors import UsageError
from bench.models.defended_api import DefendedAPI
from bench.models.watermarks import marks_given, use_key
from bench.plugins import defenses
from bench.serve.watermark import read_trigger_set, remember
from defenses.base import DefenseStack

NAMES = [str(number) for number in range(10)]
SUSPECT = """
import json
from pathlib import Path
import numpy as np

TRIGGERS = json.loads(Path({file!r}).read_text())["triggers"]

def labels(x, name, share):
    known = {{np.float32(t["input"]).tobytes(): t for t in TRIGGERS[: int(share * len(TRIGGERS))]}}
    found = [known.get(row.tobytes()) for row in np.float32(x)]
    return np.array([0 if t is None else int(t[name]) for t in found])

def learned(x):
    return np.eye(10)[labels(x, "label", 0.6)]

def honest(x):
    return np.eye(10)[labels(x, "victim_label", 1.0)]

def broken(x):
    raise RuntimeError("no")
"""


@pytest.fixture
def marked(context, digits_spec, tmp_path):
    """The state of a server that answered a client, and a file with suspects."""
    victim = context.victim(digits_spec)
    stack = context.stack(digits_spec, ("dawn(rate=0.2)",), 0)
    x = victim.splits.pool.x[:150]
    given = DefendedAPI(victim, stack, budget=150, seed=0).predict(x)
    marks = marks_given(victim, stack, x, given)
    with closing(sqlite3.connect(tmp_path / "state.sqlite")) as connection:
        remember(connection, "mallory", marks, classes=NAMES)
        connection.commit()
    (tmp_path / "suspect.py").write_text(SUSPECT.format(file=str(tmp_path / "t.json")))
    return marks


def test_from_a_server_s_state_to_a_verdict(marked, tmp_path):
    code, out = moatbench(tmp_path, "watermark", "export", "mallory", "--state", ".", "--out", "t.json")
    assert code == 0
    exported = read_trigger_set(tmp_path / "t.json")
    assert f"{len(exported.triggers)} watermarked answers of mallory" in out
    assert 10 < len(exported.triggers) <= len(marked)
    words = ("--against", "t.json")
    code, out = moatbench(tmp_path, "watermark", "verify", "suspect.py:learned", *words)
    assert code == 0
    assert "recognised at alpha = 0.001: the model learned wrong answers that mallory was given; other" in out
    code, out = moatbench(
        tmp_path,
        "watermark",
        "verify",
        "suspect.py:honest",
        "--against",
        "t.json",
        "--independent",
        "suspect.py:honest",
    )
    assert code == 0
    assert "not recognised at alpha = 0.001" in out
    assert "of 1 independent models, 0 would be recognised" in out


def test_answers_that_another_client_got_too_can_be_left_out(marked, tmp_path):
    with closing(sqlite3.connect(tmp_path / "state.sqlite")) as connection:
        remember(connection, "ann", marked[:3], classes=NAMES)
        connection.commit()
    words = ("--state", ".", "--out", "t.json")
    numbers = []
    for more in ((), ("--alone",)):
        assert moatbench(tmp_path, "watermark", "export", "mallory", *words, *more)[0] == 0
        numbers.append(len(read_trigger_set(tmp_path / "t.json").triggers))
    assert numbers[0] - numbers[1] == 3
    code, out = moatbench(tmp_path, "watermark", "export", "ann", *words, "--alone")
    assert code == 2
    assert "that no other account got" in out


def few(folder, number, classes=3):
    names = [str(number) for number in range(classes)]
    rows = [{"input": [float(n), 1.0], "label": "0", "victim_label": "1"} for n in range(number)]
    (folder / "few.json").write_text(json.dumps({"client": "c", "classes": names, "triggers": rows}))
    (folder / "zero.py").write_text(
        "import numpy as np\ndef zero(x):\n    return np.eye(3)[[0] * len(x)]\n"
        "def two(x):\n    return np.eye(2)[[0] * len(x)]\ndef one(x):\n    return np.eye(2)[[1] * len(x)]\n"
        "def broken(x):\n    raise RuntimeError('no')\n"
    )


@pytest.mark.parametrize(
    ("number", "classes", "words", "named"),
    [
        (2, 3, ["zero.py:zero"], "2 wrong answers are too few"),
        (2, 3, ["zero.py:zero"], "are needed"),
        (60, 2, ["zero.py:two"], "--independent"),
        (60, 2, ["zero.py:two", "--independent", "zero.py:two"], "no number is enough"),
        (60, 3, ["zero.py:broken"], "fails on the inputs of the triggers"),
        (60, 3, ["zero.pkl"], "never loaded"),
        (60, 3, ["zero.py:zero", "--against", "none.json"], "cannot read"),
    ],
)
def test_what_cannot_be_tested_is_a_usage_error(number, classes, words, named, tmp_path):
    few(tmp_path, number, classes)
    code, out = moatbench(tmp_path, "watermark", "verify", "--against", "few.json", *words)
    assert code == 2
    assert named in out


def test_two_classes_are_judged_against_independent_models(tmp_path):
    few(tmp_path, 60, 2)
    words = ("--against", "few.json", "--independent", "zero.py:one")
    code, out = moatbench(tmp_path, "watermark", "verify", "zero.py:two", *words)
    assert code == 0
    assert "\nrecognised at" in out


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("nobody", "--state", "."), "was given no watermarked answer"),
        (("mallory", "--state", "nowhere"), "no state of a server"),
    ],
)
@pytest.mark.usefixtures("marked")
def test_an_export_without_anything_writes_nothing(words, named, tmp_path):
    code, out = moatbench(tmp_path, "watermark", "export", *words, "--out", "t.json")
    assert code == 2
    assert named in out
    assert not (tmp_path / "t.json").exists()


def test_a_secret_key_needs_a_watermark_and_some_length(context, digits_spec):
    stack = context.stack(digits_spec, ("rounded",), 0)
    with pytest.raises(UsageError, match="no defense is a watermark"):
        use_key(stack, b"k" * 32)
    dawn = DefenseStack((defenses.build("dawn"),))
    with pytest.raises(UsageError, match="at least 16"):
        use_key(dawn, b"short")


def test_what_a_later_defense_hides_is_no_mark(context, digits_spec):
    victim = context.victim(digits_spec)
    stack = context.stack(digits_spec, ("dawn(rate=0.5)",), 0)
    x = victim.splits.pool.x[:40]
    given = DefendedAPI(victim, stack, budget=40, seed=0).predict(x)
    marks = marks_given(victim, stack, x, given)
    assert marks
    given[marks[0].row] = np.nan
    given[marks[1].row] = 0.1
    assert marks_given(victim, stack, x, given) == marks[2:]
    assert marks_given(victim, DefenseStack(()), x, given) == ()
