"""The values of a report's sections that need no module of their own: one function a template."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any

from bench.analysis.findings import Findings
from bench.analysis.group_losses import GroupLoss, unequal
from bench.analysis.interval_text import DASH, in_text, number
from bench.analysis.row_flags import Note
from bench.analysis.threat_models import not_met
from bench.analysis.verdicts import Recommendation
from bench.calls import parse_call
from bench.report import membership, run_tables
from bench.report.context import ReportContext
from bench.report.markdown import code, markdown, plain
from bench.report.utility_tables import (
    detection_table,
    group_table,
    latency_table,
    ood_table,
    resolved_table,
    utility_table,
)
from bench.run_facts import Meta, VictimFacts
from bench.tasks import OWN, Cell


def no_extraction(context: ReportContext) -> dict[str, Any]:
    """Return the values of the first page of a run without any extraction."""
    found = context.inferences
    return {
        "title": plain(context.title),
        "sentences": membership.sentences(found),
        "lacking": context.lacking,
        "cells": len(context.records),
        "unranked": unranked(context),
    }


def unranked(context: ReportContext) -> str:
    """Return a sentence on victims for which no attack without defense is ranked; empty without any."""
    if not context.unranked:
        return ""
    names = ", ".join(code(victim) for victim in context.unranked)
    return (
        f"Defenses of {names} cannot be compared: without a defense no attack was run, or none learned more "
        "than chance. More queries or another surrogate may help ([all attacks](attacks.md))."
    )


def name_table(findings: Findings) -> str:
    """Return the table of short names of attacks and defenses; empty if none is short."""
    long = [[plain(short), code(text)] for text, short in sorted(findings.short.items()) if short != text]
    return markdown(["short", "in full"], long, text=2)


def names(context: ReportContext) -> dict[str, Any] | None:
    """Return the table of short names; None if none is short."""
    table = name_table(context.findings)
    return {"names": table} if table else None


def utility(context: ReportContext) -> dict[str, Any] | None:
    """Return the utility loss of each defense for benign users, by victim; None without an evaluation."""
    return _by_victim(context, lambda v: utility_table(context.findings, v, "utility"))


def criteria(context: ReportContext) -> dict[str, Any] | None:
    """Return what decides whether users can afford each defense, by victim; None without an evaluation."""
    return _by_victim(context, lambda v: utility_table(context.findings, v, "criteria"))


def groups(context: ReportContext) -> dict[str, Any] | None:
    """Return what declared groups of users lose, by victim; None without groups."""
    found = _by_victim(context, lambda v: group_table(context.findings, v))
    if found is None:
        return None
    names = sorted({victim for victim, _ in context.findings.evaluations})
    alone = len(names) == 1
    sentences = [
        f"{group_sentence(context, loss)}{'' if alone else f' (victim {plain(victim)})'}."
        for victim in names
        for loss in unequal(context.findings, victim)
    ]
    return found | {"sentences": sentences}


def group_sentence(context: ReportContext, loss: GroupLoss) -> str:
    """Return which group a defense takes more from, and how much more, as a clause."""
    name, group = code(context.findings.defense_name(loss.defense)), plain(loss.group.replace("=", " = "))
    more = in_text(loss.more)
    if loss.what == "changed":
        return f"{name} changes {more} more of the decisions on users with {group} than on all others"
    return f"{name} takes {more} more accuracy from users with {group} than from all others"


def out_of_distribution(context: ReportContext) -> dict[str, Any] | None:
    """Return what confidence still says of inputs unlike the victim's, by victim; None where not measured."""
    return _by_victim(context, lambda v: ood_table(context.findings, v))


def by_utility(context: ReportContext) -> dict[str, Any] | None:
    """Return the defenses that were given by their utility loss, by victim; None if there are none."""
    return _by_victim(context, lambda v: resolved_table(context.findings, v))


def rejected(context: ReportContext) -> dict[str, Any] | None:
    """Return how many benign queries each detector rejects or flags, by victim; None without a detector."""
    return _by_victim(context, lambda v: utility_table(context.findings, v, "detector"))


def detection(context: ReportContext) -> dict[str, Any] | None:
    """Return how much of each pool each detector flags, by victim; None without a detector."""
    return _by_victim(context, lambda v: detection_table(context.findings, v))


def latency(context: ReportContext) -> dict[str, Any] | None:
    """Return the time that each defense adds to a query, by victim; None without an evaluation."""
    return _by_victim(context, lambda v: latency_table(context.findings, v))


def _by_victim(context: ReportContext, table: Callable[[str], str]) -> dict[str, Any] | None:
    victims = sorted({victim for victim, _ in context.findings.evaluations})
    tables = {victim: text for victim in victims if (text := table(victim))}
    return {"tables": tables} if tables else None


def timing(context: ReportContext) -> dict[str, Any] | None:
    """Return the table of seconds; None if no cell has any."""
    table = run_tables.timing_table(context.findings)
    return {"table": table} if table else None


def warnings(context: ReportContext) -> dict[str, Any] | None:
    """Return each reliability warning once, with what to do about it; None without any."""
    found = [_note(context, note) for note in context.notes]
    return {"notes": found} if found else None


def _note(context: ReportContext, note: Note) -> dict[str, Any]:
    rows = [
        [
            f"{plain(threat.victim)}: {context.attacker(threat)}",
            code(context.findings.defense_name(defense)) if defense else "none",
            plain(detail),
        ]
        for threat, defense, detail in note.rows
    ]
    flag = note.flag
    return {
        "title": f"F{flag.number} · {flag.name}" if flag.number else plain(flag.name),
        "meaning": flag.meaning[:1].upper() + flag.meaning[1:],
        "do": flag.do,
        "invalidates": flag.invalidates,
        "rows": len(rows),
        "cells": note.cells,
        "table": markdown(["attacker", "defense", "where"], rows, text=3),
    }


def failures(context: ReportContext) -> dict[str, Any]:
    """Return failed cells with their errors, and cells that are not applicable with the reasons."""
    findings = context.findings
    return {
        "failed": run_tables.failure_table(findings, "failed"),
        "command": context.meta.command or "moatbench run",
        "tracebacks": {
            escape(str(record.error), quote=False): record.info.traceback.strip()
            for record in findings.records
            if record.status == "failed" and record.info.traceback
        },
        "not_applicable": run_tables.failure_table(findings, "not_applicable"),
    }


def not_run(context: ReportContext) -> dict[str, Any]:
    """Return the attacks, the defenses and the attackers that the run could have had and has not."""
    tasks = [record.task for record in context.records]
    cells = [task for task in tasks if isinstance(task, Cell)]
    attacks = {parse_call(cell.attack)[0] for cell in cells}
    defenses = {parse_call(text)[0] for task in tasks for text in task.defense} | {"none"}
    meta = context.meta
    left = [name for name in meta.attacks if name not in attacks]
    untested = [name for name in meta.defenses if name not in defenses]
    unmet = not_met(cell.threat for cell in cells)
    return {
        "attacks": ", ".join(code(name) for name in left),
        "defenses": ", ".join(code(name) for name in untested),
        "attackers": " or ".join(filter(None, [", ".join(unmet[:-1]), *unmet[-1:]])),
        "complete": bool(meta.attacks) and not left and not untested,
        "unknown": not meta.attacks,
        "command": meta.command,
    }


def options(context: ReportContext) -> dict[str, Any] | None:
    """Return the thresholds in force, and the smallest reduction that each victim's run finds in 90 %."""
    found, asked = context.recommendations, context.meta.report
    if not found:
        return None
    shares = {
        "accuracy and balanced accuracy lost (pp)": asked.accuracy,
        "benign queries rejected (%)": asked.rejected,
        "threshold decisions changed (%)": asked.changed,
        "best adaptive attack behind the best other one (pp)": asked.shortfall,
        "smallest reduction that is recommended (pp)": asked.least,
    }
    rows = [[name, f"{100 * value:g}"] for name, value in shares.items()]
    rows += [
        ["area under the risk-coverage curve (two classes: AUROC), worse by", f"{asked.ranking:g}"],
        ["Brier score, worse by", f"{asked.brier:g}"],
        ["thresholds at which users decide", ", ".join(f"{each:g}" for each in asked.thresholds)],
        ["sold", asked.sells],
        ["fresh repeats of the confirmation run", str(asked.confirm)],
        ["price of 1,000 queries", f"${asked.price:,.2f}"],
    ]
    rows += [["queries an hour", f"{asked.rate:,g}"]] if asked.rate else []
    rows += [["inputs an account", f"{asked.quota:,}"]] if asked.quota else []
    smallest = [
        [
            code(each.victim),
            f"{rec.budget:,}",
            str(rec.fresh_repeats or f"{rec.options.confirm}, not run"),
            _smallest(rec),
        ]
        for each in found
        if (rec := each.strongest)
    ]
    headers = ["victim", "queries", "fresh repeats", "smallest reduction found in 90 % (pp)"]
    return {"limits": markdown(["limit", ""], rows), "smallest": markdown(headers, smallest)}


def _smallest(rec: Recommendation) -> str:
    return DASH if rec.smallest is None else number(100 * rec.smallest, 1)


def origin(context: ReportContext) -> dict[str, Any]:
    """Return where every number comes from: command, commit, machine, versions, seeds, victims, matrix."""
    seeds = sorted({record.task.seed for record in context.records})
    return run_facts(context.meta, context.counts, context.seconds, seeds)


def run_facts(
    meta: Meta, counts: Mapping[str, int], seconds: float | None = None, seeds: Sequence[int] = ()
) -> dict[str, Any]:
    """Return the values of the template ``origin``.

    ``counts``: tasks by status; ``seconds``: wall time of the whole run, where it is known.
    """
    edited = " with changes that are not committed" if meta.dirty else ""
    versions = meta.packages or meta.versions
    facts = {
        "matrix": meta.matrix,
        "command": f"`{meta.command}`" if meta.command else None,
        "commit": (meta.commit or "unknown") + edited,
        "cells": ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items()),
        "seeds": ", ".join(map(str, seeds)),
        "started": _moment(meta.started),
        "finished": _moment(meta.finished),
        "wall seconds": None if seconds is None else f"{seconds:,.0f}",
        "jobs": meta.jobs,
        "device": meta.device,
        "reference budget": ", ".join(
            f"{data.removeprefix(OWN)}: {n:,}" for data, n in meta.reference_budget.items()
        ),
        **meta.machine,
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }
    headers = [
        "victim",
        "accuracy (%)",
        "expected (%)",
        "training / calibration / pool / test",
        "parameters",
        "fingerprint",
    ]
    return {
        "description": plain(meta.description or ""),
        "facts": markdown(["", ""], [[k, v] for k, v in facts.items() if v not in (None, "")], text=2),
        "victims": markdown(headers, [_victim(victim) for victim in meta.victims]),
        "matrix": (meta.matrix_text or "").strip(),
    }


def _moment(when: float | None) -> str | None:
    return None if when is None else datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _victim(victim: VictimFacts) -> list[str]:
    sizes = (victim.sizes.train, victim.sizes.calibration, victim.sizes.pool, victim.sizes.test)
    return [
        victim.identity,
        *(DASH if share is None else f"{100 * share:.1f}" for share in (victim.accuracy, victim.expected)),
        " / ".join(DASH if size is None else f"{size:,}" for size in sizes),
        DASH if victim.parameters is None else f"{victim.parameters:,}",
        f"`{victim.fingerprint[:12]}`",
    ]
