"""Recorded exchanges: what is sent to real servers, and what they answered."""

import json

import httpx2
import numpy as np
import pytest
from live_targets import inputs, target

from bench.errors import UsageError
from bench.remote.client import open_exchange, wire_of
from bench.remote.exchange import AttemptError, Inputs

TABLE = Inputs(
    np.zeros((2, 3), dtype=np.float32), [["red", 1, None], ["blue", 2, 0.5]], ("colour", "count", "share")
)
NAMED = Inputs(inputs(2).x, inputs(2).rows, ("left", "right"))
SENT = [
    (
        "oip",
        {},
        inputs(2),
        {
            "id": "q-17",
            "inputs": [
                {"name": "input-0", "shape": [2, 2], "datatype": "FP32", "data": [[0, 0.125], [0.25, 0.375]]}
            ],
        },
    ),
    (
        "oip",
        {"input": "x", "datatype": "INT64", "output": "predict"},
        Inputs(inputs(1).x, np.array([[3.0, 4.0]])),
        {
            "id": "q-17",
            "inputs": [{"name": "x", "shape": [1, 2], "datatype": "INT64", "data": [[3, 4]]}],
            "outputs": [{"name": "predict"}],
        },
    ),
    (
        "oip",
        {},
        TABLE,
        {
            "id": "q-17",
            "parameters": {"content_type": "pd"},
            "inputs": [
                {"name": "colour", "shape": [2, 1], "datatype": "BYTES", "data": ["red", "blue"]},
                {"name": "count", "shape": [2, 1], "datatype": "INT64", "data": [1, 2]},
                {"name": "share", "shape": [2, 1], "datatype": "FP64", "data": [None, 0.5]},
            ],
        },
    ),
    ("tfserving", {}, inputs(2), {"instances": [[0, 0.125], [0.25, 0.375]]}),
    (
        "tfserving",
        {"signature": "serving_default", "form": "columns"},
        inputs(2),
        {"signature_name": "serving_default", "inputs": [[0, 0.125], [0.25, 0.375]]},
    ),
    (
        "tfserving",
        {},
        TABLE,
        {
            "instances": [
                {"colour": "red", "count": 1, "share": None},
                {"colour": "blue", "count": 2, "share": 0.5},
            ]
        },
    ),
    (
        "tfserving",
        {"form": "columns"},
        TABLE,
        {"inputs": {"colour": ["red", "blue"], "count": [1, 2], "share": [None, 0.5]}},
    ),
    ("mlflow", {}, inputs(2), {"inputs": [[0, 0.125], [0.25, 0.375]]}),
    (
        "mlflow",
        {},
        TABLE,
        {
            "dataframe_split": {
                "columns": ["colour", "count", "share"],
                "data": [["red", 1, None], ["blue", 2, 0.5]],
            }
        },
    ),
    (
        "mlflow",
        {},
        NAMED,
        {"dataframe_split": {"columns": ["left", "right"], "data": [[0, 0.125], [0.25, 0.375]]}},
    ),
    (
        "json",
        {"request": '{"names": "$columns", "batch": [{"rows": "$inputs"}], "top": 3}'},
        TABLE,
        {
            "names": ["colour", "count", "share"],
            "batch": [{"rows": [["red", 1, None], ["blue", 2, 0.5]]}],
            "top": 3,
        },
    ),
]


SENT.append(("json", {"request": '{"x": "$input"}', "batch": 1}, inputs(1), {"x": [0, 0.125]}))


@pytest.mark.parametrize(("protocol", "values", "rows", "sent"), SENT)
def test_inputs_are_written_as_the_protocol_has_them(tmp_path, protocol, values, rows, sent):
    body = wire_of(target(tmp_path, protocol, **values)).body(rows, "q-17")
    assert json.loads(body) == sent


def test_numbers_are_sent_with_all_their_digits(tmp_path):
    x = np.array([[0.1, 1e-30], [np.nan, 3.4e38]], dtype=np.float32)
    document = json.loads(wire_of(target(tmp_path)).body(Inputs(x, x), "q"))
    data = document["inputs"][0]["data"]
    assert data[1][0] is None
    assert np.array_equal(np.array(data, dtype=np.float64).astype(np.float32), x, equal_nan=True)


def test_inputs_get_the_shape_that_the_target_wants(tmp_path):
    sent = []

    def answer(request):
        sent.append(json.loads(request.content)["inputs"])
        return httpx2.Response(200, json={"predictions": ROWS})

    def attempt(**values):
        made = target(tmp_path, "mlflow", **values)
        transport = httpx2.MockTransport(answer)
        exchange = open_exchange(made, folder=tmp_path, allowed_host=None, environ={}, transport=transport)
        return exchange.attempt(inputs(2, width=4), account="", idempotency="once")

    attempt(shape=[4])
    attempt(shape=[2, 1, 2])
    assert [np.shape(each) for each in sent] == [(2, 4), (2, 2, 1, 2)]
    with pytest.raises(AttemptError, match=r"4 numbers each, which go into no shape \[5\]") as caught:
        attempt(shape=[5])
    assert (caught.value.billed, caught.value.action) == ("no", "stop")


@pytest.mark.parametrize(
    ("values", "rows"),
    [({"datatype": "INT64"}, [[0.5, 1.0]]), ({"datatype": "UINT8"}, [[np.nan, 1.0]]), ({}, [[np.inf, 1.0]])],
)
def test_inputs_that_the_datatype_cannot_hold_are_not_sent(tmp_path, values, rows):
    array = np.array(rows)
    with pytest.raises(AttemptError) as caught:
        wire_of(target(tmp_path, **values)).body(Inputs(array.astype(np.float32), array), "q")
    assert (caught.value.billed, caught.value.action) == ("no", "stop")


def exchanged(tmp_path, protocol, answer, n=2, status=200, rows=None, **values):
    """Return the reply of a target that answers with ``answer``; its requests are kept on the reply."""
    content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    exchange = open_exchange(
        target(tmp_path, protocol, **values),
        folder=tmp_path,
        allowed_host=None,
        environ={},
        transport=httpx2.MockTransport(lambda _: httpx2.Response(status, content=content)),
    )
    try:
        return exchange.attempt(rows or inputs(n), account="", idempotency="q-17")
    finally:
        exchange.close()


ROWS = [[0.5, 0.25, 0.25], [0.125, 0.75, 0.125]]
MLSERVER = {
    "model_name": "digits",
    "model_version": "v1",
    "id": "q-17",
    "parameters": {},
    "outputs": [
        {
            "name": "predict_proba",
            "shape": [2, 3],
            "datatype": "FP32",
            "parameters": {"content_type": "np"},
            "data": [0.5, 0.25, 0.25, 0.125, 0.75, 0.125],
        }
    ],
}
LABELS = {"name": "predict", "shape": [2, 1], "datatype": "INT64", "data": [0, 1]}
ANSWERED = [
    ("oip", {}, MLSERVER, "digits v1"),
    (
        "oip",
        {"output": "predict_proba"},
        {**MLSERVER, "outputs": [LABELS, *MLSERVER["outputs"]]},
        "digits v1",
    ),
    ("oip", {}, {"outputs": [{**MLSERVER["outputs"][0], "data": ROWS}]}, ""),
    ("tfserving", {}, {"predictions": ROWS}, ""),
    ("tfserving", {"output": "p"}, {"predictions": [{"p": row, "label": 1} for row in ROWS]}, ""),
    ("tfserving", {"form": "columns"}, {"outputs": ROWS}, ""),
    ("tfserving", {"form": "columns", "output": "p"}, {"outputs": {"p": ROWS, "label": [0, 1]}}, ""),
    ("tfserving", {}, {"predictions": ROWS, "deployedModelId": "77", "model": "projects/p/m"}, "77"),
    ("mlflow", {}, {"predictions": ROWS}, ""),
    ("mlflow", {}, {"predictions": [dict(zip("abc", row, strict=True)) for row in ROWS]}, ""),
    ("json", {}, {"answers": ROWS}, ""),
    ("json", {"output": "@"}, ROWS, ""),
    (
        "json",
        {"output": "predictions[*].scores", "identity": "deployedModelId"},
        {"predictions": [{"scores": row} for row in ROWS], "deployedModelId": 77},
        "77",
    ),
    (
        "json",
        {"output": "r[*].s[*].[l, p]"},
        {"r": [{"s": [{"l": n, "p": p} for n, p in zip("cba", row[::-1], strict=True)]} for row in ROWS]},
        "",
    ),
]


@pytest.mark.parametrize(("protocol", "values", "answer", "identity"), ANSWERED)
def test_probabilities_are_read_by_every_protocol(tmp_path, protocol, values, answer, identity):
    reply = exchanged(tmp_path, protocol, answer, **values)
    assert reply.answers.tolist() == ROWS
    assert (reply.identity, reply.digits) == (identity, 3)


@pytest.mark.parametrize(
    ("protocol", "values", "answer"),
    [
        ("oip", {}, {"outputs": [LABELS]}),
        ("oip", {}, {"outputs": [{**LABELS, "shape": [2]}]}),
        (
            "oip",
            {"classes": ["cat", "dog", "cow"]},
            {"outputs": [{**LABELS, "datatype": "BYTES", "data": ["cat", "dog"]}]},
        ),
        ("tfserving", {}, {"predictions": [0, 1]}),
        ("mlflow", {}, {"predictions": [0, 1]}),
        ("mlflow", {}, {"predictions": [0.0, 1.0]}),
        ("json", {"classes": ["False", "True", "other"]}, {"answers": [False, True]}),
        ("json", {"classes": ["0", "1"], "output": "answers"}, {"answers": [["0"], ["1"]]}),
    ],
)
def test_labels_become_one_in_their_class(tmp_path, protocol, values, answer):
    reply = exchanged(tmp_path, protocol, answer, answers="labels", **{"classes": ["0", "1", "2"], **values})
    assert reply.answers[:, :2].tolist() == [[1, 0], [0, 1]]
    assert not reply.answers[:, 2:].any()
    assert reply.digits == 0


HTML = b"<!DOCTYPE html><html><body>Log in</body></html>"
UNREADABLE = [
    ("oip", {}, HTML, "an HTML page"),
    ("oip", {}, b"", "answers with nothing"),
    ("oip", {}, b"\xff\xfe", "no JSON"),
    ("oip", {}, b"[" * 100_000, "no JSON"),
    ("oip", {"accounts": [{"name": "me"}]}, b"[" * 900 + b"]" * 900, "no JSON"),
    ("oip", {}, b"1" * 5000, "no JSON"),
    ("oip", {}, [1, 2], "no field 'outputs'"),
    ("oip", {}, {"predictions": ROWS}, "no field 'outputs', but 'predictions'"),
    ("oip", {}, {"error": "Model nope not found"}, "under status 200 (Model nope not found)"),
    ("oip", {}, {**MLSERVER, "id": "q-18"}, "the id of another request"),
    ("oip", {}, {"outputs": []}, "none at all"),
    ("oip", {}, {"outputs": "p"}, "no list of tensors"),
    ("oip", {"output": "predict_probas"}, MLSERVER, "did you mean 'predict_proba'"),
    ("oip", {}, {"outputs": [LABELS, *MLSERVER["outputs"]]}, "name one of them as output"),
    ("oip", {}, {"outputs": [{**MLSERVER["outputs"][0], "shape": [2, 4]}]}, "does not go with its 6 values"),
    ("oip", {}, {"outputs": [{**MLSERVER["outputs"][0], "shape": [-1, 3]}]}, "which is none"),
    (
        "oip",
        {},
        {"outputs": [{**MLSERVER["outputs"][0], "shape": [3, 2]}]},
        "2 inputs were sent and 3 answers",
    ),
    ("oip", {}, {"outputs": [{**MLSERVER["outputs"][0], "data": [[0.5], 1]}]}, "nested unevenly"),
    ("oip", {}, {"outputs": [{**MLSERVER["outputs"][0], "shape": [2, 0], "data": []}]}, "0 answers came"),
    ("tfserving", {}, {"error": "Could not find any versions of model"}, "under status 200"),
    ("tfserving", {}, {"predictions": {"p": ROWS}}, "the answers are no list"),
    ("tfserving", {"form": "columns"}, {"outputs": {"p": ROWS}}, "name one of them as output"),
    ("tfserving", {"output": "q"}, {"predictions": [{"p": row} for row in ROWS]}, "no field 'q', but 'p'"),
    ("mlflow", {}, {"predictions": ROWS[:1]}, "2 inputs were sent and 1 answers came"),
    ("json", {"output": "predictions[*].scores"}, {"predictions": [{"scores": ROWS[0]}, {}]}, "drops rows"),
    (
        "json",
        {"output": "scores"},
        {"answers": ROWS},
        "output finds nothing in the answer, which has 'answers'",
    ),
    ("json", {"output": "length(answers)"}, {"answers": 5}, "cannot be applied"),
]


@pytest.mark.parametrize(("protocol", "values", "answer", "sentence"), UNREADABLE)
def test_an_answer_that_cannot_be_read_was_billed_and_stops(tmp_path, protocol, values, answer, sentence):
    with pytest.raises(AttemptError) as caught:
        exchanged(tmp_path, protocol, answer, **values)
    assert sentence in str(caught.value)
    assert (caught.value.billed, caught.value.action) == ("yes", "stop")


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"request": "{"}, "request is no JSON"),
        ({"request": '{"x": "inputs"}'}, 'the text "$inputs"'),
        ({"request": '{"x": "$input"}'}, "so batch has to be 1"),
        ({"output": "a[["}, "output is no JMESPath"),
        ({"identity": ")"}, "identity is no JMESPath"),
        ({"output": "unknown(@)"}, "output is no JMESPath"),
    ],
)
def test_a_broken_template_is_found_before_anything_is_sent(tmp_path, values, sentence):
    with pytest.raises(UsageError) as caught:
        wire_of(target(tmp_path, "json", **values))
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("protocol", "values", "address"),
    [
        ("oip", {}, "http://127.0.0.1:8080/v2/models/digits/infer"),
        (
            "oip",
            {"version": "v1", "url": "http://127.0.0.1/api/"},
            "http://127.0.0.1/api/v2/models/digits/versions/v1/infer",
        ),
        ("oip", {"model": "../a b"}, "http://127.0.0.1:8080/v2/models/..%2Fa%20b/infer"),
        ("tfserving", {}, "http://127.0.0.1:8080/v1/models/digits:predict"),
        ("tfserving", {"version": "2"}, "http://127.0.0.1:8080/v1/models/digits/versions/2:predict"),
        ("mlflow", {}, "http://127.0.0.1:8080/invocations"),
        ("mlflow", {"url": "http://127.0.0.1:8080/invocations"}, "http://127.0.0.1:8080/invocations"),
        ("json", {"url": "http://127.0.0.1/p?version=1"}, "http://127.0.0.1/p?version=1"),
    ],
)
def test_requests_go_to_the_path_of_the_protocol(tmp_path, protocol, values, address):
    assert wire_of(target(tmp_path, protocol, **values)).address == address
