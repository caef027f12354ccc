"""Sections that reports of every kind share: honest users, detection, time, troubles, origin."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

from bench.analysis.adaptive_check import SLACK, AutoComparison, comparisons
from bench.analysis.attacker_results import AttackerResult
from bench.analysis.findings import Findings
from bench.analysis.row_flags import row_flags
from bench.analysis.threat_models import VictimThreatModel
from bench.metrics.flags import FLAGS, label
from bench.report import run_tables, utility_tables
from bench.report.markdown import DASH, details, markdown, ranged

HONEST = """\
On the test split. *Top-1 kept*: answers whose label is the victim's; there and in accuracy a refused
query is a miss, the others are over answered queries. *L1*: distance between the answer and what the
victim said. *NLL*, *ECE*, *AURC*: negative log-likelihood, expected calibration error, area under the
risk-coverage curve; lower is better."""
RESOLVED = """\
Their parameters were found on the calibration split of each victim, so that honest answers cost what was
asked for; beside them what that costs on the test split, over all defenses that answer in a row."""
SCREENED = "Honest traffic that was refused or flagged, per query and for a client of 100 queries."
DETECTION = "Thresholds were frozen on the calibration split; no pool here took part in that."
FLAGGED = """\
A flag is a sign that a row should not be read as it stands; METHOD.md has a paragraph on each. Flagged rows
are shown like all others, and wherever one is named its flags are named too. *Rows*: defenses under a threat
model. *Cells*: single runs of an attack."""
TIMING = """\
Median seconds a cell (CPU seconds where said). *Shared*: cells whose training came from the memo,
because the attacker had learnt exactly the same before; they do not count in training time."""


def gaps(meta: Mapping[str, Any]) -> list[str]:
    """Return the sentence that a run is not complete, where it is not."""
    counts = meta.get("counts", {})
    lacking = [f"cells {name}: {counts[name]:,}" for name in ("missing", "failed") if counts.get(name)]
    return [f"**This run is not complete** ({', '.join(lacking)})."] if lacking else []


def names(findings: Findings) -> str:
    """Return the short names of attacks and defenses with what they stand for; empty if all are full."""
    long = [[short, f"`{text}`"] for text, short in sorted(findings.short.items()) if short != text]
    return details("Names in full", markdown(["short", "in full"], long, text=2)) if long else ""


def evaluations(findings: Findings, victims: Iterable[str]) -> list[str]:
    """Return what each defense costs honest users, what its detector flags, and what it adds to a query."""
    parts: list[str] = []
    everyone = list(victims)
    sections: list[tuple[str, str, Callable[[str], str]]] = [
        (
            "What honest users pay",
            HONEST,
            lambda v: utility_tables.utility_table(findings, v, utility_tables.HONEST),
        ),
        (
            "Defenses given by their honest cost",
            RESOLVED,
            lambda v: utility_tables.resolved_table(findings, v),
        ),
        (
            "Honest users refused or flagged",
            SCREENED,
            lambda v: utility_tables.utility_table(findings, v, utility_tables.SCREENED),
        ),
        ("Detection by pool", DETECTION, lambda v: utility_tables.detection_table(findings, v)),
        ("What a defense adds to a query", "", lambda v: utility_tables.latency_table(findings, v)),
    ]
    for heading, intro, table in sections:
        shown = {victim: table(victim) for victim in everyone}
        if any(shown.values()):
            parts += [f"## {heading}", intro]
            parts += [f"**{victim}**\n\n{body}" for victim, body in shown.items() if body]
    return parts


def timing(findings: Findings) -> list[str]:
    """Return the table of seconds, where a cell has any."""
    table = run_tables.timing_table(findings)
    return ["## Timing", TIMING, table] if table else []


def flags(findings: Findings, numbers: Mapping[VictimThreatModel, int]) -> list[str]:
    """Return the section on flags: what each says, then which rows and cells raise it, folded.

    ``numbers``: the number that each threat model has in the report.
    """
    by_row = [
        [label(each.flag), f"T{number}", findings.defense_name(row.defense), each.detail, each.flag]
        for threat, number in numbers.items()
        for row in findings.rows[threat]
        for each in row_flags(findings, row)
    ]
    by_cell = [
        [
            flag,
            f"T{number}",
            findings.defense_name(defense),
            name,
            f"{budget:,}",
            f"{count} of {len(sample.repeats)}",
        ]
        for threat, number in numbers.items()
        for defense, budget, name, sample in findings.measured(threat)
        for flag, count in sorted(sample.flags.items())
    ]
    rows = Counter(row[-1] for row in by_row)
    cells = Counter(flag for record in findings.records for flag in record.info.get("flags", ()))
    known = [flag for flag in FLAGS if rows[flag] or cells[flag]]
    other = sorted((rows.keys() | cells.keys()) - set(FLAGS))
    if not known and not other:
        return ["## Flags", "No row and no cell is flagged."]
    meaning = {flag: FLAGS[flag].meaning for flag in known} | dict.fromkeys(other, "see METHOD.md")
    listed = [
        [label(flag), flag, said, rows[flag] or DASH, cells[flag] or DASH] for flag, said in meaning.items()
    ]
    by_row.sort(key=lambda row: list(meaning).index(row[-1]))
    clear = ", ".join(f"{label(flag)} ({flag})" for flag in FLAGS if flag not in known)
    which = markdown(["flag", "threat model", "defense", "seen"], [row[:-1] for row in by_row], text=4)
    where = markdown(["flag", "threat model", "defense", "attack", "queries", "cells"], by_cell, text=4)
    return [
        "## Flags",
        FLAGGED,
        markdown(["", "flag", "what it says", "rows", "cells"], listed, text=3),
        f"Raised nowhere: {clear}." if clear else "",
        details("Which rows raise what", which) if by_row else "",
        details("Flagged cells", where) if by_cell else "",
    ]


def troubles(findings: Findings, meta: Mapping[str, Any]) -> list[str]:
    """Return failed cells with their errors, and those that make no sense with the reasons."""
    failed, skipped = (
        run_tables.failure_table(findings, "failed"),
        run_tables.failure_table(findings, "not_applicable"),
    )
    command = meta.get("command", "moatbench run")
    again = f"The same command runs failed cells again and keeps the rest: `{command}`."
    parts = ["## Failed cells", failed + "\n\n" + again if failed else "No cell failed."]
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


def made(meta: Mapping[str, Any]) -> list[str]:
    """Return where every number comes from: command, commit, machine, versions, victims, matrix."""
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
        "device": meta.get("device"),
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


def written(path: Path, parts: Iterable[str]) -> Path:
    """Write the parts of a page that are not empty; return its path."""
    path.write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")
    return path


ADAPTIVE_CHECK = "## One attacker for all"
ADAPTIVE_INTRO = """\
{names} means to match the best of the other attackers that a thief with the same knowledge has. That best
one is the luckiest of them, which counts against it. Budgets that are too small for it are left out.
Differences are paired."""
READ_AS = "extraction.read_as_"


def adaptive_check(findings: Findings, numbers: Mapping[VictimThreatModel, int]) -> list[str]:
    """Return the report's section on it: the tally, the places where it does not stand, then all."""
    met = [match for match in comparisons(findings) if match.threat in numbers]
    if not met:
        return []
    missed = [match for match in met if not match.supported]
    names = ", ".join(sorted({match.attacker for match in met}))
    tally = (
        f"In {len(met) - len(missed)} of {len(met)} places it is shown to be less than "
        f"{100 * SLACK:.1f} points behind."
    )
    if missed:
        clear = sum(match.difference.high < -SLACK for match in missed)
        tally += (
            f" In the {len(missed)} below it is not: in {clear} it is shown to be further behind, "
            f"in {len(missed) - clear} the interval is too wide to say."
        )
    every = details("Every place", _matches(findings, met, numbers))
    return [
        ADAPTIVE_CHECK,
        ADAPTIVE_INTRO.format(names=names),
        tally,
        _matches(findings, missed, numbers),
        every,
    ]


def _matches(findings: Findings, met: list[AutoComparison], numbers: Mapping[VictimThreatModel, int]) -> str:
    rows = [
        [
            f"T{numbers[match.threat]}",
            findings.defense_name(match.defense),
            match.other,
            f"{match.budget:,}",
            ranged(match.sample.fidelity),
            ranged(match.difference, sign="+"),
            _read_as(match.sample),
        ]
        for match in sorted(met, key=lambda match: (match.difference.low, match.defense))
    ]
    headers = ["", "defense", "best of the others", "queries", "fidelity (%)", "ahead (points)", "read as"]
    return markdown(headers, rows, text=3)


def _read_as(sample: AttackerResult) -> str:
    """Return how the repeats read the answers: ``recovered 4, labels 1``."""
    kept = Counter(
        key.removeprefix(READ_AS).replace("_", " ")
        for record in sample.records
        for key, value in record.metrics.items()
        if key.startswith(READ_AS) and value
    )
    return ", ".join(f"{name} {count}" for name, count in kept.most_common()) or "–"
