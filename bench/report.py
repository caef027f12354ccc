"""Writes a run's report: the verdict first, in words computed from the numbers, then everything else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

from bench import figures, tables
from bench.store import Record
from bench.tables import DASH, details, markdown, ranged
from bench.threats import Threat
from bench.verdict import Findings
from bench.words import title, told_apart, words

READING = """\
**How to read it.** *Fidelity* is the share of held-out test inputs on which the thief's copy and the
undefended victim agree. A defense is as strong as the strongest attacker against it, never as the mean.
*Gap* is how many points of fidelity the strongest attacker loses against none, among the attackers that
both have met: above 0 the defense helps, and only an interval that lies above 0 says so. The *query
multiplier* is how many times more queries the strongest attacker needs to be as good as with no defense
at the reference budget. Brackets
are 95 % intervals over repeats and test inputs, each on its own (of forty useless defenses, about one
would be told from zero by luck); they hold for this victim.
An attacker "on label_only, replayed" needs nothing but the label, which this defense leaves intact.
A thief who is shown more, or knows more, can do all that one who is shown less can, and counts so.
⚑: see [Flags](#flags)."""


def write_report(records: Sequence[Record], meta: Mapping[str, Any], out: Path) -> Path:
    """Write ``report.md`` and its figures to the folder ``out``; return the path of ``report.md``.

    ``meta`` says how the records were made: matrix, command, commit, versions, machine, victims,
    reference budgets. Figures of an earlier report in the same folder are replaced. The same
    records and meta give the same bytes.
    """
    findings = Findings(records, meta.get("reference_budget", {}))
    threats = [threat for threat in findings.threats if findings.places[threat]]
    numbers = {threat: place for place, threat in enumerate(threats, start=1)}
    out.mkdir(parents=True, exist_ok=True)
    drawn = figures.draw(findings, numbers, out / "figures")
    parts = [
        f"# {meta.get('matrix', 'moatbench')}: what it costs to steal the model",
        meta.get("description", ""),
    ]
    parts += [*_gaps(meta), *_verdict(findings, numbers)]
    for threat in threats:
        parts += _threat(findings, threat, numbers[threat], drawn)
    parts += _details(findings, numbers, drawn)
    parts += _problems(findings, meta, numbers) + _made(meta)
    path = out / "report.md"
    path.write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")
    return path


def _gaps(meta: Mapping[str, Any]) -> list[str]:
    counts = meta.get("counts", {})
    lacking = [f"cells {name}: {counts[name]:,}" for name in ("missing", "failed") if counts.get(name)]
    return [f"**This run is not complete** ({', '.join(lacking)})."] if lacking else []


def _verdict(findings: Findings, numbers: Mapping[Threat, int]) -> list[str]:
    if not numbers:
        return ["## Verdict", "No cell has a result yet, so there is no verdict."]
    parts = ["## Verdict", *_overview(findings, numbers)]
    for threat, number in numbers.items():
        parts += [f"### T{number} · {title(threat)}"]
        parts += ["\n".join(f"- {line}" for line in words(findings, threat))]
        parts += [tables.verdict_table(findings, threat)]
    return [*parts, READING, _names(findings)]


def _overview(findings: Findings, numbers: Mapping[Threat, int]) -> list[str]:
    if len(numbers) < 2:
        return []
    rows, helped = [], 0
    for threat, number in numbers.items():
        budget = findings.headline(threat)[0]
        undefended = findings.rows[threat][0].standings.get(budget)
        told = told_apart(findings, threat, budget)
        helped += bool(told)
        best = (
            f"{findings.defense_name(told[0].defense)}: {ranged(told[0].standings[budget].gap)}"
            if told
            else "none"
        )
        stolen = ranged(undefended.best.interval) if undefended and undefended.best else DASH
        rows.append([f"T{number}", title(threat), f"{budget:,}", stolen, best])
    headers = [
        "",
        "victim and thief",
        "queries",
        "stolen, undefended (%)",
        "largest gap told from zero (points)",
    ]
    count = f"{helped} of {len(numbers)} threat models" if helped else f"none of {len(numbers)} threat models"
    said = f"In {count} some defense lowers the strongest thief's fidelity by an amount told from zero."
    return [said, markdown(headers, rows, text=2)]


def _names(findings: Findings) -> str:
    long = [[short, f"`{text}`"] for text, short in sorted(findings.short.items()) if short != text]
    return details("Names in full", markdown(["short", "in full"], long, text=2)) if long else ""


def _threat(findings: Findings, threat: Threat, number: int, drawn: Mapping[str, str]) -> list[str]:
    curves, costs = drawn.get(f"T{number}-curves"), drawn.get(f"T{number}-costs")
    return [
        f"## T{number} in detail",
        f"{title(threat)}.",
        f"![Fidelity of the strongest attacker against budget, T{number}]({curves})\n\n{CURVES}"
        if curves
        else "",
        f"![Honest users' cost against fidelity, T{number}]({costs})\n\n{COSTS}" if costs else "",
        details("The strongest attacker at every budget", tables.budget_table(findings, threat)),
        details("Fidelity by attack, defense and budget", tables.attack_table(findings, threat)),
        details(
            "Beside fidelity, at the largest budget", COMPANIONS + tables.companion_table(findings, threat)
        ),
    ]


CURVES = "*Fidelity of the strongest attacker by queries; bands are 95 % intervals.*"
COSTS = """\
*What honest users pay against what the thief gets: further down and further left is better. Filled: the
defense lowers fidelity by an amount told from zero.*"""
COMPANIONS = """\
In %, L1 and KL apart; with intervals over repeats. *Agrees with deployed*: with the defended model.
*Where victim errs*, *low margin*: fidelity on the test inputs that the victim gets wrong, and on the
tenth with its lowest margin. Accuracy, precision, recall and F1 (macro) are the copy's, against the truth.

"""
HEATMAP = "Fidelity of the strongest attacker in %, by threat model (T…) and queries."
HONEST = """\
On the test split. *Top-1 kept*: answers whose label is the victim's; there and in accuracy a refused
query is a miss, the others are over answered queries. *L1*: distance between the answer and what the
victim said. *NLL*, *ECE*, *AURC*: negative log-likelihood, expected calibration error, area under the
risk-coverage curve; lower is better."""
SCREENED = "Honest traffic that was refused or flagged, per query and for a client of 100 queries."
DETECTION = "Thresholds were frozen on the calibration split; no pool here took part in that."
TIMING = """\
Median seconds a cell (CPU seconds where said). *Shared*: cells whose training came from the memo,
because the attacker had learnt exactly the same before; they do not count in training time."""


def _details(findings: Findings, numbers: Mapping[Threat, int], drawn: Mapping[str, str]) -> list[str]:
    victims = sorted({threat.victim for threat in numbers} | {victim for victim, _ in findings.audits})
    parts = ["## Defenses by budget", HEATMAP] if any("heatmap" in name for name in drawn) else []
    parts += [
        f"![Fidelity of the strongest attacker by defense and budget]({path})"
        for name, path in drawn.items()
        if "heatmap" in name
    ]
    sections: list[tuple[str, str, Callable[[str], str]]] = [
        ("What honest users pay", HONEST, lambda v: tables.audit_table(findings, v, tables.HONEST)),
        (
            "Honest users refused or flagged",
            SCREENED,
            lambda v: tables.audit_table(findings, v, tables.SCREENED),
        ),
        ("Detection by pool", DETECTION, lambda v: tables.detection_table(findings, v)),
        ("What a defense adds to a query", "", lambda v: tables.latency_table(findings, v)),
    ]
    for heading, intro, table in sections:
        shown = {victim: table(victim) for victim in victims}
        if any(shown.values()):
            parts += [f"## {heading}", intro]
            parts += [f"**{victim}**\n\n{body}" for victim, body in shown.items() if body]
    timing = tables.timing_table(findings)
    return [*parts, *(["## Timing", TIMING, timing] if timing else [])]


def _problems(findings: Findings, meta: Mapping[str, Any], numbers: Mapping[Threat, int]) -> list[str]:
    parts = ["## Flags", tables.flag_tables(findings, numbers) or "No cell is flagged."]
    failed, skipped = (
        tables.trouble_table(findings, "failed"),
        tables.trouble_table(findings, "not_applicable"),
    )
    command = meta.get("command", "moatbench run")
    again = f"The same command runs failed cells again and keeps the rest: `{command}`."
    parts += ["## Failed cells", failed + "\n\n" + again if failed else "No cell failed."]
    traces = {
        r.error: r.info["traceback"]
        for r in findings.records
        if r.status == "failed" and r.info.get("traceback")
    }
    blocks = [
        f"{escape(str(error), quote=False)}\n\n```text\n{trace.strip()}\n```"
        for error, trace in traces.items()
    ]
    parts += [details("Tracebacks, one an error", "\n\n".join(blocks))] if blocks else []
    return parts + (["## Not applicable", skipped] if skipped else [])


def _made(meta: Mapping[str, Any]) -> list[str]:
    commit = str(meta.get("commit") or "unknown") + (
        " with changes that are not committed" if meta.get("dirty") else ""
    )
    counts = ", ".join(
        f"{count:,} {name.replace('_', ' ')}" for name, count in meta.get("counts", {}).items()
    )
    facts = {
        "matrix": meta.get("matrix"),
        "command": f"`{meta['command']}`" if meta.get("command") else None,
        "commit": commit,
        "cells": counts,
        "started": _moment(meta.get("started")),
        "finished": _moment(meta.get("finished")),
        "wall seconds": f"{meta['wall_seconds']:,.0f}" if meta.get("wall_seconds") is not None else None,
        "jobs": meta.get("jobs"),
        "reference budget": ", ".join(
            f"{data}: {n:,}" for data, n in meta.get("reference_budget", {}).items()
        ),
        **meta.get("machine", {}),
        "versions": ", ".join(f"{name} {version}" for name, version in meta.get("versions", {}).items()),
    }
    parts = [
        "## How it was made",
        markdown(["", ""], [[k, v] for k, v in facts.items() if v not in (None, "")], text=2),
    ]
    victims = [_victim(victim) for victim in meta.get("victims", [])]
    headers = [
        "victim",
        "accuracy (%)",
        "expected (%)",
        "training / calibration / pool / test",
        "parameters",
        "fingerprint",
    ]
    parts += [markdown(headers, victims)] if victims else []
    text = meta.get("matrix_text")
    return [*parts, details("The matrix", f"```toml\n{text.strip()}\n```")] if text else parts


def _moment(when: Any) -> str | None:
    if isinstance(when, int | float):
        return datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%d %H:%M UTC")
    return when if when is None else str(when)


def _victim(victim: Mapping[str, Any]) -> list[Any]:
    sizes = [victim.get("sizes", {}).get(split) for split in ("train", "calibration", "pool", "test")]
    shown = [DASH if size is None else f"{size:,}" for size in sizes]
    shares = [
        DASH if (share := victim.get(key)) is None else _share(share) for key in ("accuracy", "expected")
    ]
    count = victim.get("parameters")
    return [
        victim["victim"],
        *shares,
        " / ".join(shown),
        DASH if count is None else f"{count:,}",
        f"`{str(victim.get('fingerprint', ''))[:12]}`",
    ]


def _share(value: Any) -> str:
    return f"{100 * value:.1f}" if isinstance(value, int | float) else str(value)
