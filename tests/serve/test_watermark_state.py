"""What a server remembers of watermarked answers, and the file of them."""

import json
import sqlite3
from contextlib import closing
from dataclasses import replace

import pytest
from asgi_client import FakePredictor, exchange, served

from bench.errors import UsageError
from bench.serve.controls import Controls, Keys, Quota
from bench.serve.predictor import Mark
from bench.serve.state import State
from bench.serve.watermark import (
    TriggerSet,
    read_trigger_set,
    remember,
    trigger_set,
    watermark_key,
    write_trigger_set,
)

NAMES = ("a", "b", "c")


@pytest.fixture
def connection():
    with sqlite3.connect(":memory:") as opened:
        yield opened
    opened.close()


MARK = Mark(1, b"d1", 2, 0, [0.25, 0.0])


def test_marks_are_kept_by_account_with_input_and_both_labels(connection):
    remember(connection, "one", [MARK], classes=NAMES, time=3.0)
    remember(connection, "two", [Mark(0, b"d0", 1, 0, [0.5, 1.0])], classes=NAMES)
    (found,) = trigger_set(connection, "one").triggers
    assert (found.input, found.label, found.victim_label, found.time) == ([0.25, 0.0], "c", "a", 3.0)
    assert trigger_set(connection, "one").classes == list(NAMES)


def test_an_input_that_counts_as_one_before_is_kept_once(connection):
    for _ in range(3):
        remember(connection, "one", [MARK], classes=NAMES)
    assert len(trigger_set(connection, "one").triggers) == 1


def test_a_table_keeps_texts_and_gaps(connection):
    mark = Mark(0, b"d", 2, 0, ["x", None, 3.5])
    remember(connection, "one", [mark], classes=NAMES, columns=("p", "q", "r"))
    found = trigger_set(connection, "one")
    assert found.triggers[0].input == ["x", None, 3.5]
    assert found.columns == ["p", "q", "r"]


def test_an_answer_without_marks_writes_nothing(connection):
    remember(connection, "one", [], classes=NAMES)
    assert not connection.execute("SELECT * FROM sqlite_master").fetchall()
    with pytest.raises(UsageError, match="no watermarked answer"):
        trigger_set(connection, "one")


def test_a_file_comes_back_as_it_was(connection, tmp_path):
    remember(connection, "one", [MARK], classes=NAMES)
    found = trigger_set(connection, "one")
    write_trigger_set(tmp_path / "t.json", found)
    assert read_trigger_set(tmp_path / "t.json") == found
    assert (tmp_path / "t.json").stat().st_mode & 0o077 == 0


GOOD = {"client": "c", "classes": ["a", "b"], "triggers": [{"input": [1], "label": "a", "victim_label": "b"}]}


@pytest.mark.parametrize(
    "change",
    [
        {"more": 1},
        {"classes": ["a"]},
        {"classes": ["a", "a"]},
        {"classes": ["b", "c"]},
        {"moatbench_triggers": 2},
        {"triggers": [{"input": [1], "label": "a", "victim_label": "a"}]},
        {"triggers": [{"input": 1, "label": "a", "victim_label": "b"}]},
    ],
)
def test_a_file_that_is_none_is_refused_in_one_sentence(change, tmp_path):
    TriggerSet.model_validate_json(json.dumps(GOOD))
    (tmp_path / "t.json").write_text(json.dumps(GOOD | change))
    with pytest.raises(UsageError, match="is no file of moatbench watermark export") as caught:
        read_trigger_set(tmp_path / "t.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\x80\x04pickle", b"[]"])
def test_any_other_file_is_refused(content, tmp_path):
    (tmp_path / "t.json").write_bytes(content)
    with pytest.raises(UsageError):
        read_trigger_set(tmp_path / "t.json")
    with pytest.raises(UsageError, match="cannot read"):
        read_trigger_set(tmp_path / "none.json")


def test_the_key_is_drawn_once_for_all_workers_and_later(tmp_path):
    keys = []
    for _ in range(2):
        state = State(tmp_path / "state.sqlite")
        keys.append(watermark_key(state))
        state.close()
    assert keys[0] == keys[1]
    assert len(keys[0]) == 32
    other = State(tmp_path / "other.sqlite")
    assert watermark_key(other) != keys[0]
    other.close()


class MarkingPredictor(FakePredictor):
    """Marks the second input of every query."""

    async def answer(self, query, client, number=None):
        given = await super().answer(query, client, number)
        values = [float(value) for value in query.rows[1]]
        return replace(given, marks=(Mark(1, str(values).encode(), 1, 0, values),))


def test_a_served_mark_is_in_the_state_before_its_answer_is_sent(tmp_path):
    rows = [[0.25, 1.0], [0.75, 0.0]]
    with served(tmp_path, MarkingPredictor(), Controls(quota=Quota(on=False), keys=Keys(on=False))) as app:
        for _ in range(2):
            assert exchange(app, "POST", "/predict", {"inputs": rows})[0] == 200
    (file,) = tmp_path.rglob("*.sqlite")
    with closing(sqlite3.connect(file)) as opened:
        (account,) = opened.execute("SELECT account FROM watermark").fetchone()
        (found,) = trigger_set(opened, account).triggers
    assert (found.input, found.label, found.victim_label) == (rows[1], "yes", "no")
