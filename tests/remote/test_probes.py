"""Every probe finds the fault of a naive server, and nothing where there is none."""

import pytest
from probing import found

FAULTS = [
    ("authentication", "open", {}),
    ("authentication", "empty key", {}),
    ("authentication", "key in address", {}),
    ("rate-unit", "no limit", {}),
    ("rate-unit", "requests", {}),
    ("error-leaks", "echo", {}),
    ("error-leaks", "path in errors", {}),
    ("error-leaks", "version header", {}),
]


@pytest.mark.parametrize(("probe", "fault", "server"), FAULTS)
def test_a_probe_finds_the_fault(probe, fault, server):
    finding = found(probe, fault, **server)
    assert finding.verdict.result == "does not hold", finding.verdict


@pytest.mark.parametrize("probe", sorted({probe for probe, _, _ in FAULTS}))
def test_a_probe_finds_nothing_where_there_is_no_fault(probe):
    server = next(server for name, _, server in FAULTS if name == probe)
    finding = found(probe, **server)
    assert finding.verdict.result == "holds", finding.verdict
