"""Every probe finds that moatbench's own server keeps its controls."""

import time

import pytest
from asgi_line import AsgiLine, Clock
from our_server import our_server
from probing import a_target, probing

from bench.remote.probing.registry import PROBES, chosen
from bench.remote.probing.run import run_probes
from bench.remote.target import Account, SecondFactor

KEY, TOKEN = Account(name="ann", key_env="ANN"), Account(name="ann by token", key_env="ANN_TOKEN")
CODE = '{"code": "$code"}'
FACTOR = SecondFactor.model_validate(
    {"url": "http://127.0.0.1:9001/login", "secret_env": "TOTP", "account": "ops", "body": CODE}
)
FREE = {"quota": {"inputs": 100_000, "rate": "100000/minute"}}
CONTROLS = {
    "noise": FREE,
    "precision": FREE,
    "smuggled-rows": FREE,
    "error-leaks": FREE,
    "size": FREE,
    "race": {"quota": {"inputs": 100, "rate": "1000/minute"}},
    "detection": {**FREE, "suspension": {"flagged": 30}},
}
"""The controls of the server, where they are not 20 inputs a minute."""
FIELDS = {
    "size": {"stated_rate": None},
    "race": {"stated_rate": "1000/minute", "quota": 100},
    "detection": {"stated_rate": None, "detected_after": 30},
    "second-factor": {"second_factor": FACTOR},
    "second-key": {"accounts": (KEY, TOKEN)},
}
"""What the target file says, where it is not the same 20 inputs a minute."""


def probed(name, folder, clock=None, **fields):
    """Return the finding of a probe of our server."""
    clock = clock or Clock()
    with our_server(folder, clock, **CONTROLS.get(name, {})) as (app, admin, environ):
        ops = Account(name="ops", key_env="OPS")
        accounts = (KEY, ops) if name == "second-factor" else (KEY,)
        values = {"output": "probabilities", "accounts": accounts, **FIELDS.get(name, {}), **fields}
        line = AsgiLine(app)
        line.others[9001] = AsgiLine(admin)
        second = "ann by token" if name == "second-key" else None
        with probing(line, clock, target=a_target(**values), environ=environ, second=second) as opened:
            outcome = run_probes(chosen([name]), opened.context, opened.ledger, most=10_000)
        line.others[9001].close()
        line.close()
        return outcome.findings[0]


@pytest.mark.parametrize("name", [probe.name for probe in PROBES if probe.name != "watermark"])
def test_our_server_keeps_the_control(name, tmp_path):
    finding = probed(name, tmp_path)
    assert finding.verdict.result == "holds", finding.verdict


def test_tokens_that_are_not_valid_are_refused(tmp_path):
    fields = {"accounts": (TOKEN,), "token_key_env": "SIGNING"}
    # By the machine's clock, at which the library looks: else it would refuse them as issued in the future.
    finding = probed("authentication", tmp_path, Clock(time.time()), **fields)
    assert finding.verdict.result == "holds", finding.verdict
    for what in (
        "without signature: 401",
        "expired token: 401",
        "without an end: 401",
        "another audience: 401",
    ):
        assert what in finding.verdict.evidence[0]


def test_the_input_at_which_an_account_is_suspended_is_the_one_after_those_that_were_flagged(tmp_path):
    finding = probed("detection", tmp_path)
    assert "Input 31 of the series was treated differently (403)" in finding.verdict.evidence[0]
    assert "of 3 ordinary inputs afterwards 0 were answered" in finding.verdict.evidence[0]
