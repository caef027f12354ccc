"""The probe of authentication finds each fault in how a server verifies tokens, and that one alone."""

import time

import pytest
from asgi_line import Clock
from naive_tokens import SIGNING, TokenServer, a_token
from probing import a_target, probed

from bench.remote.target import Account

FAULTS = {
    "unsigned": "a token without signature",
    "expired": "an expired token",
    "endless": "a token without an end",
    "any audience": "a token for another audience",
}
"""What the probe calls the token that a server with the fault accepts."""


def finding(*faults, signing="SIGNING", key=SIGNING):
    clock = Clock(time.time())  # the library that verifies tokens looks at the machine's clock, too
    environ = {"TOKEN": a_token(clock), "SIGNING": key}
    target = a_target(accounts=(Account(name="ann", key_env="TOKEN"),), token_key_env=signing)
    app = TokenServer(*faults, clock=clock)
    return probed("authentication", app, clock, target=target, environ=environ).findings[0]


@pytest.mark.parametrize("fault", FAULTS)
def test_the_token_that_a_server_wrongly_accepts_is_named(fault):
    verdict = finding(fault).verdict
    assert verdict.result == "does not hold", verdict
    assert verdict.evidence[0] == f"1 of 8 requests without a valid key were answered: {FAULTS[fault]}."
    assert len(verdict.requests) == 1


def test_a_server_that_verifies_tokens_as_it_should_refuses_all_four():
    verdict = finding().verdict
    assert verdict.result == "holds", verdict
    for name in FAULTS.values():
        assert f"{name}: 401" in verdict.evidence[0]
    assert len(verdict.evidence) == 1


def test_without_the_signing_key_it_is_said_which_tokens_were_not_tried():
    verdict = finding("expired", signing=None).verdict
    assert verdict.result == "holds", verdict
    assert "expired" not in verdict.evidence[0]
    assert "were not tried" in verdict.evidence[1]
    assert "token_key_env" in verdict.evidence[1]
    assert finding("unsigned", signing=None).verdict.result == "does not hold"


def test_with_a_key_that_is_not_the_targets_no_token_is_taken_for_refused_by_its_claims():
    verdict = finding("expired", key="another-key-of-many-characters-than-the-servers").verdict
    assert verdict.result == "holds", verdict
    assert "an expired token" not in verdict.evidence[0]
    assert "the account's own claims got no answer when signed anew" in verdict.evidence[1]
