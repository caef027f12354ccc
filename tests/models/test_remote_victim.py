"""A live target as a victim: its splits, its inputs as they are sent, and an API with a hard budget."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from made_target import made_target

from bench.data.sent_rows import on_the_wire
from bench.data.user_data import data_of, load_data
from bench.errors import BudgetError, UsageError
from bench.models.remote_api import RemoteAPI
from bench.models.remote_victim import LiveData, remote_victim
from bench.remote.accounts import account_of, evaluating_account

ROWS = 200


@pytest.fixture
def table(tmp_path):
    """A file of a table with numbers, integers, texts and gaps."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "age": rng.integers(18, 90, ROWS),
            "income": np.where(rng.random(ROWS) < 0.2, np.nan, rng.random(ROWS).round(2)),
            "job": rng.choice(["clerk", "cook", None], ROWS),
            "y": rng.choice(["no", "yes"], ROWS),
        }
    )
    frame.to_csv(tmp_path / "people.csv", index=False)
    return tmp_path / "people.csv"


def two_classes(**values):
    return made_target(classes=("no", "yes"), **values)


def test_rows_of_a_table_are_sent_with_texts_integers_and_gaps(table):
    data = load_data(table, label="y")
    sent = on_the_wire(data, data.x[:50])
    given = pd.read_csv(table)[:50]
    assert sent.columns == ("age", "income", "job")
    text = json.loads(json.dumps(list(sent.rows), allow_nan=False))
    for row, (_, expected) in zip(text, given.iterrows(), strict=True):
        assert isinstance(row[0], int)
        assert row[0] == expected["age"]
        assert row[1] is None if pd.isna(expected["income"]) else row[1] == pytest.approx(expected["income"])
        assert row[2] is None if pd.isna(expected["job"]) else row[2] == expected["job"]


def test_a_table_of_numbers_is_sent_as_an_array_with_its_names():
    frame = pd.DataFrame(np.random.default_rng(0).random((ROWS, 2)), columns=["a", "b"])
    data = data_of(frame)
    sent = on_the_wire(data, data.x[:5])
    assert isinstance(sent.rows, np.ndarray)
    assert sent.columns == ("a", "b")


def test_images_are_sent_with_the_axes_and_the_range_of_the_file():
    pixels = np.random.default_rng(0).integers(0, 256, (ROWS, 8, 8, 3), dtype=np.uint8)
    data = data_of(pixels)
    sent = on_the_wire(data, data.x[:7])
    assert sent.rows.dtype == np.uint8
    assert (sent.rows == pixels[:7]).all()
    assert sent.columns == ()


def test_no_input_is_in_pool_and_test_split_and_none_is_there_twice(table):
    victim = remote_victim(two_classes(), LiveData(str(table), test=60, label="y"), name="m")
    parts = [victim.splits.pool.x, victim.splits.test.x]
    rows = [row.tobytes() for part in parts for row in part]
    assert len(victim.splits.test) == 60
    assert len(rows) == len(set(rows))


def test_the_same_rows_as_the_pool_of_a_file_leave_no_test_input_to_an_attacker(table):
    options = LiveData(str(table), test=60, label="y", pool=str(table))
    victim = remote_victim(two_classes(), options, name="m")
    test = {row.tobytes() for row in victim.splits.test.x}
    assert not test & {row.tobytes() for row in victim.splits.pool.x}
    assert len(victim.splits.pool) >= ROWS - 60 - 20
    assert any("that are test inputs" in note for note in victim.notes)


@pytest.mark.parametrize("test", [1, 190, 10_000])
def test_too_many_or_too_few_test_inputs_are_one_sentence(table, test):
    with pytest.raises(UsageError, match=f"--test {test}: .* is allowed"):
        remote_victim(two_classes(), LiveData(str(table), test=test, label="y"), name="m")


def test_without_labels_the_answers_of_the_target_stand_for_them(table):
    data = pd.read_csv(table).drop(columns="y")
    data.to_csv(table, index=False)
    victim = remote_victim(two_classes(), LiveData(str(table), test=30), name="m")
    answers = np.tile([0.2, 0.8], (30, 1))
    bought = victim.with_answers(answers, "")
    assert (bought.splits.test.y == 1).all()
    assert not bought.splits.test.labelled


def test_the_fingerprint_is_another_where_the_model_or_the_way_it_answers_is(table):
    options = LiveData(str(table), test=30, label="y")
    answers = np.tile([0.2, 0.8], (30, 1))

    def fingerprint(*, shown=answers, identity="", **values):
        return (
            remote_victim(two_classes(**values), options, name="m").with_answers(shown, identity).fingerprint
        )

    others = [
        fingerprint(identity="m v2"),
        fingerprint(shown=answers[:, ::-1]),
        fingerprint(answers="labels"),
        fingerprint(url="http://127.0.0.1:2/"),
    ]
    assert fingerprint() == fingerprint(price_per_1000=9.0, batch=8)
    assert len({fingerprint(), *others}) == 5


def test_a_label_that_the_target_rarely_gives_is_named_where_balanced_fidelity_leaves_it_out(table):
    target = made_target(classes=("no", "yes", "perhaps"))
    victim = remote_victim(target, LiveData(str(table), test=100, label="y"), name="m")
    labels = np.repeat([0, 1, 2], [60, 38, 2])
    rarely, alike = victim.with_answers(np.eye(3)[labels], ""), victim.with_answers(np.eye(3)[labels % 2], "")
    assert rarely.notes[-1] == (
        "balanced fidelity leaves out 'perhaps': "
        "the target gives fewer than 50 of 100 test inputs such a label"
    )
    assert not any("balanced" in note for note in alike.notes)


def test_the_fingerprint_is_another_where_other_texts_or_names_are_sent(table):
    answers = np.tile([0.2, 0.8], (30, 1))
    given = pd.read_csv(table)
    variants = [given, given.replace({"job": {"cook": "courier"}}), given.rename(columns={"age": "years"})]
    found, coded = set(), set()
    for variant in variants:
        variant.to_csv(table, index=False)
        victim = remote_victim(two_classes(), LiveData(str(table), test=30, label="y"), name="m")
        found.add(victim.with_answers(answers, "").fingerprint)
        coded.add(victim.splits.pool.x.tobytes())
    assert len(coded) == 1, "the test needs inputs that are coded the same"
    assert len(found) == 3


@pytest.fixture
def victim(table):
    return remote_victim(two_classes(), LiveData(str(table), test=30, label="y"), name="m")


def test_nothing_is_sent_of_a_query_that_exceeds_the_budget(victim):
    sent = []

    def ask(x, _account):
        sent.append(len(x))
        return np.full((len(x), 2), 0.5)

    api = RemoteAPI(victim, ask, budget=10)
    client = api.client()
    client.predict(victim.splits.pool.x[:6])
    with pytest.raises(BudgetError, match="4 left of a budget of 10"):
        client.predict(victim.splits.pool.x[:5])
    client.predict(victim.splits.pool.x[:4])
    assert sent == [6, 4]
    assert api.account.sent == api.account.answered == 10
    api.close()
    with pytest.raises(BudgetError, match="answers nothing more"):
        client.predict(victim.splits.pool.x[:0])


def test_answers_of_another_width_are_never_broadcast(victim):
    api = RemoteAPI(victim, lambda x, _account: np.full((len(x), 1), 0.5), budget=10)
    with pytest.raises(ValueError, match=r"6 queries were answered with \(6, 1\)"):
        api.client().predict(victim.splits.pool.x[:6])


def test_an_error_of_the_purchase_outlives_an_attack_that_catches_it(victim):
    def ask(_x, _account):
        raise UsageError("the key is not accepted")

    api = RemoteAPI(victim, ask, budget=10)
    for _ in range(2):
        with pytest.raises(UsageError, match="the key is not accepted"):
            api.client().predict(victim.splits.pool.x[:2])
    with pytest.raises(UsageError, match="the key is not accepted"):
        api.close()


def test_clients_are_accounts_of_the_target_file():
    target = made_target(accounts=[{"name": "one"}, {"name": "two"}])
    assert account_of(made_target(), "attacker") == ""
    assert account_of(target, "attacker") == "one"
    assert account_of(target, "two") == evaluating_account(made_target(accounts=[{"name": "two"}])) == "two"
    assert evaluating_account(made_target(accounts=[{"name": "one"}, {"name": "tester"}])) == "tester"
    with pytest.raises(UsageError, match="no account 'attacker-1'"):
        account_of(target, "attacker-1")
