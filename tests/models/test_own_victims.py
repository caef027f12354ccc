"""Victims from a user's model and data: what answers mean, how rows are split, what is left out and said."""

import json
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.data import query_pools
from bench.data.user_data import data_of
from bench.data.user_splits import FEWEST, split_rows
from bench.errors import UsageError, VictimError
from bench.models import kept_answers
from bench.models.model_files import model_of
from bench.models.own_victims import assembled, own_victim
from bench.models.shared_answers import SharedAnswers
from bench.models.victim_options import VictimOptions
from bench.models.victims import answer_sketch

RNG = np.random.default_rng(0)
X = RNG.normal(size=(600, 4)).astype(np.float32)
Y = (X[:, 0] > 0).astype(int)
OPTIONS = VictimOptions(model="m.py:m", data="d.npz")


def second(x):
    """Return the probability of the second class."""
    return 1 / (1 + np.exp(-3 * np.asarray(x)[:, 0]))


def both(x):
    return np.stack([1 - second(x), second(x)], axis=1)


def victim(model, x=X, y=Y, **options):
    return assembled(
        model_of(model, "m"), data_of(x, y), OPTIONS.model_copy(update=options), name="mine", seed=0
    )


@pytest.mark.parametrize(
    ("model", "outputs"),
    [
        (both, "probabilities"),
        (second, "probabilities"),
        (lambda x: second(x)[:, None], "probabilities"),
        (lambda x: 3 * np.asarray(x)[:, 0], "logits"),
        (lambda x: np.stack([0 * x[:, 0], 3 * x[:, 0]], axis=1), "logits"),
        (lambda x: both(x).tolist(), "probabilities"),
    ],
)
def test_every_form_of_answers_becomes_two_columns_of_probabilities(model, outputs):
    made = victim(model, outputs=outputs)
    made.check()
    assert np.allclose(made.probabilities(made.splits.test.x), both(made.splits.test.x), atol=1e-6)
    assert made.class_names == ("0", "1")
    assert made.accuracy() == 1


@pytest.mark.parametrize(
    ("model", "y"),
    [
        (lambda x: (x[:, 0] > 0).astype(int), Y),
        (lambda x: (x[:, 0] > 0).astype(float), Y * 1.0),
        (lambda x: np.where(x[:, 0] > 0, "yes", "no"), np.where(Y, "yes", "no")),
        (lambda x: ["yes" if row[0] > 0 else "no" for row in x], np.where(Y, "yes", "no")),
        (lambda x: x[:, 0] > 0, Y.astype(bool)),
    ],
)
def test_labels_become_probabilities_of_one(model, y):
    made = victim(model, y=y)
    made.check()
    assert made.accuracy() == 1
    assert set(np.unique(made.probabilities(made.splits.test.x))) == {0, 1}
    assert any("returns labels" in note for note in made.notes)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda x: 100 * both(x), "divide them by 100 if they are percentages"),
        (lambda x: 0.7 * both(x), "its columns sum to 0.7 in a row"),
        (lambda x: np.stack([x[:, 0], -x[:, 0]], axis=1), 'declare outputs = "logits"'),
        (lambda x: np.full((len(x), 2), np.nan), "600 of 600 answers hold NaN or infinity"),
        (lambda x: np.zeros((len(x), 2, 2)), r"it returns \(600, 2, 2\) for 600 inputs"),
        (lambda x: both(x)[:1], r"it returns \(1, 2\) for \d+ inputs; one answer each is needed"),
        (lambda x: np.full(len(x), "maybe"), "returns the labels 'maybe', and the data have '0', '1'"),
        (lambda _: 1 / 0, r"more than 1%: .*test_own_victims.py, line \d+: ZeroDivisionError"),
    ],
)
def test_answers_that_mean_nothing_are_refused_in_one_sentence(model, message):
    with pytest.raises(UsageError, match=message) as caught:
        victim(model)
    assert "\n" not in str(caught.value)


def test_a_model_that_leaves_the_program_is_an_error_of_one_sentence():
    def leave(_):
        raise SystemExit(0)

    with pytest.raises(UsageError, match=r"the model fails on .*SystemExit"):
        victim(leave)


def test_a_model_may_know_fewer_classes_than_the_data_or_more():
    y = Y.copy()
    y[:30] = 2
    fewer = victim(both, y=y)
    fewer.check()
    assert fewer.class_names == ("0", "1", "2")
    assert (fewer.probabilities(fewer.splits.test.x)[:, 2] == 0).all()
    assert any("never answers '2', which the data have" in note for note in fewer.notes)
    more = victim(lambda x: np.concatenate([both(x), 0 * x[:, :1]], axis=1))
    assert more.class_names == ("0", "1", "2")
    assert any("the data have no input of '2'" in note for note in more.notes)
    with pytest.raises(UsageError, match=r"returns 3 columns, and the data have 2 classes .*classes_"):
        victim(lambda x: np.concatenate([both(x), 0 * x[:, :1]], axis=1), y=np.where(Y, "yes", "no"))


def test_data_without_labels_take_the_models_own_answers():
    made = victim(both, y=None)
    assert made.accuracy() == 1
    assert any("the model's own answers stand for them" in note for note in made.notes)


@pytest.mark.parametrize("name", ["in-distribution", "perturbed", "marginals"])
def test_no_pool_of_data_without_labels_tells_an_attacker_the_models_answers(name, tmp_path):
    made = victim(both, y=None)
    pool = query_pools.load(name, victim_data="own:it", splits=made.splits, seed=0, root=tmp_path)
    assert not pool.same_classes
    answers = made.probabilities(pool.x).argmax(axis=1)
    # Clusters of the inputs: not the answers, whichever cluster has which number.
    assert 0.02 < (pool.y == answers).mean() < 0.98


def test_rows_on_which_a_model_fails_are_left_out_and_counted_up_to_one_percent():
    def picky(limit):
        def model(x):
            if (np.asarray(x)[:, 1] > limit).any():
                raise ValueError("too large")
            return both(x)

        return model

    top = np.sort(X[:, 1])
    made = victim(picky(top[-4]))
    made.check()
    assert sum(len(getattr(made.splits, part)) for part in ("train", "calibration", "pool", "test")) == 597
    assert made.splits.inputs.high[1] == pytest.approx(top[-4])
    assert any("fails on 3 inputs, which are left out: " in note for note in made.notes)
    with pytest.raises(UsageError, match=r"fails on \d+ of .*more than 1%: .*too large"):
        victim(picky(top[-20]))


def test_a_function_over_a_table_with_names_gets_a_data_frame_and_else_an_array():
    table = pd.DataFrame(X, columns=list("abcd")).assign(town=np.where(Y, "Ghent", "Mons"))
    by_name = victim(lambda frame: (frame["town"] == "Ghent").to_numpy() * 0.8 + 0.1, x=table)
    assert by_name.accuracy() == 1
    by_place = victim(lambda rows: second(rows[:, :4].astype(float)), x=table)
    assert by_place.accuracy() == 1
    with pytest.raises(UsageError, match=r"fails on a data frame \(.*KeyError.*and on an array"):
        victim(lambda frame: frame["city"], x=table)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 400), st.booleans())
def test_equal_rows_never_lie_in_two_splits(seed, kinds, trained):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, kinds, (400, 1)).astype(np.float32)
    x[rng.random(400) < 0.1] = np.nan
    splits = split_rows(x, rng.integers(0, 2, 400), seed, trained=trained)
    parts = [splits.train, splits.calibration, splits.pool, splits.test]
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(400))
    values = [set(np.nan_to_num(x[part, 0], nan=-1.0).tolist()) for part in parts]
    assert sum(map(len, values)) == len(set().union(*values))
    assert splits.equal == 400 - len(set().union(*values))


@pytest.mark.parametrize("trained", [False, True])
def test_a_hundred_rows_are_enough_for_every_split(trained):
    x = np.arange(100, dtype=np.float32)[:, None]
    splits = split_rows(x, np.arange(100) % 2, 0, trained=trained)
    parts = [splits.calibration, splits.pool, splits.test] + ([] if trained else [splits.train])
    assert min(map(len, parts)) >= FEWEST


def test_rows_that_the_model_was_trained_on_are_left_out(tmp_path):
    table = pd.DataFrame(X.round(2), columns=list("abcd")).assign(y=Y)
    table.to_csv(tmp_path / "all.csv", index=False)
    table[:150].to_csv(tmp_path / "train.csv", index=False)
    (tmp_path / "m.py").write_text("def m(frame):\n    return 1 / (1 + 2.7 ** -frame['a'])\n")
    options = VictimOptions(model="m.py:m", data="all.csv", label="y")
    unknown = own_victim(options, name="mine", seed=0, folder=tmp_path)
    assert any("unknown what the model was trained on" in note for note in unknown.notes)
    known = own_victim(
        options.model_copy(update={"train": "train.csv"}), name="mine", seed=0, folder=tmp_path
    )
    assert "150 rows that the model was trained on are left out" in known.notes
    assert len(known.splits.train) == 150
    rows = {
        part: {row.tobytes() for row in getattr(known.splits, part).x} for part in ("train", "pool", "test")
    }
    assert not rows["train"] & (rows["pool"] | rows["test"])
    known.check()
    unknown.check()
    assert known.fingerprint != unknown.fingerprint
    with pytest.raises(UsageError, match=r"^victim mine: 0 rows are left"):
        own_victim(options.model_copy(update={"train": "all.csv"}), name="mine", seed=0, folder=tmp_path)


def test_a_group_is_held_out_of_every_split():
    table = pd.DataFrame(X, columns=list("abcd")).assign(town=np.where(np.arange(600) % 5, "Ghent", "Mons"))

    def named(frame):
        return second(frame[list("abcd")])

    made = victim(named, x=table, shift={"town": "Mons"}, groups=("town",))
    assert len(made.splits.shifted) == 120
    assert (made.splits.shifted.x[:, 4] == 1).all()
    assert not (made.splits.pool.x[:, 4] == 1).any()
    with pytest.raises(UsageError, match=r"shift: column 'town' has no value 'Mon'; did you mean 'Mons'"):
        victim(named, x=table, shift={"town": "Mon"})
    with pytest.raises(UsageError, match="no column 'city'"):
        victim(named, x=table, groups=("city",))


def test_a_label_that_the_model_rarely_gives_is_named_where_balanced_fidelity_leaves_it_out():
    def rarely(x):
        return np.where(x[:, 1] > 1.9, "rare", np.where(x[:, 0] > 0, "yes", "no"))

    (note,) = [note for note in victim(rarely, y=None).notes if "balanced" in note]
    assert note == (
        "balanced fidelity leaves out 'rare': the model gives fewer than 50 of 210 test inputs such a label"
    )


def test_a_slow_model_is_asked_once_for_each_distinct_input():
    asked = []

    def slow(x):
        asked.extend(row.tobytes() for row in np.asarray(x))
        time.sleep(0.001)
        return both(x)

    made = victim(slow)
    loading = len(asked)
    assert loading <= len(X) + 2  # two rows to see whether it answers at all
    for _ in range(2):
        for part in ("test", "pool", "calibration", "train"):
            made.probabilities(getattr(made.splits, part).x)
        for row in made.splits.pool.x[:50]:
            made.probabilities(row[None])
    assert len(asked) == loading


def test_a_model_that_takes_one_input_at_a_time_is_asked_so():
    calls = []

    def single(x):
        calls.append(len(x))
        if len(x) != 1:
            raise ValueError("one at a time")
        return both(x)

    made = victim(single)
    made.check()
    assert any("takes one input at a time" in note for note in made.notes)
    assert np.allclose(made.probabilities(made.splits.test.x), both(made.splits.test.x))
    assert calls.count(1) < 1000


def test_answers_that_changed_on_the_pool_alone_are_another_model():
    def changed(x):
        found = both(x)
        found[np.asarray(x)[:, 3] == first.splits.pool.x[5, 3]] = [0.5, 0.5]
        return found

    first = victim(both)
    first.check()
    other, again = victim(changed), victim(lambda x: both(x) + np.array([1e-9, -1e-9]))
    other.check()
    again.check()
    assert other.fingerprint != first.fingerprint
    assert again.fingerprint == first.fingerprint


def test_the_sketch_of_answers_sees_one_changed_answer_in_thousands():
    answers = np.random.default_rng(1).dirichlet([1, 1, 1], 5000)
    moved = answers.copy()
    moved[1234] = np.roll(moved[1234], 1)
    assert (answer_sketch(moved) != answer_sketch(answers)).any()
    assert (answer_sketch(answers + 1e-10) == answer_sketch(answers)).all()


def test_a_random_model_is_refused_unless_it_is_declared_and_then_asked_once(tmp_path, monkeypatch):
    monkeypatch.setenv("MOATBENCH_CACHE", str(tmp_path))
    rng = np.random.default_rng()

    def noisy(x):
        p = np.clip(second(x) + rng.normal(0, 0.05, len(x)), 0, 1)
        return np.stack([1 - p, p], axis=1)

    with pytest.raises(VictimError, match=r"not deterministic.*or declare deterministic = false in"):
        victim(noisy).check()
    made = victim(noisy, deterministic=False)
    made.check()
    new = RNG.normal(size=(30, 4)).astype(np.float32)
    assert np.array_equal(made.probabilities(new), made._evaluate(new))
    later = victim(noisy, deterministic=False)
    later.check()
    assert later.fingerprint == made.fingerprint
    test = made.splits.test.x
    assert np.array_equal(later.probabilities(test), made.probabilities(test))


READS_A_FILE = """
import json
from pathlib import Path

import numpy as np

RNG = np.random.default_rng()

def m(x):
    slope = json.loads((Path(__file__).parent / "weights.json").read_text())
    p = 1 / (1 + np.exp(-slope * np.asarray(x)[:, 0] + RNG.normal(0, 0.3, len(x))))
    return np.stack([1 - p, p], axis=1)
"""


@pytest.fixture
def reads_a_file(tmp_path, monkeypatch):
    """A random model of which a parameter is in a file; call it with that parameter."""
    monkeypatch.setenv("MOATBENCH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "m.py").write_text(READS_A_FILE)
    np.savez(tmp_path / "d.npz", x=X, y=Y)

    def loaded(slope, shared=None, **more):
        (tmp_path / "weights.json").write_text(json.dumps(slope))
        options = OPTIONS.model_copy(update={"deterministic": False, **more})
        made = own_victim(options, name="mine", seed=0, folder=tmp_path, shared=shared)
        made.shared = shared
        made.check()
        return made

    return loaded


def test_a_random_model_whose_files_changed_is_asked_again_and_is_another_victim(reads_a_file):
    first, changed = reads_a_file(3), reads_a_file(-3)
    test = first.splits.test.x
    answers, others = first.probabilities(test), changed.probabilities(test)
    assert first.accuracy() > 0.9
    assert changed.accuracy() < 0.1
    assert changed.fingerprint != first.fingerprint
    assert kept_answers.CHANGED in changed.notes
    again = reads_a_file(-3)
    assert np.array_equal(again.probabilities(test), others)
    assert not np.array_equal(others, answers)
    assert again.fingerprint == changed.fingerprint
    assert kept_answers.CHANGED not in {*first.notes, *again.notes}


def test_a_random_model_gives_the_inputs_of_a_further_file_the_same_labels_every_time(reads_a_file, tmp_path):
    np.savez(tmp_path / "pool.npz", x=RNG.normal(0, 0.1, (300, 4)))
    first, again = reads_a_file(1, pool="pool.npz"), reads_a_file(1, pool="pool.npz")
    assert np.array_equal(again.splits.pool.x, first.splits.pool.x)
    assert np.array_equal(again.splits.pool.y, first.splits.pool.y)
    assert np.array_equal(again.probabilities(again.splits.pool.x).argmax(axis=1), again.splits.pool.y)
    assert again.fingerprint == first.fingerprint


def test_a_random_model_that_changed_by_less_than_its_randomness_is_the_same_victim(reads_a_file):
    first, same, changed = reads_a_file(3), reads_a_file(3.001), reads_a_file(1)
    assert same.fingerprint == first.fingerprint
    assert changed.fingerprint != first.fingerprint


def test_kept_answers_do_not_depend_on_the_cache_once_a_run_has_started(reads_a_file, tmp_path):
    reads_a_file(3)
    first = reads_a_file(3)  # its own answers are not the kept ones
    first.share(tmp_path / "answers.sqlite")
    for file in (tmp_path / "cache" / "victims").iterdir():
        file.unlink()
    worker = reads_a_file(3, SharedAnswers(tmp_path / "answers.sqlite"))
    assert worker.fingerprint == first.fingerprint
    assert np.array_equal(worker.probabilities(X), first.probabilities(X))


@pytest.mark.parametrize("classes", [2, 1000])
def test_labels_of_another_model_are_seen_whatever_the_number_of_classes(classes, tmp_path, monkeypatch):
    monkeypatch.setenv("MOATBENCH_CACHE", str(tmp_path))
    one, other = np.eye(classes)[[0, 1]].repeat(300, axis=0), np.eye(classes)[[1, 0]].repeat(300, axis=0)

    def kept(fresh):
        return kept_answers.kept_answers("m", fresh, lambda: (fresh[:256], np.ones(256, dtype=bool)))

    for fresh, changed in ((one, False), (one, False), (other, True)):
        answers, other_labels = kept(fresh)
        np.testing.assert_allclose(answers, fresh, rtol=1e-6, atol=1e-12)
        assert other_labels is changed


def test_inputs_of_a_public_file_that_are_test_inputs_are_left_out(tmp_path):
    table = pd.DataFrame(X.round(2), columns=list("abcd")).assign(y=Y)
    table.to_csv(tmp_path / "all.csv", index=False)
    (tmp_path / "m.py").write_text("def m(frame):\n    return 1 / (1 + 2.7 ** -frame['a'])\n")
    options = VictimOptions(model="m.py:m", data="all.csv", label="y", public="public.csv")

    def made(frame):
        frame.to_csv(tmp_path / "public.csv", index=False)
        return own_victim(options, name="mine", seed=0, folder=tmp_path)

    found = made(table)
    test = {row.tobytes() for row in found.splits.test.x}
    assert not test & {row.tobytes() for row in found.splits.public.x}
    assert len(found.splits.public) == len(found.splits.public.y) == 600 - len(found.splits.test)
    note = f"{len(found.splits.test)} inputs of public.csv that are in the test split are left out"
    assert note in found.notes
    apart = table.assign(a=table["a"] + 0.005)
    assert len(made(apart).splits.public) == 600
    assert not any("public.csv" in note for note in made(apart).notes)
    few = pd.DataFrame(found.splits.test.x, columns=list("abcd")).round(2).assign(y=found.splits.test.y)
    with pytest.raises(UsageError, match=r"^victim mine: public.csv: 19 inputs are not in .*20 are needed"):
        made(pd.concat([few, apart[:19]]))
