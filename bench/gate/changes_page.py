"""Two runs side by side, as a Markdown page."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import Any

from bench.analysis.interval_text import DASH, in_table, in_text, number
from bench.analysis.threat_models import attackers_in
from bench.analysis.verdicts import Recommendation
from bench.gate.baseline import Baseline
from bench.gate.changes import UTILITY, Change, Changes, changes
from bench.gate.runs import Pairing, differences, victim_notes
from bench.metrics.definitions import find
from bench.metrics.intervals import Interval
from bench.records import Record
from bench.report.markdown import code, markdown, measured, plain
from bench.report.templates import rendered

MOST = 20
"""Rows of the table of changes, the largest ones."""
HEADERS = (
    "defense",
    "best attack's fidelity, before → after (%)",
    "change (pp, 95 % CI)",
    "reduction, before → after (pp)",
    "change (pp, 95 % CI)",
)
PAIRS = {
    Pairing.equal: "Repeats are compared in pairs: without defense, both runs trained the same surrogates.",
    Pairing.rounding: "Repeats are compared in pairs: both runs had the same random seeds.",
    Pairing.broken: (
        "Repeats are not compared in pairs, because the runs had other random seeds; intervals also cover "
        "the choice of test inputs, and are wide."
    ),
}


def changes_page(before: Baseline, after: Baseline, names: tuple[str, str]) -> tuple[str, str]:
    """Return the page on what changed, without and with the tables of everything that both runs have.

    ``names``: what the two runs are called, such as their files.
    """
    found = changes(before, after)
    values = _values(found, before, after, names)
    return rendered("changes", **values, everything=[]), rendered(
        "changes", **values, everything=_tables(found)
    )


def _values(found: Changes, before: Baseline, after: Baseline, names: tuple[str, str]) -> dict[str, Any]:
    """Return the values of the template, but for the last tables."""
    significant = sorted(
        (row for row in found.rows if row.is_significant), key=lambda row: -abs(row.fidelity.value)
    )
    return {
        "names": [code(name) for name in names],
        "commits": [run.meta.commit or "unknown" for run in (before, after)],
        "differences": [f"{kind}: {plain(text)}" for kind, text in differences(before, after).items()],
        "notes": [plain(text) for text in victim_notes(before, after)],
        "answers": _answers(found),
        "pairing": PAIRS[found.pairing],
        "compared": len(found.rows),
        "significant": len(significant),
        "shown": min(len(significant), MOST),
        "changed": _where(found, significant[:MOST]),
        "utility": _utility(found),
        "only": [
            [f"{kind}: {', '.join(map(code, each))}" for kind, each in side.items()] for side in found.only
        ],
        "same": all(row.fidelity.value == 0 for row in found.rows),
    }


def _answers(found: Changes) -> str:
    rows = [
        [
            plain(each.victim),
            _recommended(each.before, found, after=False),
            _recommended(each.after, found, after=True),
        ]
        for each in found.answers
    ]
    return markdown(["victim", "recommended before", "recommended after"], rows, text=3)


def _recommended(rec: Recommendation | None, found: Changes, *, after: bool) -> str:
    if rec is None:
        return "not in this run"
    best = rec.recommended
    if best is None:
        return "nothing" if rec.confirmed else "nothing (no confirmation run)"
    findings = found.after if after else found.before
    reduction = f", {in_text(best.reduction.interval)}" if best.reduction else ""
    return f"{code(findings.defense_name(best.defense))}{reduction}"


def _where(found: Changes, rows: Iterable[Change]) -> str:
    """Return a table of rows from several conditions."""
    names = attackers_in(found.after.threats, found.after.records)
    several = len({row.threat.victim for row in found.rows}) > 1
    body = []
    for row in rows:
        defense, *rest = _cells(found, row)
        where = f"{plain(row.threat.victim)}, " if several else ""
        where += f"{plain(names[row.threat])}, {row.budget:,} queries"
        body.append([f"{defense}<br>{where}", *rest])
    return markdown(HEADERS, body)


def _tables(found: Changes) -> list[dict[str, str]]:
    """Return a table with its heading for each threat model and budget."""
    names = attackers_in(found.after.threats, found.after.records)

    def condition(row: Change) -> tuple[int, int]:
        return found.before.threats.index(row.threat), row.budget

    tables = []
    for _, group in groupby(sorted(found.rows, key=condition), condition):
        rows = list(group)
        first = rows[0]
        heading = f"{plain(first.threat.victim)}: {plain(names[first.threat])}, {first.budget:,} queries"
        moved = [
            f"{_name(found, row)} ({plain(row.before.attack)} → {plain(row.after.attack)})"
            for row in rows
            if row.before.attack != row.after.attack
        ]
        table = markdown(HEADERS, [_cells(found, row) for row in rows])
        tables.append({"heading": heading, "table": table, "moved": "; ".join(moved)})
    return tables


def _cells(found: Changes, row: Change) -> list[str]:
    return [
        _name(found, row),
        _arrow(row.before.fidelity, row.after.fidelity),
        _bold(in_table(row.fidelity, sign="+"), row.fidelity.low > 0 or row.fidelity.high < 0),
        _arrow(row.before.reduction, row.after.reduction),
        in_table(row.reduction, sign="+"),
    ]


def _arrow(before: Interval | None, after: Interval | None) -> str:
    if before is None or after is None:
        return DASH
    return f"{number(100 * before.value, 1)} → {number(100 * after.value, 1)}"


def _bold(text: str, significant: bool) -> str:
    return f"**{text}**" if significant else text


def _name(found: Changes, row: Change) -> str:
    return plain(found.after.defense_name(row.defense))


def _utility(found: Changes) -> str:
    """Return the table of defenses whose utility loss differs; both values of each metric."""

    def pair(old: Record, new: Record, name: str) -> str:
        return f"{measured(old, name)} → {measured(new, name)}"

    rows = [
        [plain(victim), plain(found.after.defense_name(defense)), *(pair(*records, name) for name in UTILITY)]
        for (victim, defense), records in found.utility.items()
    ]
    return markdown(["victim", "defense", *(find(name).heading for name in UTILITY)], rows, text=2)
