"""Which defense to use: eligibility, selection, confirmation.

:mod:`bench.analysis.recommendation_rule` is the rule, :mod:`bench.analysis.rule_inputs` makes what it needs
from findings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench.analysis.confirmed_reduction import (
    AttackTable,
    find,
    strongest,
)
from bench.analysis.findings import Findings
from bench.analysis.recommendation_rule import conclude
from bench.analysis.rule_inputs import RuleInputs, tables
from bench.analysis.threat_models import UNDEFENDED, Defense, VictimThreatModel
from bench.analysis.verdicts import (
    DefenseVerdict,
    Recommendation,
    VictimRecommendations,
)
from bench.metrics.intervals import Interval, as_share, best_attack, mean_interval
from bench.run_facts import ReportOptions

NO_DATA = ("near", "far", "none")
"""Kinds of access without data like the users'."""


@dataclass(frozen=True)
class Selected:
    """What a confirmation run has to repeat: these defenses and no defense, under all attacks there.

    ``budget``: the reference budget, else the largest. ``defenses``: up to three, the most promising first;
    without (). Where results are carried over to one of them, their source has to be repeated too.
    """

    threat: VictimThreatModel
    budget: int
    defenses: tuple[Defense, ...]


def selected(findings: Findings, options: ReportOptions) -> list[Selected]:
    """Return what is to be confirmed, one entry a victim that has something to confirm."""
    found = []
    for victim in _victims(findings):
        threat = _strongest(findings, victim)
        budget = _budget(findings, threat) if threat else None
        if threat is None or budget is None:
            continue
        case = RuleInputs(findings, threat, budget, options, adaptive=True)
        chosen = conclude(case.undefended, case.cases(None), options).selected
        if chosen:
            found.append(Selected(threat, budget, chosen))
    return found


def recommendations(findings: Findings, options: ReportOptions) -> list[VictimRecommendations]:
    """Return the answers for each victim of a run that has extraction cells without defense."""
    found = []
    for victim in _victims(findings):
        threat = _strongest(findings, victim)
        if threat is None or _budget(findings, threat) is None:
            continue
        other = None
        if threat.access not in NO_DATA:
            other = _strongest(findings, victim, NO_DATA)
        unknowing = replace(threat, knowledge="none")
        asked = threat.knowledge != "none" and unknowing in findings.threats
        found.append(
            VictimRecommendations(
                victim,
                _recommendation(findings, threat, options, confirmed=True),
                _recommendation(findings, other, options) if other else None,
                _recommendation(findings, unknowing, options, adaptive=False)
                if asked and _budget(findings, unknowing)
                else None,
            )
        )
    return found


def _victims(findings: Findings) -> list[str]:
    return list(dict.fromkeys(threat.victim for threat in findings.threats))


def _strongest(
    findings: Findings, victim: str, accesses: Sequence[str] | None = None
) -> VictimThreatModel | None:
    """Return the threat model to recommend for: the best data access, probabilities, most knowledge.

    Of several, with other surrogates or pools, that with the highest fidelity without defense.
    """
    threats = [
        threat
        for threat in findings.threats
        if threat.victim == victim
        and (accesses is None or threat.access in accesses)
        and _budget(findings, threat) is not None
    ]
    if not threats:
        return None

    def rank(threat: VictimThreatModel) -> tuple[int, int, int]:
        _, access, _, _, shows, knowledge, *_ = threat.order
        return access, shows, knowledge

    best = min(map(rank, threats))

    def reached(threat: VictimThreatModel) -> float:
        return strongest(tables(findings, threat, UNDEFENDED, _budget(findings, threat) or 0)).mean

    return max((threat for threat in threats if rank(threat) == best), key=reached)


def _budget(findings: Findings, threat: VictimThreatModel) -> int | None:
    """Return the reference budget, else the largest at which some attack is ranked without defense."""
    budgets = findings.conditions[threat].get(UNDEFENDED, [])
    ranked = [budget for budget in budgets if tables(findings, threat, UNDEFENDED, budget)]
    reference = findings.reference(threat)
    return reference if reference in ranked else max(ranked, default=None)


def _recommendation(
    findings: Findings,
    threat: VictimThreatModel,
    options: ReportOptions,
    *,
    confirmed: bool = False,
    adaptive: bool = True,
) -> Recommendation:
    budget = _budget(findings, threat) or 0
    fresh = findings.fresh if confirmed and options.confirm else None
    if fresh is not None and (threat not in fresh.threats):
        fresh = None
    case = RuleInputs(findings, threat, budget, options, adaptive=adaptive)
    again = tables(fresh, threat, UNDEFENDED, budget) if fresh else []
    found = conclude(case.undefended, case.cases(fresh), options, again)
    undefended, attack = _reached(case.undefended, again if found.fresh_repeats else ())
    of_none = DefenseVerdict(UNDEFENDED, "undefended")
    rows = [
        replace(row, largest=case.reduction_at_largest(row.defense))
        if row.conclusion == "recommended"
        else row
        for row in found.verdicts
    ]
    largest = next((row.largest for row in rows if row.largest), None)
    return Recommendation(
        threat=threat,
        budget=budget,
        options=options,
        rows=(of_none, *rows),
        undefended=undefended,
        undefended_attack=attack,
        attacks=len(case.attacks),
        adaptive=len(case.adaptive_attacks),
        compared=found.compared,
        selection_repeats=max((len(each.repeats) for each in case.undefended), default=0),
        fresh_repeats=found.fresh_repeats,
        smallest=found.smallest,
        others=found.others,
        holds_at_largest=largest.interval.low > 0 if largest else None,
    )


def _reached(tables: Sequence[AttackTable], again: Sequence[AttackTable]) -> tuple[Interval, str]:
    """Return the fidelity of the best attack without defense, and its name.

    In fresh repeats, that of the attack that the others chose; else with an interval for the best of all.
    """
    chosen = strongest(tables)
    if again and (same := find(chosen, again)):
        return as_share(mean_interval(same.agreement)), same.name
    best = best_attack({each.name: each.agreement for each in tables})
    return as_share(best.interval), best.attack
