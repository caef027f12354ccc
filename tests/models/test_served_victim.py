import asyncio

import numpy as np
import pytest
from asgi_client import exchange, served

from bench.data.datasets import Labelled, Splits
from bench.inputs import Column, InputSpace
from bench.models.defended_api import DefendedAPI
from bench.models.served_victim import ServedVictim
from bench.models.victims import Victim
from bench.serve.access_controls import Keys
from bench.serve.controls import Controls
from bench.serve.predictor import Query, RejectedInputsError
from bench.serve.wire import plain
from defenses.base import DefenseStack

OPEN = Controls(keys=Keys(on=False))
STACKS = [
    (),
    ("label_only",),
    ("rounded(decimals=1)", "label_only"),
    ("gaussian_noise(scale=0.05)",),
    ("mahalanobis(fpr=0.05, action=refuse)",),
]


@pytest.fixture
def server(context, digits_spec):
    made = []

    def make(*defenses, shows="probabilities"):
        stack = context.stack(digits_spec, tuple(defenses), 0)
        victim = context.victim(digits_spec)
        made.append(ServedVictim(victim, stack, name="digits", version="1", shows=shows, seed=7))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.mark.parametrize("shows", ["probabilities", "labels"])
@pytest.mark.parametrize("defenses", STACKS, ids=str)
def test_every_route_and_output_shows_what_the_defended_api_answers(
    shows, defenses, server, context, digits_spec, tmp_path
):
    x = np.concatenate([context.victim(digits_spec).splits.test.x[:4], np.ones((1, 1, 8, 8), np.float32)])
    stack = context.stack(digits_spec, defenses, 0)
    api = DefendedAPI(context.victim(digits_spec), stack, budget=None, seed=7, shows=shows)
    # Each request's inputs have numbers of their own, so that noise is fresh.
    expected = [api.query(x, "address 127.0.0.1", number=5 * turn).probabilities for turn in range(4)]
    rows = x.reshape(5, 64).tolist()
    tensor = {"name": "x", "shape": [5, 64], "datatype": "FP32", "data": x.ravel().tolist()}
    with served(tmp_path, server(*defenses, shows=shows), OPEN) as app:
        first = exchange(app, "POST", "/predict", {"inputs": rows})[2]["predictions"]
        second = exchange(app, "POST", "/v2/models/digits/infer", {"inputs": [tensor]})[2]["outputs"][0]
        third = exchange(app, "POST", "/predict", {"inputs": rows, "output": "labels"})[2]["predictions"]
        asked = {"inputs": [tensor], "outputs": [{"name": "labels"}]}
        fourth = exchange(app, "POST", "/v2/models/digits/infer", asked)[2]["outputs"][0]["data"]
    labels = [
        [None if np.isnan(row).any() else str(int(row.argmax())) for row in answers] for answers in expected
    ]
    if shows == "labels":
        assert (first, second["data"]) == (labels[0], labels[1])
    else:
        assert np.array_equal(np.array([row or [np.nan] * 10 for row in first]), expected[0], equal_nan=True)
        assert np.array_equal(np.array(second["data"], dtype=float), expected[1].ravel(), equal_nan=True)
    assert (third, fourth) == (labels[2], labels[3])


def test_noise_is_fresh_for_each_query_and_the_same_after_a_restart(server):
    x = np.full((1, 1, 8, 8), 0.5, np.float32)

    def answers(numbers):
        predictor = server("gaussian_noise(scale=0.05)")
        return [
            asyncio.run(predictor.answer(Query(x), "ann", number)).probabilities.tolist()
            for number in numbers
        ]

    first = answers([0, 1])
    assert first[0] != first[1]
    assert answers([0, 1]) == first
    assert answers([None, None]) == first


def test_inputs_outside_of_the_space_are_refused_before_they_count_and_not_repeated(server):
    predictor = server()
    for rows in (np.full((1, 1, 8, 8), 3.25), np.full((1, 1, 8, 8), -0.5)):
        with pytest.raises(RejectedInputsError) as caught:
            predictor.accepted(Query(rows))
        assert str(caught.value) == "inputs must be in [0, 1]"


COLUMNS = (
    Column("age", "integer", 17, 90),
    Column.of_categories("job", ("cook", "smith"), missing=True),
    Column("member", "boolean", 0, 1),
    Column("rate", "number", 0, 1),
)


@pytest.fixture
def table():
    space = InputSpace.of_columns(COLUMNS)
    part = Labelled(np.array([[20, 0, 1, 0.5]] * 4, np.float32), np.zeros(4, np.int64))
    splits = Splits(part, part, part, part, classes=2, space=space)
    victim = Victim(lambda x: np.stack([1 - x[:, 2], x[:, 2]], axis=1), splits)
    served_table = ServedVictim(
        victim, DefenseStack(), name="table", version="1", shows="probabilities", seed=1
    )
    yield served_table
    served_table.close()


def test_rows_of_a_table_have_texts_booleans_and_gaps_or_the_numbers_of_categories(table):
    query = table.accepted(plain.decoded({"inputs": [[30, "smith", True, 0.25], [40, None, 0, 1]]}, table))
    expected = [[30, 1, 1, 0.25], [40, np.nan, 0, 1]]
    assert np.array_equal(query.rows, np.array(expected, np.float32), equal_nan=True)
    query = table.accepted(plain.decoded({"inputs": [[30, 1, 1, 0.25]]}, table))
    assert query.rows.tolist() == [[30, 1, 1, 0.25]]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ([30, "baker", True, 0.5], "column 'job' has to hold one of its categories"),
        ([30, True, True, 0.5], "column 'job' has to hold one of its categories"),
        (["x", "cook", True, 0.5], "column 'age' has to hold numbers"),
        ([True, "cook", True, 0.5], "column 'age' has to hold numbers"),
        ([None, "cook", True, 0.5], "inputs must be finite in column 'age'"),
        ([30.5, "cook", True, 0.5], "inputs must be whole numbers in column 'age'"),
        ([10**30, "cook", True, 0.5], "inputs must be in [17, 90] in column 'age'"),
        ([10**29, "cook", True, 1e300], "inputs must be finite"),
        ([91, "cook", True, 0.5], "inputs must be in [17, 90] in column 'age'"),
    ],
)
def test_a_row_that_does_not_fit_its_columns_is_refused_without_its_values(row, words, table):
    with pytest.raises(RejectedInputsError) as caught:
        table.accepted(Query([row]))
    assert str(caught.value) == words
