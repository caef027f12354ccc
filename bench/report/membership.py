"""Membership inference in a report: the results of each attack, next to a classifier without the victim."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.analysis.interval_text import in_clause, in_table
from bench.analysis.membership_results import Inference
from bench.metrics.definitions import Metric, shown_in
from bench.report.context import ReportContext
from bench.report.markdown import code, markdown, plain
from bench.report.templates import rendered

PANEL = 8
"""At most this many curves in one figure."""


def section(context: ReportContext) -> dict[str, Any] | None:
    """Return the results of membership inference, on a usual page with curves; None if there are none."""
    found = context.inferences
    if not found:
        return None
    figures = []
    if not context.on_study_page:
        for number, victim in enumerate(dict.fromkeys(one.victim for one in found), start=1):
            own = [one for one in found if one.victim == victim]
            figures += curves(own, context.folder, f"roc-{number}")
    return {"sentences": sentences(found), "table": table(found), "figures": figures}


def curves(found: Sequence[Inference], folder: Path | None, name: str) -> list[str]:
    """Draw the ROC curves of some attacks as ``NAME.svg``; return the Markdown that shows them.

    If there are too many for one figure, there is one for each source of non-members.
    """
    if folder is None:  # so that a page for the terminal loads no matplotlib
        return []
    from bench.report.figures import study as study_figures
    from bench.report.figures.style import save

    parts, named = [], dict(zip(labels(found), found, strict=True))
    kinds = {one.non_members for one in found} if len(found) > PANEL else {""}
    groups = []
    for kind in sorted(kinds):
        own = [label for label, one in named.items() if kind in ("", one.non_members)]
        groups += [own[place : place + PANEL] for place in range(0, len(own), PANEL)]
    for number, group in enumerate(groups, start=1):
        drawn = {label: named[label].curve() for label in group}
        suffix = f"-{number}" if len(groups) > 1 else ""
        path = save(study_figures.roc(drawn), folder, name + suffix)
        parts += [rendered("figure_roc", names=list(drawn), path=path)] if path else []
    return parts


def labels(found: Sequence[Inference]) -> list[str]:
    """Return a name for each attack, made of the parts in which the attacks differ."""
    several = [len({one.parts[part] for one in found}) > 1 for part in range(4)]
    named = []
    for one in found:
        words = (one.attack, one.target, f"non-members: {one.non_members}", f"defense: {one.defense}")
        differing = [word for word, differs in zip(words, several, strict=True) if differs]
        named.append(", ".join(differing) or one.attack)
    return [
        f"{name} ({named[:i].count(name) + 1})" if named[:i].count(name) else name
        for i, name in enumerate(named)
    ]


def sentences(found: Sequence[Inference]) -> list[str]:
    """Return a sentence for each attack: whether it is significantly better than guessing."""
    return [_sentence(one) for one in found]


def _sentence(one: Inference) -> str:
    against = "no defense" if one.defense == "none" else one.defense
    who = f"{one.attack} on {one.target} of `{one.victim}`, {against}, non-members from {one.non_members}"
    if one.target.startswith("the victim"):
        who = who.replace(" of `", " `", 1)
    auc = one.interval("auc")
    if auc is None or math.isnan(auc.low):
        return f"{who}: one repeat gives no confidence interval; run more repeats."
    shown = f"AUC {in_clause(auc, '', 1, 3)}"
    if auc.low <= 0.5 <= auc.high:
        return f"{who}: **this attack finds nothing** ({shown})."
    if auc.high < 0.5:
        return f"{who}: this attack does worse than guessing ({shown})."
    other = one.interval("without_victim_auc")
    caveat = ""
    if other is not None and other.low > 0.5:
        shown_alone = in_clause(other, "", 1, 3)
        caveat = f"; so does a classifier that never queries the victim (AUC {shown_alone})"
    more = ", so what this attack finds need not be membership" if caveat else ""
    return f"{who}: this attack tells the two apart better than guessing ({shown}){caveat}{more}."


def table(found: Sequence[Inference]) -> str:
    """Return the table of results, a row for each attack."""
    metrics = shown_in("membership")
    rows = [
        [
            plain(one.victim),
            plain(one.target),
            plain(one.non_members),
            code(one.defense),
            plain(one.attack),
            len(one.records),
            *(_cell(one, metric) for metric in metrics),
        ]
        for one in found
    ]
    headers = ["victim", "target", "non-members", "defense", "attack", "repeats"]
    return markdown([*headers, *(metric.heading for metric in metrics)], rows, text=5)


def _cell(one: Inference, metric: Metric) -> str:
    """Return the metric with its interval; for true positives, the actual rate of false ones follows."""
    name = metric.name.removeprefix("membership.")
    false_positives = one.interval(name.replace("tpr", "fpr")) if name.startswith("tpr_at_") else None
    actual = f" ({100 * false_positives.value:.2g})" if false_positives else ""
    return in_table(one.interval(name), metric.scale, metric.digits) + actual
