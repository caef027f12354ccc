import json
from pathlib import Path

import pytest
from asgi_client import FakePredictor, exchange, served

import bench.serve
from bench.serve.access_controls import Keys
from bench.serve.controls import Controls
from bench.serve.middleware.route import routes
from bench.serve.wire import oip

DOCUMENT = json.loads((Path(bench.serve.__file__).parent / "openapi.json").read_text())
REQUESTS = {
    "infer": {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [0.25, 1.0]}]},
    "predict": {"inputs": [[0.25, 1.0]]},
}


def test_the_document_has_the_routes_that_are_served_and_no_others():
    served_routes = {
        (path.decode().replace("/fake", "/{model}"), route.method.lower()): route
        for path, route in routes("fake", terms=True).items()
    }
    stated = {
        (path, method): operation
        for path, item in DOCUMENT["paths"].items()
        for method, operation in item.items()
        if method != "parameters"
    }
    assert stated.keys() == served_routes.keys()
    for key, operation in stated.items():
        assert (operation.get("security") == []) == served_routes[key].public
        assert ("requestBody" in operation) == served_routes[key].inputs


@pytest.mark.parametrize("keys", [True, False])
def test_answers_have_the_status_that_the_document_states(keys, tmp_path):
    (tmp_path / "pepper").write_bytes(b"p" * 32)
    (tmp_path / "pepper").chmod(0o600)
    with served(tmp_path, controls=Controls(keys=Keys(on=keys))) as app:
        for path, route in routes("fake").items():
            body = REQUESTS.get(route.name, b"")
            status, _, answer = exchange(app, route.method, path, body)
            stated = DOCUMENT["paths"][path.decode().replace("/fake", "/{model}")][route.method.lower()]
            assert str(status) in stated["responses"]
            assert status == (401 if keys and not route.public else 200)
            if status == 200 and route.name in REQUESTS:
                schema = stated["responses"]["200"]["content"]["application/json"]["schema"]
                name = schema["$ref"].rpartition("/")[2]
                assert set(DOCUMENT["components"]["schemas"][name]["required"]) <= answer.keys()


def test_the_document_names_the_types_that_are_read():
    stated = DOCUMENT["components"]["schemas"]["Tensor"]["properties"]["datatype"]["enum"]
    assert set(stated) == oip._FLOATS | set(oip._INTEGERS)
    outputs = FakePredictor().outputs
    assert {outputs.probabilities, outputs.labels} == set(
        DOCUMENT["components"]["schemas"]["PredictRequest"]["properties"]["output"]["enum"]
    )
