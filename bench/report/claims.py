"""The page of published claims: losses in papers, next to those of the same recipe and the best attacks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pydantic

from bench.analysis.claim_records import ClaimRow, ClaimTable, Estimate
from bench.analysis.claim_table import claim_table
from bench.analysis.interval_text import DASH, in_table, number
from bench.analysis.published_claims import Claim, PublishedClaims, PublishedDefense, published_claims
from bench.errors import UsageError
from bench.files import write_atomically
from bench.metrics.flags import MEANING
from bench.report.markdown import code, markdown, plain
from bench.report.stored_runs import source_line, stored_runs
from bench.report.templates import rendered

PAGE, DATA = "claims.md", "claims.json"
"""Names of the page and of the file beside it that holds its rows."""
_STRENGTH = {
    "published": "as published",
    "default": "default",
    "affordable": "strongest affordable",
    "default, affordable": "default, which is the strongest affordable",
    "default, none affordable": "default; none that was run on this victim is shown to be affordable",
}


def claims_of(published: PublishedClaims, stores: Sequence[Path]) -> ClaimTable:
    """Return the rows of stores; raises as :func:`bench.report.stored_runs.stored_runs`."""
    return claim_table(published, stored_runs(stores))


def write_claims(published: PublishedClaims, table: ClaimTable, folder: Path) -> Path:
    """Write rows and page to ``folder``; return the page's path."""
    page = claims_page(published, table)
    write_atomically(folder / DATA, table.model_dump_json(exclude_unset=True, indent=1) + "\n")
    return _written(folder, page)


def rewrite_page(folder: Path) -> Path:
    """Write the page anew from the rows in ``folder``; return its path. Raises as :func:`read_claims`."""
    return _written(folder, claims_page(published_claims(), read_claims(folder)))


def _written(folder: Path, page: str) -> Path:
    path = folder / PAGE
    write_atomically(path, page + "\n")
    return path


def read_claims(folder: Path) -> ClaimTable:
    """Return the rows in ``folder``; raises UsageError where they are no such rows, or of a newer version."""
    path = folder / DATA
    try:
        return ClaimTable.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, pydantic.ValidationError) as error:
        raise UsageError(f"{path} holds no table of claims; write it with moatbench claims") from error


def claims_page(published: PublishedClaims, table: ClaimTable) -> str:
    """Return the page; raises UsageError for a row whose defense or claim is not among the published."""
    papers = {defense.name: defense for defense in published.defense}
    claims = {claim.id: claim for _, claim in published.claims()}
    for row in table.rows:
        if row.plugin not in papers or (row.claim and row.claim not in claims):
            raise UsageError(
                f"{DATA}: no claim {row.claim or row.plugin!r} is known; run moatbench claims again"
            )
    numbered = [(place, row, claims.get(row.claim)) for place, row in enumerate(table.rows, start=1)]
    labels = _labels(table)
    return rendered(
        "claims",
        counts=_counts(table),
        losses=markdown(
            [
                "",
                "defense",
                "published",
                "same attack here",
                "best attack here",
                "adaptation adds",
                "verdict",
            ],
            [_losses(place, labels[place - 1], row, claim) for place, row, claim in numbered],
            text=2,
        ),
        settings=markdown(
            [
                "",
                "measured on",
                "surrogate, pool, queries",
                "users lose",
                "repeats",
                "best attack without → with",
                "adaptation compares",
            ],
            [_setting(place, row) for place, row, _ in numbered if row.setting is not None],
            text=7,
        ),
        sources=markdown(
            ["", "source", "quantity and setting", "levels (%)", "read"],
            [_source(place, papers[row.plugin], claim) for place, row, claim in numbered if claim],
            text=5,
        ),
        unread=list(dict.fromkeys(plain(each.paper) for each, claim in published.claims() if claim.unread)),
        reasons=[
            f"{place}. *{row.verdict}*: {plain(row.reason)}.{_warnings(row)}"
            for place, row, claim in numbered
            if claim and row.reason
        ],
        without_row=[code(name) for name in papers if name not in {row.plugin for row in table.rows}],
        runs=[source_line(each) for each in table.sources],
    )


def _counts(table: ClaimTable) -> str:
    """Return in a sentence how many measured claims have which verdict."""
    rows = [row for row in table.rows if row.claim]
    verdicts = [row.verdict for row in rows]
    order = ("reproduced", "not reproduced", "not comparable", "not run", "no number")
    parts = [f"{verdicts.count(each)} {each}" for each in order if each in verdicts]
    if not parts:
        return "No claim is among the rows."
    claims = len({row.claim for row in rows})
    some = "One claim" if claims == 1 else f"{claims} claims"
    places = f", measured at {len(rows)} places" if len(rows) > claims else ""
    return f"{some}{places}: {', '.join(parts)}."


def _warnings(row: ClaimRow) -> str:
    """Return in a sentence which warnings the measured numbers have by which they cannot be used."""
    if row.same_recipe is None or not row.same_recipe.warnings:
        return ""
    found = "; ".join(MEANING.get(name, name) for name in row.same_recipe.warnings)
    return f" *Its numbers here have a warning by which they cannot be used elsewhere: {plain(found)}.*"


def _losses(place: int, label: str, row: ClaimRow, claim: Claim | None) -> list[str]:
    same, best, adds = row.same_recipe, row.competent, row.adaptation
    return [
        str(place),
        label,
        _published(claim),
        _pp(same.loss) if same else DASH,
        _pp(best.loss) if best else DASH,
        _pp(adds.adds) if adds else DASH,
        row.verdict if claim else DASH,
    ]


def _labels(table: ClaimTable) -> list[str]:
    """Return how the first table calls each row; rows that would be called alike also name their runs."""
    found = [f"{code(row.defense)}<br>{_strength(row)}" for row in table.rows]
    alike = Counter(found)
    return [
        f"{label} ({code(row.setting.run)})" if row.setting and alike[label] > 1 else label
        for label, row in zip(found, table.rows, strict=True)
    ]


def _strength(row: ClaimRow) -> str:
    """Return which strength a row is of, and on which victim and pool it was measured."""
    where = f"; {plain(row.setting.victim)}, {plain(row.setting.pool)}" if row.setting else ""
    other = row.affordable_elsewhere
    if other:
        where = (
            f"; the strongest affordable, {code(other)}, was not run with this threat model and budget{where}"
        )
    return f"{_STRENGTH[row.strength]}{where}"


def _published(claim: Claim | None) -> str:
    if claim is None or claim.published_loss is None:
        return DASH
    return f"{'up to ' if claim.at_most else ''}{number(100 * claim.published_loss, 1)}"


def _pp(estimate: Estimate) -> str:
    return in_table(estimate.interval)


def _setting(place: int, row: ClaimRow) -> list[str]:
    setting, lost, best, adds = row.setting, row.utility, row.competent, row.adaptation
    if setting is None:
        return []
    accuracy = "" if setting.accuracy is None else f", accuracy {number(100 * setting.accuracy, 1)} %"
    means, levels = f"{plain(setting.surrogate)}, {plain(setting.pool)}", DASH
    if best:
        # As printed, they differ by the loss of the first table.
        before, lost_here = round(100 * best.undefended, 1), round(100 * best.loss.value, 1)
        levels = (
            f"{number(before, 1)} % ({plain(best.undefended_attack)}) → "
            f"{number(before - lost_here, 1)} % ({plain(best.attack)}), of {_attacks(best.attacks)}"
        )
    repeats = [str(each.repeats) for each in (row.same_recipe, best) if each]
    return [
        str(place),
        f"{plain(setting.victim)}{accuracy}; {setting.quantity} ({code(setting.run)})",
        f"{means}, {setting.budget:,}; knowledge {setting.knowledge}",
        _lost(row) if lost else DASH,
        " / ".join(dict.fromkeys(repeats)) or DASH,
        levels,
        f"{plain(adds.adaptive)} with {plain(adds.non_adaptive)}" if adds else DASH,
    ]


def _attacks(count: int) -> str:
    return "one attack" if count == 1 else f"{count} attacks"


def _lost(row: ClaimRow) -> str:
    lost = row.utility
    if lost is None:
        return DASH
    parts = []
    if lost.l1_mean is not None:
        largest = "" if lost.l1_max is None else f" (largest {number(lost.l1_max, 2)})"
        parts.append(f"L1 {number(lost.l1_mean, 2)}{largest}")
    if lost.accuracy_lost is not None:
        parts.append(f"{_pp(lost.accuracy_lost)} pp of accuracy")
    return ", ".join(parts) or DASH


def _source(place: int, defense: PublishedDefense, claim: Claim) -> list[str]:
    accuracy = "" if claim.victim_accuracy is None else f" of {claim.victim_accuracy:g} % accuracy"
    known = {
        "data set": claim.data,
        "victim": claim.victim and f"{claim.victim}{accuracy}",
        "surrogate": claim.surrogate,
        "pool": claim.pool,
        "queries": claim.budget and f"{claim.budget:,}",
        "attack": claim.attack,
        "users' limit": claim.limit,
        "seeds": claim.seeds and str(claim.seeds),
    }
    parts = [f"{name}: {plain(value)}" for name, value in known.items() if value]
    missing = [name for name, value in known.items() if not value]
    sentences = [
        "; ".join([claim.quantity, *parts, f"knowledge: {claim.knowledge}"]),
        f"Not stated in what was read: {', '.join(missing)}" if missing else "",
        plain(claim.notes.removesuffix(".")),
    ]
    levels = DASH
    if claim.undefended is not None and claim.defended is not None:
        levels = f"{claim.undefended:g} → {claim.defended:g}"
    setting = ". ".join(filter(None, sentences)) + "."
    return [str(place), f"{plain(defense.paper)}, {plain(claim.place)}", setting, levels, claim.read]
