import json
import sqlite3

import numpy as np
import pytest
from asgi_client import JSON, FakePredictor, exchange, served
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.serve.controls import Controls, Keys, Quota, Size
from bench.serve.predictor import RejectedInputsError, UpstreamError
from bench.serve.wire import oip, plain, strict_json

INFER = "/v2/models/fake/infer"
ROWS = [[0.25, 1.0], [0.75, 0.0]]


def tensor(**changes):
    return {"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [0.25, 1.0, 0.75, 0.0], **changes}


@pytest.fixture
def predictor():
    return FakePredictor()


@pytest.fixture
def app(tmp_path, predictor):
    with served(tmp_path, predictor, Controls(quota=Quota(on=False), keys=Keys(on=False))) as app:
        yield app


def test_both_routes_answer_the_same(app):
    status, headers, plain_answer = exchange(app, "POST", "/predict", {"inputs": ROWS})
    assert (status, headers["content-type"]) == (200, "application/json")
    assert plain_answer == {"predictions": [[0.75, 0.25], [0.25, 0.75]]}
    _, _, answer = exchange(app, "POST", INFER, {"id": "q", "inputs": [tensor()]})
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("q", "fake", "1")
    (output,) = answer["outputs"]
    assert (output["name"], output["shape"]) == ("probabilities", [2, 2])
    assert output["data"] == [0.75, 0.25, 0.25, 0.75]


def test_labels_are_shown_where_they_are_asked_for_and_probabilities_never_where_labels_are_shown(
    app, tmp_path
):
    labels = exchange(app, "POST", INFER, {"inputs": [tensor()], "outputs": [{"name": "labels"}]})[2]
    assert labels["outputs"][0]["data"] == ["no", "yes"]
    assert exchange(app, "POST", "/predict", {"inputs": ROWS, "output": "labels"})[2] == {
        "predictions": ["no", "yes"]
    }
    with served(
        tmp_path / "labels",
        FakePredictor(shows="labels"),
        Controls(quota=Quota(on=False), keys=Keys(on=False)),
    ) as other:
        assert exchange(other, "POST", "/predict", {"inputs": ROWS})[2] == {"predictions": ["no", "yes"]}
        for path, body in (
            ("/predict", {"inputs": ROWS, "output": "probabilities"}),
            (INFER, {"inputs": [tensor()], "outputs": [{"name": "probabilities"}]}),
            (INFER, {"inputs": [tensor()], "outputs": [{"name": "predict_proba"}]}),
        ):
            status, _, answer = exchange(other, "POST", path, body)
            assert status == 400
            assert answer == {
                "error": "there is no such output; the model's metadata name those that are shown"
            }
        model = exchange(other, "GET", "/v2/models/fake", b"", ())[2]
        assert [each["name"] for each in model["outputs"]] == ["labels"]


@pytest.mark.parametrize(
    "path",
    [
        *("/v2/models/%66ake/infer", "/v2/models/fake/versions/1/infer", "/v2/models/fake/infer/"),
        *("//v2/models/fake/infer", "/v2/models/x/../fake/infer", "/V2/models/fake/infer", "/predict/"),
        *("/v2/models/other/infer", "http://127.0.0.1/predict", "/docs", "/openapi.json", "/metrics", "/"),
        *("/v2/models/fake/generate", "/v2/repository/index", "/predict;a", "/predict%00", "*"),
    ],
)
def test_no_other_spelling_of_a_path_is_there(path, app, predictor):
    status, _, answer = exchange(app, "POST", path, {"inputs": ROWS})
    assert (status, answer) == (404, {"error": "not found"})
    assert not predictor.queries


def test_a_query_string_and_another_method_are_refused_with_the_same_text(app, predictor):
    assert exchange(app, "POST", "/predict", {"inputs": ROWS}, query=b"x=1")[::2] == (
        404,
        {"error": "not found"},
    )
    for method in ("GET", "PUT", "OPTIONS", "HEAD", "DELETE", "TRACE"):
        status, headers, answer = exchange(app, method, "/predict")
        assert (status, answer, headers["allow"]) == (405, {"error": "not found"}, "POST")
    assert not predictor.queries


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"[]", b"null", b"\xff\xfe", b'\xef\xbb\xbf{"inputs": [[0, 1]]}', b"[" * 100_000),
        *(b'{"inputs": [[0, 1]], "inputs": [[0, 1]]}', b'{"inputs": [[NaN, 1]]}', b'{"inputs": [[0,1]]} x'),
        *(b'{"inputs": [[Infinity, 1]]}', b'{"inputs": [[1e999, 1]]}', b'{"inputs": [[1e39, 1]]}'),
        *(b'{"inputs": [[1' + b"0" * 5000 + b", 1]]}", b'{"inputs": [[1' + b"0" * 60 + b", 1]]}"),
        *(b'{"inputs": []}', b'{"inputs": [[]]}', b'{"inputs": {}}', b'{"inputs": [0, 1]}', b'{"inputs": 1}'),
        *(b'{"inputs": [[true, 1]]}', b'{"inputs": [["0", 1]]}', b'{"inputs": [[null, 1]]}'),
        *(b'{"inputs": [[0, 1], [0]]}', b'{"inputs": [[0, 1, 2]]}', b'{"inputs": [[0], [1]]}'),
        *(b'{"inputs": [[0, 1]], "more": 1}', b'{"inputs": [[0, [1]]]}', b'{"inputs": [[0, {}]]}'),
        *(b'{"inputs": [[0, 1]], "output": "x"}', b'{"inputs": [[0, 1]], "output": 1}', b'{"instances": []}'),
    ],
    ids=lambda body: body[:40],
)
def test_what_the_plain_route_could_misread_is_refused(body, app, predictor):
    status, headers, answer = exchange(app, "POST", "/predict", body)
    assert (status, list(answer)) == (400, ["error"])
    assert len(answer["error"]) < 120
    assert headers["content-type"] == "application/json"
    assert not predictor.queries


@pytest.mark.parametrize(
    "changes",
    [
        *({"shape": [-1, 2]}, {"shape": [2, -1]}, {"shape": [0, 2]}, {"shape": [3, 2]}, {"shape": [1, 2]}),
        *({"shape": [True, 2]}, {"shape": [2.0, 2]}, {"shape": [2]}, {"shape": [2, 2, 1]}, {"shape": "2"}),
        *({"shape": [4, 1]}, {"shape": [2**40, 2]}, {"shape": [2] * 9}, {"data": []}, {"data": {"a": 1}}),
        *(
            {"data": [True, 1, 2, 3]},
            {"data": [None, 1, 2, 3]},
            {"data": ["0", 1, 2, 3]},
            {"data": [0.0] * 5},
        ),
        *(
            {"data": [[0, 1], [2]]},
            {"data": [[0, 1, 2, 3]]},
            {"data": [[0, 1], 2, 3]},
            {"data": [[[0, 1]]] * 2},
        ),
        *({"datatype": "BYTES"}, {"datatype": "BOOL"}, {"datatype": "fp32"}, {"datatype": None}),
        *({"datatype": "INT64"}, {"datatype": "UINT8", "data": [-1, 1, 2, 3]}, {"name": 3}, {"name": ""}),
        *({"parameters": {"a": 1}}, {"more": 1}, {"data": [1e39, 1, 2, 3]}, {"data": [10**40, 1, 2, 3]}),
    ],
    ids=str,
)
def test_what_a_tensor_could_be_misread_as_is_refused(changes, app, predictor):
    status, _, answer = exchange(app, "POST", INFER, {"inputs": [tensor(**changes)]})
    assert (status, list(answer)) == (400, ["error"])
    assert not predictor.queries


@pytest.mark.parametrize(
    "body",
    [
        *({"inputs": [tensor()] * 2}, {"inputs": []}, {"inputs": tensor()}, {"outputs": []}, {}),
        *({"inputs": [tensor()], "id": "a b"}, {"inputs": [tensor()], "id": 3}),
        *({"inputs": [tensor()], "id": "x" * 129}, {"inputs": [tensor()], "id": "a\r\nb"}),
        *({"inputs": [tensor()], "outputs": []}, {"inputs": [tensor()], "outputs": [{"name": "labels"}] * 2}),
        *({"inputs": [tensor()], "outputs": [{}]}, {"inputs": [tensor()], "outputs": [{"name": None}]}),
        *({"inputs": [tensor()], "parameters": {"content_type": "np"}},),
    ],
    ids=lambda body: json.dumps(body)[:60],
)
def test_what_a_request_of_tensors_could_be_misread_as_is_refused(body, app, predictor):
    assert exchange(app, "POST", INFER, body)[0] == 400
    assert not predictor.queries


@pytest.mark.parametrize(
    "headers",
    [
        *((), (("content-type", "text/plain"),), (("content-type", "application/x-www-form-urlencoded"),)),
        *((("content-type", "application/json"),) * 2, (*JSON, ("content-encoding", "gzip"))),
        *((*JSON, ("content-encoding", "identity")), (("content-type", "application/json; charset=utf-7"),)),
    ],
    ids=str,
)
def test_other_content_types_and_compressed_bodies_are_refused(headers, app, predictor):
    assert exchange(app, "POST", "/predict", {"inputs": ROWS}, headers)[0] == 415
    assert not predictor.queries


def test_a_body_may_come_in_parts_and_no_longer_than_allowed(tmp_path, predictor):
    body = json.dumps({"inputs": ROWS}).encode()
    controls = Controls(quota=Quota(on=False), keys=Keys(on=False), size=Size(body_bytes=1_000, inputs=3))
    with served(tmp_path, predictor, controls) as app:
        assert exchange(app, "POST", "/predict", parts=[body[:5], b"", body[5:]])[0] == 200
        assert exchange(app, "POST", "/predict", parts=[b" " * 600, b" " * 600, body])[0] == 413
        too_long = exchange(app, "POST", "/predict", b" " * 1_001)
        assert too_long[0] == 413
        assert too_long[1]["connection"] == "close"
        length = (("content-length", "9" * 30),)
        assert exchange(app, "POST", "/predict", b"", (*JSON, *length))[0] == 413
        assert exchange(app, "POST", "/predict", b"", (*JSON, ("content-length", "-1")))[0] == 400
        assert exchange(app, "POST", "/predict", {"inputs": ROWS[:1] * 4})[0] == 413
    assert len(predictor.queries) == 1


def test_a_body_and_an_answer_that_take_too_long_end_the_request(tmp_path, predictor):
    controls = Controls(
        quota=Quota(on=False), keys=Keys(on=False), size=Size(seconds=0.05, answer_seconds=0.05)
    )
    with served(tmp_path, predictor, controls) as app:
        status, headers, answer = exchange(app, "POST", "/predict", parts=[b"{", None])
        assert (status, answer["error"], headers["connection"]) == (408, "the body took too long", "close")
        predictor.wait = 30
        assert exchange(app, "POST", "/predict", {"inputs": ROWS})[0] == 504


def test_no_failure_of_the_model_reaches_a_client(app, predictor, caplog):
    for failure, status, text in (
        (RejectedInputsError("inputs must be in [0, 1]"), 400, "inputs must be in [0, 1]"),
        (UpstreamError("secret"), 502, "the model gave no answer"),
        (ValueError("secret"), 500, "the server failed"),
        (sqlite3.OperationalError("secret"), 503, "the server cannot answer now"),
    ):
        predictor.failure = failure
        got, _, answer = exchange(app, "POST", "/predict", {"inputs": ROWS})
        assert (got, answer) == (status, {"error": text})
    assert "secret" not in caplog.text
    assert "ValueError" in caplog.text


def test_a_full_disk_ends_the_server_after_an_answer_without_probabilities(tmp_path, predictor):
    lost = []
    with served(
        tmp_path, predictor, Controls(quota=Quota(on=False), keys=Keys(on=False)), lost=lost.append
    ) as app:
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        predictor.failure = error
        status, _, answer = exchange(app, "POST", "/predict", {"inputs": ROWS})
    assert (status, answer) == (503, {"error": "the server cannot answer now"})
    assert lost == ["the state file cannot be written, and nothing may be answered that is not counted"]


def test_anybody_may_ask_whether_it_lives(app, predictor):
    assert exchange(app, "GET", "/v2/health/live", b"", ())[::2] == (200, {"live": True})
    assert exchange(app, "GET", "/v2/health/ready", b"", ())[::2] == (200, {"ready": True})
    predictor.failure = ValueError()
    assert exchange(app, "GET", "/v2/health/ready", b"", ())[::2] == (503, {"ready": False})


def test_every_answer_has_an_id_and_is_not_kept(app):
    first, second = (exchange(app, "GET", "/v2/health/live", b"", ())[1] for _ in range(2))
    assert first["cache-control"] == "no-store"
    assert len(first["x-request-id"]) == 32
    assert first["x-request-id"] != second["x-request-id"]


values = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**20), 10**20), st.floats(width=32), st.text(max_size=3)
)
trees = st.recursive(values, lambda inner: st.lists(inner, max_size=4), max_leaves=12)


@given(rows=trees)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_number_of_inputs_counted_is_the_number_of_answers_on_the_plain_route(rows):
    predictor = FakePredictor(columns=("a", "b"))
    try:
        document = strict_json.parsed(json.dumps({"inputs": rows}).encode())
        query = plain.decoded(document, predictor)
    except strict_json.BadRequestError:
        return
    assert len(query) == len(rows) >= 1
    assert all(np.size(np.array(row, dtype=object)) == 2 for row in query.rows)


@given(
    shape=st.lists(st.integers(-2, 4), max_size=3),
    data=st.one_of(st.lists(st.integers(0, 3), max_size=10), trees),
)
@settings(max_examples=200, deadline=None)
def test_the_number_of_inputs_counted_is_the_number_of_answers_of_a_tensor(shape, data):
    predictor = FakePredictor()
    try:
        query = oip.decoded({"inputs": [tensor(shape=shape, data=data)]}, predictor)
    except strict_json.BadRequestError:
        return
    assert len(query) == shape[0] == query.rows.size // 2 >= 1


def test_a_length_that_is_said_in_two_ways_is_refused(app, predictor):
    headers = (("content-type", "application/json"), ("content-length", "3"))
    status, _, answer = exchange(app, "POST", "/predict", headers=headers, parts=[b'{"inputs": [[0, 1]]}'])
    assert (status, predictor.queries) == (400, [])
    assert answer == {"error": "the length of the body has to be said once"}
