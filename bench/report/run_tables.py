"""The report's tables on the run itself, in Markdown: times and failures."""

from __future__ import annotations

import math
from collections import defaultdict
from html import escape
from typing import Any

from bench.analysis.display_names import attack_of
from bench.analysis.findings import Findings
from bench.analysis.interval_text import DASH
from bench.analysis.threat_models import VictimThreatModel, attacker, defense_of, unlabelled_of, victim_of
from bench.records import Record
from bench.report.markdown import markdown
from bench.tasks import Cell

SIZES = ("training steps", "rows in training", "unlabelled inputs")
"""Headers of the columns on what attacks and trainings took in."""


def timing_table(findings: Findings) -> str:
    """Return median seconds by surrogate and attack; cached trainings do not count in training time.

    Where any training or attack learns from unlabelled inputs, what each took in stands beside them.
    """
    import pandas as pd

    frame = pd.DataFrame(
        [_timing(findings, r) for r in findings.records if r.kind == "cell" and r.status == "ok"]
    )
    sizes = SIZES if len(frame) and (frame["unlabelled inputs"] > 0).any() else ()
    rows = []
    for names, group in frame.groupby(["surrogate", "attack"]) if len(frame) else []:
        parts = [group[part].median() for part in ("query_model", "query_defense", "acquire")]
        own = group[~group["shared"]]
        parts += [own["train"].median(), own["train_cpu"].median(), group["evaluate"].median()]
        seconds = [DASH if pd.isna(part) else f"{part:.3g}" for part in parts]
        memory = group["memory"].max()
        rows.append(
            [
                *names,
                len(group),
                group["shared"].sum(),
                *seconds,
                DASH if pd.isna(memory) else f"{memory:,.0f}",
                *(DASH if pd.isna(middle := group[name].median()) else f"{middle:,.0f}" for name in sizes),
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
    return markdown([*headers, "train, CPU (s)", "evaluate (s)", "memory (MiB)", *sizes], rows, text=2)


def _timing(findings: Findings, record: Record) -> dict[str, Any]:
    seconds, cpu = record.costs.seconds, record.costs.cpu_seconds
    return {
        "surrogate": record.cell.threat.surrogate,
        "attack": findings.attack_name(attack_of(record.cell)),
        "shared": record.costs.shared,
        "train_cpu": cpu.get("train", math.nan),
        "memory": math.nan if record.costs.memory_mib is None else record.costs.memory_mib,
        **{part: seconds.get(part, math.nan) for part in ("query_model", "query_defense", "acquire")},
        **{part: seconds.get(part, math.nan) for part in ("train", "evaluate")},
        **{label: math.nan if size is None else size for label, size in _sizes(record).items()},
    }


def _sizes(record: Record) -> dict[str, int | None]:
    return dict(zip(SIZES, (record.info.steps, record.info.rows, unlabelled_of(record)), strict=True))


def failure_table(findings: Findings, status: str) -> str:
    """Return cells and defense evaluations with this status, one row an error; empty without any."""
    groups: dict[tuple[str, ...], list[Record]] = defaultdict(list)
    for record in findings.records:
        if record.status == status:
            task, what, has = record.task, "defense evaluation", DASH
            if isinstance(task, Cell):
                what = findings.attack_name(attack_of(task))
                threat = VictimThreatModel.of(task)
                has = f"{attacker(threat)} ({threat.pool}, {threat.surrogate}, {threat.shows})"
            name = findings.defense_name(defense_of(task))
            groups[victim_of(task), has, name, what, _reason(record)].append(record)
    rows = []
    for (victim, has, defense, what, error), group in groups.items():
        budgets = sorted({r.task.budget for r in group if isinstance(r.task, Cell)})
        spent = ", ".join(f"{budget:,}" for budget in budgets) or DASH
        rows.append([victim, has, defense, what, error, spent, len(group)])
    return markdown(["victim", "attacker", "defense", "attack", "error", "queries", "cells"], rows, text=5)


def _reason(record: Record) -> str:
    return escape(record.error or "no reason was stored", quote=False)
