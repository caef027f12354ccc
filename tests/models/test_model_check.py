"""What ``moatbench check`` sees of a model: each finding is one sentence."""

import numpy as np
import pytest

from bench.data.datasets import Labelled, Splits
from bench.models.model_check import (
    behaviour_findings,
    label_findings,
    latency,
    look,
    scale_findings,
    split_findings,
    stated_findings,
)
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
    assert "--threshold" not in notes(label_findings(labels, None, 2, threshold=0.1))[0]


def test_accuracy_below_that_of_a_constant_answer_asks_for_the_order_of_labels():
    labels = np.arange(1000) % 2
    (found,) = notes(label_findings(labels, 1 - labels, 2, names=("no", "yes")))
    assert "order of the labels ('no', 'yes')" in found
    (found,) = notes(label_findings(labels, labels, 2))
    assert "accuracy on 1,000 test inputs: 100.0 %" in found


def test_images_that_the_model_wants_divided_by_255_are_a_fault():
    assert "divided by 255" in faults(scale_findings(0.1, 0.9))[0]
    assert list(scale_findings(0.9, 0.92)) == []


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
