"""Results of probes as SARIF 2.1.0, which code hosts show beside the target file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bench.remote.probing.base import FAILS, Finding, Probe
from bench.remote.probing.pages import Tested
from bench.remote.probing.run import Outcome

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
ADDRESS = "https://owasp.org/www-project-machine-learning-security-top-10/docs/ML05_2023-Model_Theft"


def sarif(outcome: Outcome, tested: Tested, probes: Sequence[Probe]) -> str:
    """Return the log: a rule for each of ``probes``, a result for each control that does not hold.

    Controls that hold are no results: code hosts would show them as warnings.
    """
    places = {probe.name: place for place, probe in enumerate(probes)}
    run = {
        "tool": {
            "driver": {
                "name": "moatbench",
                "version": tested.moatbench,
                "rules": [_rule(probe) for probe in probes],
            }
        },
        "invocations": [
            {"executionSuccessful": not outcome.stopped}
            | ({"exitCodeDescription": outcome.stopped} if outcome.stopped else {})
        ],
        "results": [
            _result(each, places[each.probe.name], tested)
            for each in outcome.findings
            if each.verdict.result == FAILS
        ],
        "columnKind": "unicodeCodePoints",
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2)


def _address(file: str) -> str:
    """Return a reference to a file: from the working folder, or whole where it is elsewhere."""
    path = Path(file)
    return path.as_uri() if path.is_absolute() else quote(file.replace("\\", "/"))


def _rule(probe: Probe) -> dict[str, Any]:
    tags = ["security", *(f"OWASP-ML05-{number}" for number in probe.controls), *probe.atlas, *probe.exchange]
    return {
        "id": probe.name,
        "name": "".join(word.capitalize() for word in probe.name.split("-")),
        "shortDescription": {"text": probe.asks},
        "fullDescription": {"text": probe.asks},
        "help": {"text": f"A control of OWASP ML05:2023, model theft: {ADDRESS}"},
        "helpUri": ADDRESS,
        "defaultConfiguration": {"level": "error"},
        "properties": {"tags": tags, "security-severity": "7.0"},
    }


def _result(finding: Finding, place: int, tested: Tested) -> dict[str, Any]:
    known = hashlib.sha256(f"{finding.probe.name} {tested.url}".encode()).hexdigest()
    return {
        "ruleId": finding.probe.name,
        "ruleIndex": place,
        "level": "error",
        "message": {"text": f"{finding.probe.asks} No. {' '.join(finding.verdict.evidence)}"},
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": _address(tested.file)},
                    "region": {"startLine": tested.line},
                }
            }
        ],
        "partialFingerprints": {"probeAndTarget/v1": known},
    }
