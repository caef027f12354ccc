"""The report's tables on what defenses do to honest users, and what detectors flag, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping

from bench.analysis.findings import Findings
from bench.report.markdown import DASH, markdown, measured, number
from bench.store import Record

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


def utility_table(findings: Findings, victim: str, columns: Mapping[str, tuple[str, int]]) -> str:
    """Return the audits' metrics with their intervals, a row a defense."""
    rows = [
        [
            findings.defense_name(defense),
            *(
                measured(record, metric, scale, 1 if scale == 100 else 3)
                for metric, (_, scale) in columns.items()
            ),
        ]
        for defense, record in findings.evaluations_of(victim)
        if columns is not SCREENED or _screens(record)
    ]
    return markdown(["defense", *(title for title, _ in columns.values())], rows)


def _screens(record: Record) -> bool:
    claims = record.info.get("claims", {})
    return bool(claims.get("may_flag") or claims.get("may_refuse"))


DETECTION_PARTS = (".queries_until", ".client", ".auroc")
"""What is told of a pool beside the share that is flagged."""


def resolved_table(findings: Findings, victim: str) -> str:
    """Return the defenses that were given by their honest cost: what was found, and what it costs.

    The parameter is found on the calibration split; the costs are those of the test split.
    """
    rows = []
    for defense, record in findings.evaluations_of(victim):
        found: Mapping[str, str] = record.info.get("resolved") or {}
        costs = [measured(record, f"honest.l1_{part}", digits=3) for part in ("mean", "max")]
        given = {text: found[text] for text in defense if text in found}
        rows += [[f"`{text}`", f"`{became}`", *costs] for text, became in given.items()]
    return markdown(["given as", "found", "mean L1", "max L1"], rows, text=2)


def detection_table(findings: Findings, victim: str) -> str:
    """Return the share of each pool that each detector flags, and the queries until the first flag."""
    rows = []
    for defense, record in findings.evaluations_of(victim):
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
    for defense, record in findings.evaluations_of(victim):
        latency = record.info.get("latency_us", {})
        shown = [number(latency[size], 1) if latency.get(size) is not None else DASH for size in ("1", "256")]
        rows.append([findings.defense_name(defense), *shown])
    return markdown(["defense", "one query at a time (µs)", "in batches of 256 (µs a query)"], rows)
