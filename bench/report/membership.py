"""Membership inference in a report: what each attack finds, and what stands beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from bench.analysis.findings import Findings
from bench.analysis.membership_results import Inference, inferences
from bench.report.figures import study as study_figures
from bench.report.markdown import DASH, markdown, ranged
from bench.report.tables import MARKED

READING = """\
Half of the records were members; accuracy over .5 is what the attack adds to guessing. *TPR at 1 %*: the
share of members found where at most 1 % of non-members are taken for members (really: the rate in
parentheses); at .1 % it takes 1,000 judged non-members to mean anything. *Train–test gap*: by how many
points the victim is better on what it was trained on. *Without the victim*: a classifier that sees the
records and never asks; what it finds is the difference between two data sets, not membership. Brackets
are 95 % intervals over repeats and judged records."""
ROC = """\
*Members found against non-members taken for members, both on log axes; mean of the repeats. Dotted:
guessing.*"""
PANEL = 8
"""At most this many curves in one figure."""


def section(findings: Findings, folder: Path) -> list[str]:
    """Return the section on membership inference with its curves; nothing where nobody infers."""
    found = inferences(findings)
    parts = summary(found)
    for number, victim in enumerate(dict.fromkeys(one.victim for one in found), start=1):
        parts += curves([one for one in found if one.victim == victim], folder, f"roc-{number}")
    return parts


def summary(found: Sequence[Inference]) -> list[str]:
    """Return the section without curves; nothing where nobody infers."""
    return ["## Membership inference", said(found), table(found), READING] if found else []


def curves(found: Sequence[Inference], folder: Path, name: str) -> list[str]:
    """Draw the curves of some attacks as ``NAME.svg``; return the Markdown that shows them.

    Too many for one figure are drawn apart by where the non-members come from.
    """
    parts, named = [], dict(zip(labels(found), found, strict=True))
    kinds = {one.strangers for one in found} if len(found) > PANEL else {""}
    groups = []
    for kind in sorted(kinds):
        own = [label for label, one in named.items() if kind in ("", one.strangers)]
        groups += [own[place : place + PANEL] for place in range(0, len(own), PANEL)]
    for number, group in enumerate(groups, start=1):
        drawn = {label: named[label].curve() for label in group}
        suffix = f"-{number}" if len(groups) > 1 else ""
        path = study_figures.save(study_figures.roc(drawn), folder, name + suffix)
        alt = f"ROC curves of membership inference: {'; '.join(drawn)}"
        parts += [f"![{alt}]({path})\n\n{ROC}"] if path else []
    return parts


def labels(found: Sequence[Inference]) -> list[str]:
    """Return a name for each attack, of what sets it apart from the others."""
    several = [len({one.place[part] for one in found}) > 1 for part in range(4)]
    named = []
    for one in found:
        words = (one.attack, one.target, f"non-members: {one.strangers}", f"defense: {one.defense}")
        told = [word for word, apart in zip(words, several, strict=True) if apart]
        named.append(", ".join(told) or one.attack)
    return [
        f"{name} ({named[:i].count(name) + 1})" if named[:i].count(name) else name
        for i, name in enumerate(named)
    ]


def said(found: Sequence[Inference]) -> str:
    """Return one line an attack: what it finds, as far as its intervals tell."""
    return "\n".join(f"- {_sentence(one)}" for one in found)


def _sentence(one: Inference) -> str:
    against = "no defense" if one.defense == "none" else one.defense
    who = f"{one.attack} on {one.target} of `{one.victim}`, {against}, non-members from {one.strangers}"
    if one.target.startswith("the victim"):
        who = who.replace(" of `", " `", 1)
    auc = one.interval("auc")
    if auc is None or math.isnan(auc.low):
        return f"{who}: one repeat has no interval, so nothing is told from guessing."
    shown = f"AUC {ranged(auc, 1, 3)}"
    if auc.low <= 0.5 <= auc.high:
        return f"{who}: **this attack finds nothing** ({shown})."
    if auc.high < 0.5:
        return f"{who}: this attack does worse than guessing ({shown})."
    other = one.interval("without_victim_auc")
    alone = other is not None and other.low > 0.5
    doubt = f"; so does a classifier that never asks the victim (AUC {ranged(other, 1, 3)})" if alone else ""
    more = ", so what this attack finds need not be membership" if alone else ""
    return f"{who}: this attack tells the two apart better than guessing ({shown}){doubt}{more}."


def table(found: Sequence[Inference]) -> str:
    """Return one row an attack: its metrics, and what stands beside them."""
    rows = []
    for one in found:
        mark = MARKED if any(record.info.get("flags") for record in one.records) else ""
        rows.append(
            [
                one.victim,
                one.target,
                one.strangers,
                one.defense,
                one.attack + mark,
                len(one.records),
                *(ranged(one.interval(name)) for name in ("accuracy", "balanced_accuracy")),
                ranged(one.interval("auc"), 1, 3),
                *(_at(one, rate) for rate in ("1", "0.1")),
                ranged(one.interval("gap")),
                ranged(one.interval("without_victim_accuracy")),
                ranged(one.interval("without_victim_auc"), 1, 3),
            ]
        )
    headers = ["victim", "asked", "non-members", "defense", "attack", "repeats", "accuracy (%)"]
    headers += ["balanced accuracy (%)", "AUC", "TPR at 1 % FPR (%)", "TPR at .1 % FPR (%)"]
    headers += ["train–test gap (points)", "without the victim: accuracy (%)", "without the victim: AUC"]
    return markdown(headers, rows, text=5)


def _at(one: Inference, rate: str) -> str:
    share, really = one.interval(f"tpr_at_{rate}"), one.interval(f"fpr_at_{rate}")
    if share is None:
        return DASH
    return ranged(share) + (f" ({100 * really.value:.2g})" if really else "")
