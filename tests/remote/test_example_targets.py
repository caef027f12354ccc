"""The target files in examples/targets are read, and do what they say."""

import io
import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from live_targets import inputs

from bench.errors import UsageError
from bench.remote.client import open_exchange, wire_of
from bench.remote.exchange import AttemptError, Inputs
from bench.remote.target import Target, load_target

TARGETS = Path(__file__).parents[2] / "examples" / "targets"
FILES = sorted(TARGETS.glob("*.toml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_example_is_read_and_asks_its_owner_if_it_is_elsewhere(path):
    target = load_target(path)
    here = "127.0.0.1" in target.url
    resolver = (lambda *_: ("127.0.0.1",)) if here else (lambda *_: ("203.0.113.5",))
    if here:
        exchange = open_exchange(target, folder=TARGETS, allowed_host=None, environ={}, resolver=resolver)
        exchange.close()
    else:
        with pytest.raises(UsageError, match="pass --i-am-allowed-to-test"):
            open_exchange(target, folder=TARGETS, allowed_host=None, environ={}, resolver=resolver)


def test_the_page_has_every_field_with_its_default():
    page = (TARGETS / "README.md").read_text(encoding="utf-8")
    stated = {}
    for line in page.splitlines():
        if line.startswith("| `") and ".toml`" not in line:
            names, default = line.strip("| ").split(" | ")[:2]
            names, values = names.split(", "), default.split(", ")
            values = values if len(values) == len(names) else [default] * len(names)
            stated |= {name.strip("`"): value.strip("`") for name, value in zip(names, values, strict=True)}
    assert sorted(stated) == sorted(Target.model_fields)
    for name, field in Target.model_fields.items():
        default = field.default
        if isinstance(default, bool | str):
            assert stated[name] == str(default).replace("False", "false"), name
        elif isinstance(default, int | float):
            assert float(stated[name]) == default, name


def test_vertex_is_reached_by_the_template():
    wire = wire_of(load_target(TARGETS / "vertex.toml"))
    assert json.loads(wire.body(inputs(1), "once")) == {"instances": [[0, 0.125]]}
    answer = {"predictions": [[0.25, 0.75]], "deployedModelId": "5", "model": "projects/p/models/m"}
    assert wire.rows(answer, 1, "once") == ([[0.25, 0.75]], "5")


class ClientError(Exception):
    def __init__(self, code):
        super().__init__(code)
        self.response = {"Error": {"Code": code}}


@pytest.fixture
def sagemaker(monkeypatch):
    """Return the exchange of the example, with a stand-in for boto3 that raises ``codes``, if any."""
    sent, codes = [], []

    def invoke_endpoint(**request):
        sent.append(request)
        if codes:
            raise ClientError(codes.pop())
        rows = json.loads(request["Body"])["instances"]
        return {"Body": io.BytesIO(json.dumps({"predictions": [[0.25, 0.75]] * len(rows)}).encode())}

    def client(_, config):
        assert config.retries == {"total_max_attempts": 1}
        return types.SimpleNamespace(invoke_endpoint=invoke_endpoint)

    modules = {
        "boto3": types.SimpleNamespace(client=client),
        "botocore": types.ModuleType("botocore"),
        "botocore.config": types.SimpleNamespace(Config=types.SimpleNamespace),
        "botocore.exceptions": types.SimpleNamespace(ClientError=ClientError),
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    exchange = open_exchange(
        load_target(TARGETS / "sagemaker.toml"),
        folder=TARGETS,
        allowed_host=None,
        environ={},
        resolver=lambda *_: ("127.0.0.1",),
    )
    return exchange, sent, codes


def test_sagemaker_is_reached_by_the_function(sagemaker):
    exchange, sent, _ = sagemaker
    x = np.zeros((3, 2), dtype=np.float32)
    assert (
        exchange.attempt(Inputs(x, x), account="", idempotency="once").answers.tolist() == [[0.25, 0.75]] * 3
    )
    assert sent[0]["EndpointName"] == "my-endpoint"


@pytest.mark.parametrize(
    ("code", "billed", "action"),
    [
        ("ThrottlingException", "no", "retry"),
        ("ModelError", "unknown", "isolate"),
        ("ValidationError", "no", "stop"),
        ("AccessDeniedException", "no", "stop"),
    ],
)
def test_failures_of_sagemaker_are_judged(sagemaker, code, billed, action):
    exchange, sent, codes = sagemaker
    codes.append(code)
    with pytest.raises(AttemptError, match=code) as caught:
        exchange.attempt(inputs(1), account="", idempotency="once")
    assert (caught.value.billed, caught.value.action) == (billed, action)
    assert len(sent) == 1
