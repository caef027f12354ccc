"""What findings come to for each control of OWASP ML05, mitigation of MITRE ATLAS and of the AI Exchange."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.remote.probing.base import FAILS, HOLDS, UNTESTED, Finding, Result

ML05 = {
    1: "Encryption",
    2: "Access control",
    3: "Regular backups",
    4: "Model obfuscation",
    5: "Watermarking",
    6: "Legal protection",
    7: "Monitoring and auditing",
}
"""Controls of OWASP ML05:2023, model theft, in its order."""
SHOWN_BY = {
    1: "the files of the model: that none is in clear, and that one of another version is not accepted",
    3: "a backup that is restored into an empty folder and answers the same",
    6: "the terms that each client accepted, and the law of the place",
}
"""What would show controls that no request can test."""
ATLAS = {
    "AML.M0002": "Passive AI Output Obfuscation",
    "AML.M0004": "Restrict Number of AI Model Queries",
    "AML.M0005": "Control Access to AI Models and Data at Rest",
    "AML.M0012": "Encrypt Sensitive Information",
    "AML.M0019": "Control Access to AI Models and Data in Production",
    "AML.M0024": "AI Telemetry Logging",
}
"""Mitigations of MITRE ATLAS 5.6 that OWASP's controls correspond to."""
EXCHANGE = (
    "#RATE LIMIT",
    "#MODEL ACCESS CONTROL",
    "#MONITOR USE",
    "#OBSCURE CONFIDENCE",
    "#UNWANTED INPUT SERIES HANDLING",
    "#MODEL WATERMARKING",
    "#MODEL OBFUSCATION",
    "#RUNTIME MODEL CONFIDENTIALITY",
    "#DEV SECURITY",
)
"""Controls of the OWASP AI Exchange that OWASP ML05's correspond to."""
INSIDE = {
    "AML.M0005": SHOWN_BY[1],
    "AML.M0012": SHOWN_BY[1],
    "#RUNTIME MODEL CONFIDENTIALITY": SHOWN_BY[1],
    "#MODEL OBFUSCATION": "the program behind the answers; these are tested under #OBSCURE CONFIDENCE",
    "#DEV SECURITY": SHOWN_BY[3],
}
"""What would show those of other catalogues."""


@dataclass(frozen=True)
class Entry:
    """An entry of a catalogue. ``probes``: those that tell of it, with their results. ``note``: in words."""

    id: str
    title: str
    result: Result
    probes: tuple[tuple[str, Result], ...]
    note: str


def combined(results: Sequence[Result]) -> Result:
    """Return that a control does not hold if one probe says so, and holds if one does and none denies it."""
    return FAILS if FAILS in results else HOLDS if HOLDS in results else UNTESTED


def ml05(findings: Sequence[Finding]) -> list[Entry]:
    """Return the seven controls of OWASP ML05:2023."""
    return [
        _entry(
            f"ML05-{number}",
            title,
            [each for each in findings if number in each.probe.controls],
            SHOWN_BY.get(number, ""),
        )
        for number, title in ML05.items()
    ]


def atlas(findings: Sequence[Finding]) -> list[Entry]:
    """Return the mitigations of MITRE ATLAS."""
    return [
        _entry(name, title, [each for each in findings if name in each.probe.atlas], INSIDE.get(name, ""))
        for name, title in ATLAS.items()
    ]


def exchange(findings: Sequence[Finding]) -> list[Entry]:
    """Return the controls of the OWASP AI Exchange."""
    return [
        _entry(name, "", [each for each in findings if name in each.probe.exchange], INSIDE.get(name, ""))
        for name in EXCHANGE
    ]


def _entry(name: str, title: str, own: Sequence[Finding], inside: str) -> Entry:
    result = combined([each.verdict.result for each in own])
    note = ""
    if inside:
        note = f"Cannot be tested from outside; it would be shown by {inside}."
    elif not own:
        note = "No probe of this run tells of it."
    elif result == HOLDS and (untested := [each for each in own if each.verdict.result == UNTESTED]):
        note = f"Not tested: {', '.join(each.probe.name for each in untested)}."
    return Entry(name, title, result, tuple((each.probe.name, each.verdict.result) for each in own), note)
