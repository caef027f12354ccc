"""Every probe finds the fault of a naive server, and nothing where there is none."""

import pytest
from probing import a_target, found

from bench.remote.target import Account

FAULTS = [
    ("authentication", "open", {}),
    ("authentication", "empty key", {}),
    ("authentication", "key in address", {}),
    ("rate-unit", "no limit", {}),
    ("rate-unit", "requests", {}),
    ("error-leaks", "echo", {}),
    ("error-leaks", "path in errors", {}),
    ("error-leaks", "version header", {}),
    ("other-doors", "aliases", {}),
    ("other-doors", "doors", {}),
    ("smuggled-rows", "shape", {"limit": 1000}),
    ("smuggled-rows", "twice", {"limit": 1000}),
    ("smuggled-rows", "gzip", {"limit": 1000}),
    ("precision", "full", {"limit": 1000, "digits": None}),
    ("precision", "outputs", {"limit": 1000}),
    ("noise", "noise", {"limit": 1000}),
    ("spoofed-address", "address", {}),
    ("second-key", "quota per key", {}),
    ("workers", "two processes", {}),
    ("pipelining", "connections", {}),
    ("resets", "gives back", {"patience": 0.001}),
    ("straddle", "fixed window", {}),
    ("straddle", "first-hit window", {}),
    ("size", "size", {"limit": 100_000}),
    ("race", "race", {"limit": 1000, "quota": 100}),
    ("detection", "no detector", {"limit": 1000, "detect": 10**9}),
]
RIGHT = {"detection": {"limit": 1000, "detect": 30}}
"""What a server without a fault needs else than those with one."""
WHERE = {
    "detection": {"stated_rate": "1000/minute"},
    "size": {"stated_rate": "100000/minute"},
    "race": {"stated_rate": "1000/minute", "quota": 100},
}
"""What the target file says of them."""
TWO_KEYS = (Account(name="ann", key_env="ANN"), Account(name="ann again", key_env="ANN_2"))


def found_by(probe, *faults, **server):
    fields = WHERE.get(probe, {})
    options = {}
    if probe == "second-key":
        fields, options = {"accounts": TWO_KEYS}, {"second": "ann again"}
    return found(probe, *faults, target=a_target(**fields), options=options, **server)


@pytest.mark.parametrize(("probe", "fault", "server"), FAULTS)
def test_a_probe_finds_the_fault(probe, fault, server):
    finding = found_by(probe, fault, **server)
    assert finding.verdict.result == "does not hold", finding.verdict


@pytest.mark.parametrize("probe", sorted({probe for probe, _, _ in FAULTS}))
def test_a_probe_finds_nothing_where_there_is_no_fault(probe):
    server = next(server for name, _, server in FAULTS if name == probe)
    server = {name: value for name, value in server.items() if name != "digits"}
    finding = found_by(probe, **{**server, **RIGHT.get(probe, {})})
    assert finding.verdict.result == "holds", finding.verdict
