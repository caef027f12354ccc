import math

import numpy as np
import pytest
from live_targets import target

from bench.remote.answers import table
from bench.remote.exchange import AttemptError


def read(tmp_path, rows, **values):
    return table(rows, len(rows), target(tmp_path, **values))


def refused(tmp_path, rows, sentence, **values):
    with pytest.raises(AttemptError) as caught:
        read(tmp_path, rows, **values)
    assert (caught.value.billed, caught.value.action) == ("yes", "stop")
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([["cat", "dog", "cow"]], 'set answers = "labels"'),
        (["a", "b"], 'set answers = "labels"'),
        ([0, 1, 2], "one number an answer came where classes has 3"),
        ([[0.5], [0.5]], "one number an answer came where classes has 3"),
        ([[0.5, 0.5]], "have 2 numbers each, but 3 are expected"),
        ([[0.2, 0.3, 0.5], [0.5, 0.5]], "have 2 to 3 numbers each"),
        ([[0.2, 0.3, 0.5], 1], "some answers are lists, and one is 1"),
        ([[0.2, 0.3, None]], "null"),
        ([[0.2, 0.3, math.nan]], "NaN or infinity"),
        ([[0.2, 0.3, math.inf]], "NaN or infinity"),
        ([[0.2, 0.3, -math.inf]], "NaN or infinity"),
        ([[0.2, 0.3, 10**400]], "NaN or infinity"),
        ([[True, False, False]], "True where a number has to be"),
        ([[[0.5], [0.25], [0.25]]], "where a number has to be"),
        ([[20, 30, 50]], 'their sum is 100, as with scale = "percent"'),
        ([[math.log(0.2), math.log(0.3), math.log(0.5)]], 'as with scale = "log"'),
        ([[2.5, -1.0, 0.25]], "no probabilities: their sum is 1.75;"),
        ([[1.5, -0.75, 0.25]], "they go from -0.75 to 1.5"),
        ([[0, 0, 0]], "their sum is 0;"),
        ([[2, 0, 0]], "their sum is 2;"),
        ([[0.1, 0.1, 0.1]], "their sum is 0.3;"),
        ([[1.0015, -0.0015, 0]], "they go from"),
        ([{"a": 0.5, "b": 0.5}], "lacks the class 'c'; set partial = true"),
        ([{"a": 0.5, "b": 0.25, "d": 0.25}], "the class 'd' of an answer is none of classes"),
        ([{"a": 0.5, "b": 0.25, "c": 0.25}, [0.5, 0.25, 0.25]], "some answers name classes"),
        ([[["a", 0.5], ["a", 0.5], ["b", 0]]], "names the class 'a' twice"),
    ],
)
def test_what_is_no_row_of_probabilities_is_refused(tmp_path, rows, sentence):
    refused(tmp_path, rows, sentence)


def test_one_number_is_never_spread_over_two_classes_unless_the_file_says_of_which(tmp_path):
    two = {"classes": ["no", "yes"]}
    refused(tmp_path, [[0.25], [0.5]], "name the class that it is of as positive", **two)
    refused(tmp_path, [0.25, 0.5], "name the class that it is of as positive", **two)
    for rows in ([[0.25], [0.5]], [0.25, 0.5]):
        assert read(tmp_path, rows, positive="yes", **two)[0].tolist() == [[0.75, 0.25], [0.5, 0.5]]
        assert read(tmp_path, rows, positive="no", **two)[0].tolist() == [[0.25, 0.75], [0.5, 0.5]]
    refused(tmp_path, [[0.25, 0.75]], "but 1, of positive, are expected", positive="yes", **two)
    refused(tmp_path, [[25.0]], "no probabilities", positive="yes", **two)
    assert read(tmp_path, [[25.0]], positive="yes", scale="percent", **two)[0].tolist() == [[0.75, 0.25]]


def test_a_scale_is_applied_and_checked(tmp_path):
    assert read(tmp_path, [[20, 30, 50]], scale="percent")[0].tolist() == [[0.2, 0.3, 0.5]]
    log = [[math.log(0.25), math.log(0.75), -math.inf]]
    assert read(tmp_path, log, scale="log")[0] == pytest.approx(np.array([[0.25, 0.75, 0]]))
    refused(tmp_path, [[0.2, 0.3, 0.5]], 'as with scale = "probability"', scale="percent")
    refused(tmp_path, [[0.2, 0.3, 0.5]], 'as with scale = "probability"', scale="log")
    refused(tmp_path, [[1e9, 0, 0]], "NaN or infinity", scale="log")


def test_rounding_to_the_digits_shown_is_no_fault_and_more_is(tmp_path):
    assert read(tmp_path, [[0.33, 0.33, 0.33]])[0].tolist() == [[0.33, 0.33, 0.33]]
    assert read(tmp_path, [[33, 33, 33]], scale="percent")[0].tolist() == [[0.33, 0.33, 0.33]]
    refused(tmp_path, [[0.33, 0.33, 0.31]], "their sum is 0.97")
    refused(tmp_path, [[0.331, 0.331, 0.335]], "their sum is 0.997")
    ten = [f"c{place}" for place in range(10)]
    assert read(tmp_path, [[0.1] * 8 + [0.0, 0.0]], classes=ten)[1] == 1
    refused(tmp_path, [[0.1] * 7 + [0.0] * 3], "their sum is 0.7", classes=ten)
    assert read(tmp_path, [[0.3331, 0.3331, 0.3335]])[1] == 4


@pytest.mark.parametrize("name", [dict, lambda pairs: [list(pair) for pair in pairs]])
def test_classes_that_are_not_named_share_the_rest(tmp_path, name):
    rows = [
        name([("c", 0.5)]),
        name([("b", 0.75), ("a", 0.25)]),
        name([("a", 0.5), ("b", 0.25), ("c", 0.25)]),
    ]
    answers, digits = read(tmp_path, rows, partial=True)
    assert answers.tolist() == [[0.25, 0.25, 0.5], [0.25, 0.75, 0], [0.5, 0.25, 0.25]]
    assert digits == 2
    refused(tmp_path, [name([("a", 0.75), ("b", 0.5)])], "their sum is 1.25", partial=True)
    refused(tmp_path, [name([("a", 0.25), ("b", 0.25), ("c", 0.25)])], "their sum is 0.75", partial=True)


def test_an_answer_that_names_nothing_is_refused(tmp_path):
    refused(tmp_path, [{}, {"a": 1.0}], "names no class at all", partial=True)


def test_a_percentage_of_the_likeliest_class_is_no_probability(tmp_path):
    refused(tmp_path, [{"a": 75.0}], "their sum is 75", partial=True)
    assert read(tmp_path, [{"a": 50.0}], partial=True, scale="percent")[0].tolist() == [[0.5, 0.25, 0.25]]


def labels(tmp_path, rows, *classes):
    answers, digits = read(tmp_path, rows, answers="labels", classes=list(classes))
    assert digits == 0
    assert (answers.sum(axis=1) == 1).all()
    return [classes[place] for place in answers.argmax(axis=1)]


def test_labels_are_found_by_their_names(tmp_path):
    assert labels(tmp_path, [4, 4.0, "4", [4]], "3", "4") == ["4"] * 4
    assert labels(tmp_path, [True, False], "false", "true") == ["true", "false"]
    assert labels(tmp_path, [True, False], "0", "1") == ["1", "0"]
    assert labels(tmp_path, ["dog"], "cat", "dog") == ["dog"]
    assert labels(tmp_path, [4.5], "4", "4.5") == ["4.5"]


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (["doge"], "the label 'doge' is none of classes; did you mean 'dog'?"),
        ([7], "the label 7 is none of classes"),
        ([None], "null where a label has to be"),
        ([[0.25, 0.75]], "labels by the target file"),
        ([{"cat": 0.5}], "labels by the target file"),
        ([0.25], "the number 0.25 came"),
        ([["cat", "dog"]], "labels by the target file"),
    ],
)
def test_what_is_no_label_is_refused(tmp_path, rows, sentence):
    refused(tmp_path, rows, sentence, answers="labels", classes=["cat", "dog"])


def test_every_input_has_one_answer(tmp_path):
    for rows in ([], [[0.5, 0.25, 0.25]]):
        with pytest.raises(AttemptError, match="2 inputs were sent and"):
            table(rows, 2, target(tmp_path))


@pytest.mark.parametrize("value", [None, [None]])
def test_null_is_no_label_even_where_a_class_is_called_none(tmp_path, value):
    classes = {"answers": "labels", "classes": ["None", "null", "b"]}
    refused(tmp_path, ["b", value], "null where a label has to be", **classes)
    answers, _ = read(tmp_path, ["None", "null"], **classes)
    assert answers.tolist() == [[1, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize(
    ("rows", "more", "expected"),
    [
        ([[0.2, 0.3, 0.5], None], {}, [[0.2, 0.3, 0.5], [np.nan] * 3]),
        ([[None] * 3, [0.25, 0.25, 0.5]], {}, [[np.nan] * 3, [0.25, 0.25, 0.5]]),
        ([None, [None]], {"answers": "labels"}, [[np.nan] * 3] * 2),
        (["b", None], {"answers": "labels"}, [[0, 1, 0], [np.nan] * 3]),
    ],
)
def test_null_is_a_rejected_input_where_the_target_file_says_so(tmp_path, rows, more, expected):
    answers, _ = read(tmp_path, rows, rejected="null", **more)
    assert np.array_equal(answers, np.array(expected), equal_nan=True)
    refused(tmp_path, rows, 'set rejected = "null"', **more)


def test_a_null_among_numbers_is_never_an_answer(tmp_path):
    refused(tmp_path, [[0.2, 0.3, None]], "null", rejected="null")
