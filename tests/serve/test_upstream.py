import asyncio
import json

import httpx2
import numpy as np
import pytest
from asgi_client import exchange, served

from bench.errors import UsageError
from bench.models.defended_predictor import DefendedPredictor
from bench.remote.target import Account, Target
from bench.serve.access_controls import Keys
from bench.serve.controls import Controls
from bench.serve.predictor import Query, UpstreamError
from bench.serve.state import State, state_file
from bench.serve.upstream import Upstream
from defenses.base import DefenseStack
from defenses.label_only import LabelOnly
from defenses.mahalanobis import Mahalanobis
from defenses.rounded import Rounded

TARGET = {
    "url": "http://127.0.0.1:9",
    "protocol": "oip",
    "model": "inner",
    "output": "predict_proba",
    "classes": ("a", "b"),
}
OPEN = Controls(keys=Keys(on=False))


class Server:
    """A server of the owner's: notes each request, answers .37 and .63."""

    def __init__(self, answer=None):
        self.requests, self.answer = [], answer

    def __call__(self, request):
        self.requests.append(request)
        if self.answer is not None:
            return self.answer(request)
        body = json.loads(request.content)
        n = body["inputs"][0]["shape"][0]
        output = {"name": "predict_proba", "shape": [n, 2], "datatype": "FP32", "data": [0.37, 0.63] * n}
        document = {"model_name": "secret-name", "id": body["id"], "outputs": [output]}
        return httpx2.Response(200, json=document, headers={"X-Inner": "secret", "Set-Cookie": "a=b"})


def upstream(server, *, environ=None, shows="probabilities", **changes):
    return Upstream(
        Target(**TARGET | changes),
        name="outer",
        version="3",
        shape=(3,),
        shows=shows,
        environ=environ or {},
        transport=httpx2.MockTransport(server),
    )


def ask(app, rows, headers=()):
    headers = (("content-type", "application/json"), *headers)
    return exchange(app, "POST", "/predict", {"inputs": rows}, headers)


def test_the_request_is_written_anew_and_nothing_of_the_inner_answer_but_its_numbers_comes_back(tmp_path):
    server = Server()
    spoofed = (("x-forwarded-for", "1.2.3.4"), ("cookie", "c"), ("authorization", "Bearer client"))
    inner = upstream(
        server, accounts=(Account(name="upstream", key_env="INNER"),), environ={"INNER": "inner-key"}
    )
    with served(tmp_path, inner, OPEN) as app:
        status, headers, answer = ask(app, [[1, 2, 3], [4, 5, 6]], spoofed)
    assert (status, answer) == (200, {"predictions": [[0.37, 0.63]] * 2})
    assert not {"x-inner", "set-cookie"} & headers.keys()
    (request,) = server.requests
    assert str(request.url) == "http://127.0.0.1:9/v2/models/inner/infer"
    assert request.headers["authorization"] == "Bearer inner-key"
    assert not {"x-forwarded-for", "cookie"} & request.headers.keys()
    body = json.loads(request.content)
    assert body["inputs"][0]["data"] == [[1, 2, 3], [4, 5, 6]]
    assert body["outputs"] == [{"name": "predict_proba"}]


@pytest.mark.parametrize(
    "answer",
    [
        lambda _: httpx2.Response(500, text="Traceback: secret"),
        lambda _: httpx2.Response(302, headers={"Location": "http://127.0.0.1:8/"}),
        lambda _: httpx2.Response(200, json={"outputs": []}),
        lambda _: httpx2.Response(200, text="<html>secret"),
        lambda _: (each for each in ()).throw(httpx2.ReadError("secret")),
        lambda _: (each for each in ()).throw(httpx2.ReadTimeout("secret")),
    ],
)
def test_a_lost_answer_stays_counted_and_says_nothing_of_the_server_behind(answer, tmp_path):
    server = Server(answer)
    with served(tmp_path, upstream(server), OPEN) as app:
        assert ask(app, [[1, 2, 3]] * 4)[::2] == (502, {"error": "the model gave no answer"})
    assert len(server.requests) == 1
    with State(state_file(tmp_path)) as state:
        assert state.rows("select spent from counters") == [(4,)]


def test_labels_alone_are_shown_where_the_guard_shows_labels(tmp_path):
    with served(tmp_path, upstream(Server(), shows="labels"), OPEN) as app:
        assert ask(app, [[1, 2, 3]])[2] == {"predictions": ["b"]}
        assert exchange(app, "GET", "/v2/models/outer", b"", ())[2]["outputs"] == [
            {"name": "labels", "datatype": "BYTES", "shape": [-1, 1]}
        ]


def test_defenses_that_need_no_model_change_answers_and_others_are_refused():
    def answers(*defenses, shows="probabilities"):
        stack = DefenseStack(defenses)
        predictor = DefendedPredictor(upstream(Server()), stack, seed=1, shows=shows)
        return asyncio.run(predictor.answer(Query(np.ones((2, 3))), "ann")).probabilities.tolist()

    assert answers(Rounded(decimals=1)) == [[0.4, 0.6]] * 2
    assert answers(LabelOnly()) == [[0, 1]] * 2
    assert answers(Rounded(decimals=1), shows="labels") == [[0, 1]] * 2
    with pytest.raises(UsageError, match="needs the model and its data"):
        answers(Mahalanobis())


def test_a_missing_key_of_the_server_is_said_without_a_request():
    with pytest.raises(UsageError, match="is not set"):
        upstream(Server(), accounts=(Account(name="upstream", key_env="INNER"),))


def test_rows_of_a_table_are_sent_as_they_came():
    def answer(request):
        split = json.loads(request.content)["dataframe_split"]
        assert split == {"columns": ["age", "job"], "data": [[30, "cook"], [None, "smith"]]}
        return httpx2.Response(200, json={"predictions": [[0.5, 0.5]] * 2})

    server = Server(answer)
    target = Target(url="http://127.0.0.1:9", protocol="mlflow", classes=("a", "b"))
    inner = Upstream(
        target,
        name="outer",
        version="1",
        shape=(2,),
        columns=("age", "job"),
        environ={},
        transport=httpx2.MockTransport(server),
    )
    query = inner.accepted(Query([[30, "cook"], [None, "smith"]]))
    assert len(asyncio.run(inner.answer(query, "ann"))) == 2


def test_an_error_of_the_server_behind_shows_no_key():
    server = Server(lambda _: httpx2.Response(400, json={"error": "bad inner-key"}))
    inner = upstream(server, accounts=(Account(name="u", key_env="INNER"),), environ={"INNER": "inner-key"})
    with pytest.raises(UpstreamError) as caught:
        asyncio.run(inner.answer(Query(np.ones((1, 3))), "ann"))
    assert "inner-key" not in f"{caught.value} {inner!r} {caught.value.__cause__}"


TABLE = {"url": "http://127.0.0.1:9", "protocol": "mlflow", "classes": ("a", "b")}


@pytest.mark.parametrize("value", ["1e400", "1e39", "10" + "0" * 24, r'"\ud800"'])
def test_values_of_a_table_that_no_request_can_hold_are_refused_before_they_are_counted(value, tmp_path):
    server = Server()
    transport = httpx2.MockTransport(server)
    inner = Upstream(
        Target(**TABLE), name="m", version="1", shape=(2,), columns=("x", "y"), transport=transport
    )
    with served(tmp_path, inner, OPEN) as app:
        status, _, answer = exchange(app, "POST", "/predict", f'{{"inputs": [[null, {value}]]}}'.encode())
        with State(tmp_path / "state.sqlite") as state:
            counted = state.rows("select * from counters")
    assert (status, server.requests, counted) == (400, [], [])
    assert answer["error"].endswith(("numbers of single precision", "at most 64 bits", "have to be Unicode"))


def test_whoever_asks_often_whether_it_is_ready_sends_the_server_behind_one_request():
    server = Server(lambda _: httpx2.Response(200, json={"ready": True}))

    async def many(inner):
        return await asyncio.gather(*(inner.ready() for _ in range(50)))

    inner = upstream(server)
    assert all(asyncio.run(many(inner)))
    once = len(server.requests)
    inner.close()
    inner = upstream(server)
    asyncio.run(inner.ready())
    inner.close()
    assert len(server.requests) - once == once
