"""What ``moatbench check`` sees of a model: each finding is one sentence."""

import numpy as np
import pytest

from bench.data.datasets import Labelled, Splits
from bench.data.user_data import data_of
from bench.inputs import InputSpace
from bench.models.model_check import (
    base_rate,
    behaviour_findings,
    label_findings,
    latency,
    look,
    scale_findings,
    split_findings,
    stated_findings,
)
from bench.models.model_files import model_of
from bench.models.own_victims import assembled
from bench.models.victim_options import VictimOptions
from bench.models.victims import Victim

RNG = np.random.default_rng(0)
X = RNG.random((300, 1, 4, 4), dtype=np.float32)


def answer(x):
    """Return the probabilities of two classes by brightness."""
    second = 1 / (1 + np.exp(-40 * (x.mean(axis=(1, 2, 3)) - 0.5)))
    return np.stack([1 - second, second], axis=1)


def faults(findings):
    return [each.text for each in findings if each.level == "fault"]


def notes(findings):
    return [each.text for each in findings if each.level == "note"]


def test_a_model_that_answers_the_same_has_no_finding_on_its_behaviour():
    assert list(behaviour_findings(answer, X)) == []


def test_a_randomised_model_is_noted_with_how_much_it_varies():
    noise = np.random.default_rng(1)
    found = list(behaviour_findings(lambda x: answer(x) + noise.normal(0, 0.01, (len(x), 2)), X))
    assert [each.level for each in found] == ["note"]
    assert "100 % of them differently" in found[0].text


def test_a_model_that_looks_at_the_rest_of_its_batch_is_a_fault():
    (found,) = faults(behaviour_findings(lambda x: answer(x - x.mean(axis=0) + 0.5), X))
    assert "evaluation mode" in found


def test_labels_that_change_when_asked_again_are_noted():
    turns = iter(range(10))
    (found,) = notes(
        behaviour_findings(lambda x: np.array(["a", "b"])[np.arange(len(x)) % 2 - next(turns) % 2], X)
    )
    assert "differently" in found


@pytest.mark.parametrize(("stated", "number"), [("logits", 1), ("probabilities", 0)])
def test_probabilities_that_are_said_to_be_logits_are_a_fault(stated, number):
    assert len(faults(stated_findings(answer(X), stated))) == number


def test_a_model_with_one_answer_is_a_fault():
    (found,) = faults(label_findings(np.zeros(500, np.int64), None, 2, names=("no", "yes")))
    assert "every test input the label 'no'" in found


def test_labels_with_few_inputs_are_named_and_two_classes_get_a_threshold():
    labels = np.repeat([0, 1], [980, 20])
    few, commonest = notes(label_findings(labels, None, 2, names=("no", "yes")))
    assert "the label 'yes'" in few
    assert "--threshold" in few
    assert "98 % of test inputs the label 'no'" in commonest
    assert "--threshold" not in notes(label_findings(labels, None, 2, stated=True))[0]


def test_accuracy_below_that_of_a_constant_answer_asks_for_the_order_of_labels():
    labels = np.arange(1000) % 2
    (found,) = notes(label_findings(labels, 1 - labels, 2, names=("no", "yes")))
    assert "order of the labels ('no', 'yes')" in found
    (found,) = notes(label_findings(labels, labels, 2))
    assert "accuracy on 1,000 test inputs: 100.0 %" in found


def test_images_that_the_model_wants_in_the_unit_range_are_a_fault():
    assert "in [0, 1]" in faults(scale_findings(0.1, 0.9))[0]
    assert list(scale_findings(0.9, 0.92)) == []


def test_a_model_of_unit_images_over_bytes_is_found():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (600, 6, 6), dtype=np.uint8)
    bright = images.mean(axis=(1, 2)) / 255

    def model(x):  # as if it was trained on values in [0, 1]
        second = 1 / (1 + np.exp(-400 * (np.asarray(x, np.float64).reshape(len(x), -1).mean(axis=1) - 0.5)))
        return np.stack([1 - second, second], axis=1)

    options = VictimOptions(model="m.py:m", data="d.npz")
    made = assembled(
        model_of(model, "m"), data_of(images, (bright > 0.5).astype(int)), options, name="m", seed=0
    )
    found = faults(look(made, stated="probabilities", labelled=True).findings)
    assert any("as they are in the file" in each for each in found)


def test_where_no_threshold_is_stated_and_one_is_needed_that_of_the_base_rate_is_said():
    rng = np.random.default_rng(0)
    x = rng.random((4000, 3), dtype=np.float32)
    likely = 0.1 * x[:, 0]  # never above a half
    y = (rng.random(4000) < likely).astype(np.int64)
    parts = [Labelled(x[rows], y[rows]) for rows in np.split(np.arange(4000), 4)]

    def model(rows):
        return np.stack([1 - 0.1 * rows[:, 0], 0.1 * rows[:, 0]], axis=1)

    victim = Victim(model, Splits(*parts, classes=2, space=InputSpace((3,))))
    found = base_rate(victim, labelled=True)
    assert found.rate == pytest.approx(y[1000:2000].mean())
    decided = model(x[1000:2000])[:, 1] >= found.threshold
    assert decided.mean() == pytest.approx(found.rate, abs=0.01)
    seen = notes(look(victim, stated="probabilities", labelled=True).findings)
    assert any(f"decisions are measured at {found.threshold:g}" in each for each in seen)
    stated = notes(look(victim, stated="probabilities", labelled=True, threshold=0.05).findings)
    assert not any("no threshold is stated" in each for each in stated)
    halves = [Labelled(X[rows], answer(X[rows]).argmax(axis=1)) for rows in (slice(150), slice(150, None))]
    assert base_rate(Victim(answer, Splits(*halves, *halves, classes=2)), labelled=True) is None


def test_test_inputs_in_another_split_are_counted():
    def part(x):
        return Labelled(x, np.zeros(len(x), np.int64))

    splits = Splits(part(X[:50]), part(X[50:100]), part(X[100:200]), part(X[190:]), classes=2)
    assert any("10 of 110 test inputs are in another split" in each for each in notes(split_findings(splits)))


def test_a_look_at_a_victim_finds_no_fault_and_times_its_queries():
    y = answer(X).argmax(axis=1)
    parts = [Labelled(X[rows], y[rows]) for rows in np.split(np.arange(300), 4)]
    seen = look(Victim(answer, Splits(*parts, classes=2)), stated="probabilities", labelled=True)
    assert seen.faults == []
    assert any("accuracy" in each for each in notes(seen.findings))
    assert 0 < seen.latency.batched < seen.latency.alone


def test_the_latency_of_a_query_is_that_of_its_batch_divided_by_its_inputs():
    asked = []
    latency(lambda x: asked.append(len(x)) or answer(x), X, seconds=0.01)
    assert set(asked) == {1, 256}
