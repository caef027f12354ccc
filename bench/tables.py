"""The report's tables, in Markdown. Fidelity, shares and accuracy are in percent, gaps in points."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import pandas as pd
from tabulate import tabulate

from bench.checks import MEANING
from bench.multiplier import Multiplier
from bench.names import attacker_of
from bench.stats import Interval, value_interval
from bench.store import Record
from bench.threats import Threat, defense_of, victim_of
from bench.verdict import Findings, Row, Standing

DASH = "–"
FLAGGED = " ⚑"
COMPANIONS = {
    "extraction.agreement_deployed": ("agrees with deployed", 100),
    "extraction.fidelity_where_victim_errs": ("where victim errs", 100),
    "extraction.fidelity_low_margin": ("low margin", 100),
    "extraction.accuracy": ("accuracy", 100),
    "extraction.precision": ("precision", 100),
    "extraction.recall": ("recall", 100),
    "extraction.f1": ("F1", 100),
    "extraction.l1": ("L1", 1),
    "extraction.kl": ("KL", 1),
}
HONEST = {
    "honest.top1_kept": ("top-1 kept (%)", 100),
    "honest.accuracy": ("accuracy (%)", 100),
    "honest.l1_mean": ("mean L1", 1),
    "honest.l1_max": ("max L1", 1),
    "honest.nll": ("NLL", 1),
    "honest.ece": ("ECE", 1),
    "honest.aurc": ("AURC", 1),
}
SCREENED = {
    "honest.refused": ("queries refused (%)", 100),
    "honest.flagged": ("queries flagged (%)", 100),
    "honest.client_refused": ("clients refused (%)", 100),
    "honest.client_flagged": ("clients flagged (%)", 100),
}


def markdown(headers: Sequence[str], rows: Iterable[Sequence[Any]], text: int = 1) -> str:
    """Return a GitHub table; the first ``text`` columns are aligned left, the others right."""
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    sides = ["left"] * text + ["right"] * (len(headers) - text)
    return tabulate(cells, headers, tablefmt="pipe", disable_numparse=True, colalign=sides) if cells else ""


def ranged(interval: Interval | None, scale: float = 100, digits: int = 1, sign: str = "") -> str:
    """Return ``86.2 [84.9, 87.3]``; without limits the value alone, a dash where there is none."""
    if interval is None or math.isnan(interval.value):
        return DASH
    value, low, high = (_number(scale * part, digits, sign) for part in _parts(interval))
    return value if math.isnan(interval.low) else f"{value} [{low}, {high}]"


def _parts(interval: Interval) -> tuple[float, float, float]:
    return interval.value, interval.low, interval.high


def _number(value: float, digits: int, sign: str = "") -> str:
    text = f"{value:{sign}.{digits}f}"
    return text.replace("-", "", 1) if float(text) == 0 else text


def times(multiplier: Multiplier | None) -> str:
    """Return the query multiplier, or where it left the measured budgets."""
    if multiplier is None:
        return DASH
    low = f"{multiplier.low:.2f}" if multiplier.low > 0 else "< smallest"
    high = f"{multiplier.high:.2f}" if math.isfinite(multiplier.high) else "> largest"
    edge = "< smallest, ≤ " if multiplier.below else "> largest, ≥ " if multiplier.above else ""
    return f"{edge}{multiplier.value:.2f} [{low}, {high}]"


def measured(record: Record, metric: str, scale: float = 1, digits: int = 1) -> str:
    """Return an audit's metric with its interval."""
    value = record.metrics.get(metric)
    if value is None:
        return DASH
    low, high = record.info.get("intervals", {}).get(metric) or (math.nan, math.nan)
    return ranged(Interval(value, low, high), scale, digits)


def standing_cells(standing: Standing | None) -> tuple[str, str]:
    """Return the strongest attacker's fidelity with its name, and the gap."""
    if standing is None:
        return DASH, DASH
    mark = FLAGGED if standing.flags else ""
    if standing.best is None:
        return f"not ranked{mark}", DASH
    best = standing.best
    return f"**{ranged(best.interval)}**{mark}<br>{best.attacker}", ranged(standing.gap)


def verdict_table(findings: Findings, threat: Threat) -> str:
    """Return one row a defense: fidelity and gap at the headline budgets, queries, honest users' price."""
    budgets = findings.headline(threat)
    headers = ["defense"]
    for budget in budgets:
        headers += [f"stolen with {budget:,} queries (%)", "gap (points)"]
    headers += ["query multiplier", "accuracy lost (points)", "mean L1", "refused (%)"]
    rows = []
    floor = findings.floor(threat)
    if floor:
        own = f"**{ranged(floor.interval)}**<br>{floor.attacker}"
        rows.append(["*no query at all*", *([own, DASH] * len(budgets)), *([DASH] * 4)])
    for row in findings.rows[threat]:
        cells = [cell for budget in budgets for cell in standing_cells(row.standings.get(budget))]
        rows.append(
            [f"**{findings.defense_name(row.defense)}**", *cells, times(row.multiplier), *_price(row)]
        )
    return markdown(headers, rows)


def _price(row: Row) -> list[str]:
    if row.audit is None:
        return [DASH] * 3
    return [
        measured(row.audit, "honest.accuracy_lost", 100),
        measured(row.audit, "honest.l1_mean", digits=3),
        measured(row.audit, "honest.refused", 100),
    ]


def budget_table(findings: Findings, threat: Threat) -> str:
    """Return the strongest attacker for every defense and budget."""
    rows = []
    for row in findings.rows[threat]:
        for budget, standing in row.standings.items():
            best, mark = standing.best, FLAGGED if standing.flags else ""
            name = findings.defense_name(row.defense)
            if best is None:
                rows.append([name, f"not ranked{mark}", f"{budget:,}", *[DASH] * 4])
            else:
                shown = [ranged(best.interval), ranged(standing.gap)]
                shown += [str(best.candidates), str(standing.repeats)]
                rows.append([name, best.attacker + mark, f"{budget:,}", *shown])
    headers = [
        "defense",
        "strongest attacker",
        "queries",
        "fidelity (%)",
        "gap (points)",
        "candidates",
        "repeats",
    ]
    return markdown(headers, rows, text=2)


def attack_table(findings: Findings, threat: Threat) -> str:
    """Return fidelity by defense and attack, a column a budget, with the repeats where they differ."""
    rows: dict[tuple[str, str], dict[int, str]] = defaultdict(dict)
    every = {b for budgets in findings.places[threat].values() for b in budgets}
    most = max((len(s.repeats) for _, _, _, s in findings.seen(threat)), default=0)
    for defense, budget, name, sample in findings.seen(threat):
        if budget in every:
            few = f" (n = {len(sample.repeats)})" if len(sample.repeats) < most else ""
            mark = FLAGGED if sample.flags else ""
            shown = f"{ranged(findings.interval(sample))}{few}{mark}"
            rows[findings.defense_name(defense), name][budget] = shown
    budgets = sorted(every)
    headers = ["defense", "attack", *(f"{budget:,} queries" for budget in budgets)]
    table = [[*place, *(by_budget.get(b, DASH) for b in budgets)] for place, by_budget in rows.items()]
    return f"Fidelity in %, mean of n = {most} repeats unless said.\n\n" + markdown(headers, table, text=2)


def companion_table(findings: Findings, threat: Threat) -> str:
    """Return what stands beside fidelity, at the largest budget."""
    budget = findings.headline(threat)[-1]
    rows = []
    for defense, spent, name, sample in findings.seen(threat):
        if spent == budget:
            cells = [
                _over_repeats(sample.records, metric, scale) for metric, (_, scale) in COMPANIONS.items()
            ]
            rows.append([findings.defense_name(defense), name, ranged(findings.interval(sample)), *cells])
    headers = ["defense", "attack", "fidelity", *(title for title, _ in COMPANIONS.values())]
    return markdown(headers, rows, text=2)


def _over_repeats(records: Sequence[Record], metric: str, scale: float) -> str:
    values = [value for record in records if (value := record.metrics.get(metric)) is not None]
    if not values:
        return DASH
    found = value_interval(values)
    # Student's t knows no bounds; a share and a distance do.
    low, high = np.clip((found.low, found.high), 0, 1 if scale == 100 else math.inf)
    return ranged(Interval(found.value, float(low), float(high)), scale, 1 if scale == 100 else 3)


def audit_table(findings: Findings, victim: str, columns: Mapping[str, tuple[str, int]]) -> str:
    """Return the audits' metrics with their intervals, a row a defense."""
    rows = [
        [
            findings.defense_name(defense),
            *(
                measured(record, metric, scale, 1 if scale == 100 else 3)
                for metric, (_, scale) in columns.items()
            ),
        ]
        for defense, record in findings.audits_of(victim)
        if columns is not SCREENED or _screens(record)
    ]
    return markdown(["defense", *(title for title, _ in columns.values())], rows)


def _screens(record: Record) -> bool:
    claims = record.info.get("claims", {})
    return bool(claims.get("may_flag") or claims.get("may_refuse"))


DETECTION_PARTS = (".queries_until", ".client", ".auroc")
"""What is told of a pool beside the share that is flagged."""


def detection_table(findings: Findings, victim: str) -> str:
    """Return the share of each pool that each detector flags, and the queries until the first flag."""
    rows = []
    for defense, record in findings.audits_of(victim):
        pools = [key.split(".", 1)[1] for key in record.metrics if key.startswith("detection.")]
        for pool in [name for name in pools if not name.endswith(DETECTION_PARTS)]:
            if record.info.get("claims", {}).get("may_flag"):
                metric = f"detection.{pool}"
                until = f"{metric}.queries_until"
                shown = measured(record, until, digits=0)
                if record.metrics.get(until, 0) is None:
                    shown = "never"
                name = "test split (honest)" if pool == "test" else pool
                rows.append(
                    [
                        findings.defense_name(defense),
                        name,
                        measured(record, metric, 100),
                        measured(record, f"{metric}.client", 100),
                        shown,
                        measured(record, f"{metric}.auroc", digits=3),
                    ]
                )
    headers = [
        "defense",
        "pool",
        "queries flagged (%)",
        "clients flagged (%)",
        "queries until the first flag (median)",
        "AUROC against honest queries",
    ]
    return markdown(headers, rows, text=2)


def latency_table(findings: Findings, victim: str) -> str:
    """Return the microseconds a query that each defense adds, alone and in batches of 256."""
    rows = []
    for defense, record in findings.audits_of(victim):
        latency = record.info.get("latency_us", {})
        shown = [
            _number(latency[size], 1) if latency.get(size) is not None else DASH for size in ("1", "256")
        ]
        rows.append([findings.defense_name(defense), *shown])
    return markdown(["defense", "one query at a time (µs)", "in batches of 256 (µs a query)"], rows)


def timing_table(findings: Findings) -> str:
    """Return median seconds by surrogate and attack; trainings taken from the memo are left out of theirs."""
    frame = pd.DataFrame(
        [_timing(findings, r) for r in findings.records if r.kind == "cell" and r.status == "ok"]
    )
    rows = []
    for place, group in frame.groupby(["surrogate", "attack"]) if len(frame) else []:
        parts = [group[part].median() for part in ("query_model", "query_defense", "acquire")]
        own = group[~group["shared"]]
        parts += [own["train"].median(), own["train_cpu"].median(), group["evaluate"].median()]
        seconds = [DASH if pd.isna(part) else f"{part:.3g}" for part in parts]
        memory = group["memory"].max()
        rows.append(
            [
                *place,
                len(group),
                group["shared"].sum(),
                *seconds,
                DASH if pd.isna(memory) else f"{memory:,.0f}",
            ]
        )
    headers = [
        "surrogate",
        "attack",
        "cells",
        "shared",
        "model (s)",
        "defense (s)",
        "acquire (s)",
        "train (s)",
    ]
    return markdown([*headers, "train, CPU (s)", "evaluate (s)", "memory (MiB)"], rows, text=2)


def _timing(findings: Findings, record: Record) -> dict[str, Any]:
    seconds, cpu = record.info.get("seconds", {}), record.info.get("cpu_seconds", {})
    return {
        "surrogate": record.spec["surrogate"],
        "attack": findings.attack_name(attacker_of(record.spec)),
        "shared": bool(record.info.get("shared")),
        "train_cpu": cpu.get("train", math.nan),
        "memory": record.info.get("memory_mib", math.nan),
        **{part: seconds.get(part, math.nan) for part in ("query_model", "query_defense", "acquire")},
        **{part: seconds.get(part, math.nan) for part in ("train", "evaluate")},
    }


def flag_tables(findings: Findings, numbers: Mapping[Threat, int]) -> str:
    """Return how many cells carry each flag and what it means, then which rows; empty without flags."""
    counts = Counter(flag for record in findings.records for flag in record.info.get("flags", ()))
    where = []
    for threat in numbers:
        for defense, budget, name, sample in findings.seen(threat):
            for flag, count in sorted(sample.flags.items()):
                cells = f"{count} of {len(sample.repeats)}"
                where.append(
                    [flag, f"T{numbers[threat]}", findings.defense_name(defense), name, f"{budget:,}", cells]
                )
    if not counts:
        return ""
    meaning = [[flag, MEANING.get(flag, "see METHOD.md"), count] for flag, count in sorted(counts.items())]
    which = markdown(["flag", "threat model", "defense", "attack", "queries", "cells"], where, text=4)
    return markdown(["flag", "meaning", "cells"], meaning, text=2) + "\n\n" + details("Flagged rows", which)


def trouble_table(findings: Findings, status: str) -> str:
    """Return cells and audits with this status, those with one error in one row; empty without any."""
    groups: dict[tuple[str, ...], list[Record]] = defaultdict(list)
    for record in findings.records:
        if record.status == status:
            what = findings.attack_name(attacker_of(record.spec)) if record.kind == "cell" else "audit"
            has = (
                ", ".join(list(Threat.of(record.spec).facts().values())[1:])
                if record.kind == "cell"
                else DASH
            )
            name = findings.defense_name(defense_of(record.spec))
            groups[victim_of(record.spec), has, name, what, _reason(record)].append(record)
    rows = []
    for (victim, has, defense, what, error), group in groups.items():
        budgets = sorted({int(r.spec["budget"]) for r in group if r.kind == "cell"})
        spent = ", ".join(f"{budget:,}" for budget in budgets) or DASH
        rows.append([victim, has, defense, what, error, spent, len(group)])
    return markdown(["victim", "the thief", "defense", "attack", "error", "queries", "cells"], rows, text=5)


def _reason(record: Record) -> str:
    return escape(record.error or "no reason was stored", quote=False)


def details(summary: str, body: str) -> str:
    """Return a folded section."""
    return f"<details>\n<summary>{summary}</summary>\n\n{body}\n\n</details>"
