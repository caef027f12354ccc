"""The report's tables on utility for benign users, detection and latency, in Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping

from bench.analysis.findings import Findings
from bench.analysis.group_losses import groups
from bench.analysis.interval_text import DASH, number
from bench.analysis.threat_models import Defense
from bench.metrics.definitions import METRICS, Table, shown_in
from bench.records import Record
from bench.report.markdown import code, markdown, measured, plain


def utility_table(findings: Findings, victim: str, table: Table) -> str:
    """Return the metrics of ``table`` with their intervals, one row a defense.

    "detector" has only the defenses that declare that they may flag or reject queries.
    """
    metrics = shown_in(table)
    rows = [
        [_name(findings, defense), *(measured(record, metric.name) for metric in metrics)]
        for defense, record in findings.evaluations_of(victim)
        if table != "detector" or _screens(record)
    ]
    return markdown(["defense", *(metric.heading for metric in metrics)], rows)


def _screens(record: Record) -> bool:
    return record.info.claims.may_flag or record.info.claims.may_refuse


def group_table(findings: Findings, victim: str) -> str:
    """Return what each declared group of users loses, a row a defense and group; empty without groups."""
    metrics = shown_in("group")
    rows = []
    for defense, record in findings.evaluations_of(victim):
        for group in groups(record) if defense else []:
            names = [metric.name.replace("*", group) for metric in metrics]
            shown = [measured(record, name) for name in names]
            rows.append([_name(findings, defense), plain(group.replace("=", " = ")), *shown])
    return markdown(["defense", "group", *(metric.heading for metric in metrics)], rows, text=2)


def ood_table(findings: Findings, victim: str) -> str:
    """Return how well confidence tells each pool from the test split, a row a defense and pool."""
    metrics = shown_in("ood")
    prefix = metrics[0].name.removesuffix("*")
    rows = []
    for defense, record in findings.evaluations_of(victim):
        for pool in [key.removeprefix(prefix) for key in record.metrics if key.startswith(prefix)]:
            shown = [measured(record, metric.name.replace("*", pool)) for metric in metrics]
            rows.append([_name(findings, defense), plain(pool), *shown])
    return markdown(["defense", "pool", *(metric.heading for metric in metrics)], rows, text=2)


FLAGGED, *_OF_POOL = shown_in("detection")
"""The share of a pool's queries that is flagged, and the further metrics of a pool."""
DETECTION_PARTS = tuple(metric.name.removeprefix(FLAGGED.name) for metric in _OF_POOL)


DISTANCES = (METRICS["honest.l1_mean"], METRICS["honest.l1_max"])


def resolved_table(findings: Findings, victim: str) -> str:
    """Return the defenses with a strength set by utility loss: the parameter found, and the loss.

    The parameter is found on the calibration split; the loss is measured on the test split.
    """
    rows = []
    for defense, record in findings.evaluations_of(victim):
        found: Mapping[str, str] = record.info.resolved
        losses = [measured(record, metric.name) for metric in DISTANCES]
        given = {text: found[text] for text in defense if text in found}
        rows += [[code(text), code(became), *losses] for text, became in given.items()]
    return markdown(["given as", "found", *(metric.heading for metric in DISTANCES)], rows, text=2)


def detection_table(findings: Findings, victim: str) -> str:
    """Return the share of each pool that each detector flags, and the queries until the first flag."""
    metrics, rows, budget = shown_in("detection"), [], _budget(findings, victim)
    for defense, record in findings.evaluations_of(victim):
        pools = [key.split(".", 1)[1] for key in record.metrics if key.startswith("detection.")]
        for pool in [name for name in pools if not name.endswith(DETECTION_PARTS)]:
            if record.info.claims.may_flag:
                name = "test split (benign)" if pool == "test" else pool
                shown = [_detected(record, metric.name.replace("*", pool)) for metric in metrics]
                accounts = DASH if pool == "test" else _accounts(record, pool, budget)
                rows.append([_name(findings, defense), plain(name), *shown, accounts])
    headers = ["defense", "pool", *(metric.heading for metric in metrics), f"accounts for {budget:,} queries"]
    return markdown(headers, rows, text=2)


def _budget(findings: Findings, victim: str) -> int:
    """Return the budget of the summary under the victim's strongest threat model; 1,000 without any."""
    own = (threat for threat in findings.threats if threat.victim == victim)
    return next((budgets[0] for threat in own if (budgets := findings.summary_budgets(threat))), 1000)


def _accounts(record: Record, pool: str, budget: int) -> str:
    """Return how many accounts an attacker needs who leaves each at its first flag."""
    name = FLAGGED.name.replace("*", pool)
    if f"{name}.queries_until" not in record.metrics:
        return DASH
    until = record.metrics[f"{name}.queries_until"]
    return f"{math.ceil(budget / max(until, 1)):,}" if until is not None else "1"


def _detected(record: Record, name: str) -> str:
    never = name.endswith(".queries_until") and record.metrics.get(name, 0) is None
    return "never" if never else measured(record, name)


def latency_table(findings: Findings, victim: str) -> str:
    """Return the latency that each defense adds to a query, in µs: single queries and batches of 256."""
    rows = []
    for defense, record in findings.evaluations_of(victim):
        latency = record.costs.latency_us
        shown = [number(latency[size], 1) if latency.get(size) is not None else DASH for size in ("1", "256")]
        rows.append([_name(findings, defense), *shown])
    return markdown(["defense", "one query at a time (µs)", "in batches of 256 (µs a query)"], rows)


def _name(findings: Findings, defense: Defense) -> str:
    return code(findings.defense_name(defense)) if defense else "none"
