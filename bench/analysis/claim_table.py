"""Joins published claims with results: what a paper lost, what its recipe and a competent attacker lose here.

A loss is what the defense takes from a surrogate: undefended minus defended, with the same attacks both
times. A level with the defense alone says nothing, since surrogates differ without it too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import cast

from bench.analysis.claim_attackers import Contender, adaptation, competent_attacker, contenders
from bench.analysis.claim_recipe import RecipeResult, cause, recipe_result
from bench.analysis.claim_records import (
    ClaimRow,
    ClaimSource,
    ClaimTable,
    Estimate,
    Setting,
    Strength,
    UtilityLoss,
)
from bench.analysis.claim_rule import ACCURACY_KEY, differences, verdict
from bench.analysis.eligibility import utility_criteria
from bench.analysis.findings import Findings
from bench.analysis.interval_text import joined
from bench.analysis.published_claims import Claim, PublishedClaims, PublishedDefense, Quantity
from bench.analysis.recommendation import recommendations
from bench.analysis.threat_models import Defense, VictimThreatModel, defense_of, victim_of
from bench.calls import parse_call
from bench.plan.study import Where, as_list, axis_values, matching_calls
from bench.records import Record
from bench.run_facts import Meta

_KNOWLEDGE = ("none", "family", "full")


@dataclass(frozen=True, eq=False)
class ClaimRun:
    """A run whose records are joined with claims. ``name``: of its matrix, as pages call it."""

    name: str
    records: Sequence[Record]
    meta: Meta

    @cached_property
    def findings(self) -> Findings:
        """The records grouped."""
        return Findings.of_run(self.records, self.meta)

    @cached_property
    def threats(self) -> list[tuple[VictimThreatModel, int]]:
        """Of each victim the strongest threat model, and that without users' data, with their budgets.

        None of a replication, whose cells follow a publication, not the rule by which defenses are judged.
        """
        if self.meta.study is not None:
            return []
        found = []
        for each in recommendations(self.findings, self.meta.report):
            parts = (each.strongest, each.without_data)
            found += [(part.threat, part.budget) for part in parts if part is not None]
        return found

    def source(self) -> ClaimSource:
        """Return where its numbers come from."""
        meta = self.meta
        return ClaimSource(
            run=self.name,
            command=meta.command or "",
            commit=meta.commit or "",
            dirty=bool(meta.dirty),
            machine=str(meta.machine.get("cpu") or ""),
            versions=dict(sorted(meta.versions.items())),
        )


def claim_table(published: PublishedClaims, runs: Sequence[ClaimRun]) -> ClaimTable:
    """Return the rows of each defense: its claims, then its default and its strongest affordable strength.

    A claim has a row for each run with its cells and for each data set that it names, whatever they say; one
    of which no number was read and no recipe is known has none. Only defenses that stand alone have rows.
    The order of ``runs`` does not matter.
    """
    runs = sorted(runs, key=lambda run: run.name)
    rows = [row for defense in published.defense for row in _rows(defense, runs)]
    used = {row.setting.run for row in rows if row.setting is not None}
    return ClaimTable(rows=rows, sources=[run.source() for run in runs if run.name in used])


def _rows(defense: PublishedDefense, runs: Sequence[ClaimRun]) -> Iterator[ClaimRow]:
    for claim in defense.claim:
        if not claim.unread:
            yield from _of_claim(defense, claim, runs)
    for run in runs:
        for threat, budget in run.threats:
            yield from _measured(defense, run, threat, budget)


def _of_claim(defense: PublishedDefense, claim: Claim, runs: Sequence[ClaimRun]) -> list[ClaimRow]:
    row = ClaimRow(plugin=defense.name, defense=defense.default, strength="published", claim=claim.id)
    found = [
        _compared(row, claim, run, here)
        for data in as_list(claim.where.data if claim.where else None)
        for run in runs
        if (here := _recipe(claim, run, str(data))) is not None
    ]
    if found:
        return found
    apart = _unstated(claim) if claim.where is None else []
    verdict_of, reason = verdict(claim.published_loss, None, apart)
    return [row.with_values(verdict=verdict_of, reason=reason)]


def _recipe(claim: Claim, run: ClaimRun, data: str) -> RecipeResult | None:
    if claim.where is None:
        return None
    without = claim.without and _told(claim.without, claim, data)
    return recipe_result(_told(claim.where, claim, data), run.records, claim.quantity, without)


def _told(where: Where, claim: Claim, data: str) -> Where:
    """Return ``where`` on one data set, with the claim's knowledge unless it names one itself."""
    return where.model_copy(update={"data": data, "knowledge": where.knowledge or claim.knowledge})


def _controls(claim: Claim, run: ClaimRun, here: RecipeResult) -> dict[str, RecipeResult]:
    """Return the results of a claim's controls by what was changed.

    An axis on which a control names the claim's own alternatives has the value that the recipe has here: a
    control on another pool, of which the recipe has no cells, would differ in the pool too.
    """
    if claim.where is None:
        return {}
    values, found = axis_values(here.cell.spec()), {}
    for control in claim.control:
        fixed = {
            axis: values[axis]
            for axis, named in control.where
            if isinstance(named, list) and axis != "defense" and named == getattr(claim.where, axis)
        }
        where = _told(control.where.model_copy(update=fixed), claim, here.cell.victim.data)
        result = recipe_result(where, run.records, claim.quantity)
        if result is not None:
            found[control.label] = result
    return found


def _unstated(claim: Claim) -> list[str]:
    """Return what is missing to run a claim's recipe."""
    stated = _stated(claim)
    return [
        *differences({key: value for key, value in stated.items() if value in ("", None)}, stated),
        *_guessed(claim),
    ]


def _guessed(claim: Claim) -> list[str]:
    return [f"{joined(claim.guessed)} not stated in what was read and chosen here"] if claim.guessed else []


def _stated(claim: Claim) -> dict[str, str | int | float | None]:
    accuracy = claim.victim_accuracy
    return {
        "data set": claim.data,
        "victim": claim.victim,
        "surrogate": claim.surrogate,
        "pool": claim.pool,
        "attack": claim.attack,
        "budget": claim.budget,
        ACCURACY_KEY: None if accuracy is None else accuracy / 100,
    }


def _compared(row: ClaimRow, claim: Claim, run: ClaimRun, here: RecipeResult) -> ClaimRow:
    cell = here.cell
    defense, seeds = defense_of(cell), claim.seeds or 1
    same = here.as_record(seeds)
    evaluation = run.findings.evaluations.get((victim_of(cell), defense))
    accuracy = _accuracy(run.findings, victim_of(cell))
    ours = {
        "data set": cell.victim.data,
        "victim": cell.victim.architecture,
        "surrogate": cell.threat.surrogate,
        "pool": cell.threat.pool,
        "attack": claim.attack,  # the cells are those that the claim names for it
        "budget": cell.budget,
        ACCURACY_KEY: accuracy,
    }
    apart = [*differences(_stated(claim), ours), *_guessed(claim)]
    if claim.at_most:
        apart.append("published as the largest of several results")
    controls = _controls(claim, run, here)
    found, reason = verdict(
        claim.published_loss, same.predicted.interval, apart, cause(claim, here, controls)
    )
    threat = replace(VictimThreatModel.of(cell), knowledge=_KNOWLEDGE[-1])
    met = contenders(run.findings, threat, defense, cell.budget, claim.quantity)
    return row.with_values(
        defense=" + ".join(defense),
        verdict=found,
        reason=reason,
        setting=_setting(run, threat, cell.budget, met, claim.quantity),
        utility=_utility(evaluation),
        same_recipe=same,
        competent=competent_attacker(met),
        adaptation=adaptation(met),
    )


def _measured(
    published: PublishedDefense, run: ClaimRun, threat: VictimThreatModel, budget: int
) -> Iterator[ClaimRow]:
    for defense, strength, elsewhere in _strengths(published, run, threat, budget):
        met = contenders(run.findings, threat, defense, budget, "fidelity")
        if not met:
            continue
        row = ClaimRow(
            plugin=published.name,
            defense=defense[0],
            strength=strength,
            setting=_setting(run, threat, budget, met, "fidelity"),
            utility=_utility(run.findings.evaluations.get((threat.victim, defense))),
            competent=competent_attacker(met),
            adaptation=adaptation(met),
        )
        yield row.with_values(affordable_elsewhere=elsewhere) if elsewhere else row


def _strengths(
    published: PublishedDefense, run: ClaimRun, threat: VictimThreatModel, budget: int
) -> list[tuple[Defense, Strength, str]]:
    """Return the default, and the strongest whose accuracy users can afford, as far as they were run here.

    The strongest is that with the largest mean L1 for benign users, of all that the run has for the victim:
    what users lose does not depend on the attacker. The text beside the default is that one where it was not
    run under this threat model and budget.
    """
    findings = run.findings
    own = [
        defense
        for source in (threat, *threat.weaker())
        for owner, defense, spent in sorted(findings.raw_results, key=lambda each: (each[0].order, each[1:]))
        if owner == source
        and spent == budget
        and len(defense) == 1
        and parse_call(defense[0])[0] == published.name
    ]
    own = list(dict.fromkeys(own))
    default = matching_calls(published.default, {defense[0] for defense in own})
    evaluated = [
        defense
        for victim, defense in sorted(findings.evaluations)
        if victim == threat.victim and len(defense) == 1 and parse_call(defense[0])[0] == published.name
    ]
    affordable = [
        (value, defense)
        for defense in evaluated
        if (value := _affordable_l1(findings, threat, defense, run.meta)) is not None
    ]
    strongest = max(affordable, key=lambda pair: pair[0])[1] if affordable else None
    alone = "default" if affordable else "default, none affordable"
    elsewhere = strongest[0] if strongest and strongest not in own else ""
    found: list[tuple[Defense, Strength, str]] = []
    for defense in own:
        is_default = len(default) == 1 and defense[0] in default
        names = [*([alone] if is_default else []), *(["affordable"] if defense == strongest else [])]
        if names:
            strength = cast("Strength", ", ".join(names))
            found.append((defense, strength, elsewhere if is_default else ""))
    return found


def _affordable_l1(
    findings: Findings, threat: VictimThreatModel, defense: Defense, meta: Meta
) -> float | None:
    """Return the mean L1 of a defense that costs users no more accuracy than they can afford, else None."""
    evaluation = findings.evaluations.get((threat.victim, defense))
    if evaluation is None:
        return None
    criteria = utility_criteria(evaluation, meta.report, None)
    lost = [each for each in criteria if each.name in ("accuracy", "balanced accuracy")]
    if any(each.verdict != "affordable" for each in lost):
        return None
    return evaluation.metrics.get("honest.l1_mean")


def _setting(
    run: ClaimRun, threat: VictimThreatModel, budget: int, met: Sequence[Contender], quantity: Quantity
) -> Setting:
    known = max((_KNOWLEDGE.index(each.knowledge) for each in met), default=0)
    return Setting(
        run=run.name,
        victim=threat.victim,
        surrogate=threat.surrogate,
        pool=threat.pool,
        budget=budget,
        knowledge=_KNOWLEDGE[known],
        quantity=quantity,
        accuracy=_accuracy(run.findings, threat.victim),
    )


def _accuracy(findings: Findings, victim: str) -> float | None:
    """Return the accuracy of the undefended victim on test inputs, a fraction."""
    for _, evaluation in findings.evaluations_of(victim):
        value = evaluation.metrics.get("honest.accuracy_undefended")
        if value is not None:
            return value
    return None


def _utility(evaluation: Record | None) -> UtilityLoss | None:
    if evaluation is None:
        return None
    metrics, name = evaluation.metrics, "honest.accuracy_lost"
    lost, ends = metrics.get(name), evaluation.info.intervals.get(name)
    return UtilityLoss(
        l1_mean=metrics.get("honest.l1_mean"),
        l1_max=metrics.get("honest.l1_max"),
        accuracy_lost=None
        if lost is None
        else Estimate(value=lost, low=ends[0] if ends else None, high=ends[1] if ends else None),
    )
