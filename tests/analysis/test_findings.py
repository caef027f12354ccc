import re
from dataclasses import replace

import pytest
from records import AUDITS, INSIDE, META, NEAR, REPEATS, cell, evaluation, hits, section

from bench.analysis.attacker_results import equal_agreement, in_both
from bench.analysis.findings import Findings
from bench.analysis.threat_models import VictimThreatModel
from bench.report.page import write_report

SOFT, LABELS = "copycat(use_probability=true)", "copycat(use_probability=false)"
RECOVER, MAJORITY = "recover", "labels"
FULL, FAMILY = INSIDE | {"knowledge": "full"}, INSIDE | {"knowledge": "family"}
NONE, LABEL_ONLY = (), ("label_only",)
SIGMOID, ROUNDED, USELESS = (
    ("reverse_sigmoid(beta=1.0, gamma=0.5)",),
    ("rounded(decimals=1)",),
    ("top_k(k=9)",),
)
KEPT = {
    (NONE, SOFT): 0.80,
    (NONE, LABELS): 0.70,
    (LABEL_ONLY, SOFT): 0.66,
    (LABEL_ONLY, LABELS): 0.70,
    (SIGMOID, SOFT): 0.30,
    (SIGMOID, LABELS): 0.60,
    (ROUNDED, SOFT): 0.55,
    (ROUNDED, LABELS): 0.58,
    (USELESS, SOFT): 0.80,
    (USELESS, LABELS): 0.70,
}
KNOWING = {NONE: 0.80, LABEL_ONLY: 0.70, SIGMOID: 0.80, ROUNDED: 0.70}
AUDITED = [
    evaluation(NONE),
    evaluation(LABEL_ONLY, l1=0.08),
    evaluation(SIGMOID, l1=1.5, kept=0.98, lost=0.02),
    evaluation(ROUNDED, l1=0.2, kept=0.97, lost=0.03, ties=True),
    evaluation(USELESS),
]


def static(threat=INSIDE, budgets=(50, 200)):
    return [
        cell(threat, defense, attack, budget, repeat, share=share)
        for (defense, attack), share in KEPT.items()
        for budget in budgets
        for repeat in range(REPEATS)
    ]


def knowing(threat=FULL, shares=KNOWING, budgets=(50, 200)):
    return [
        cell(threat, defense, RECOVER, budget, repeat, share=share)
        for defense, share in shares.items()
        for budget in budgets
        for repeat in range(REPEATS)
    ]


@pytest.fixture(scope="module")
def findings():
    return Findings([*AUDITED, *static(), *knowing()], {"digits": 200})


def row_of(findings, knowledge, defense):
    threat = next(threat for threat in findings.threats if threat.knowledge == knowledge)
    return next(row for row in findings.rows[threat] if row.defense == defense)


def test_the_reduction_from_label_only_pairs_the_best_attacks_of_those_run_against_both(findings):
    standing = row_of(findings, "none", SIGMOID).results[200]
    expected = hits(0.70, "copycat(use_probability=false)", 0).mean() - hits(0.60, LABELS, 0).mean()
    assert standing.reduction_from_labels.value == pytest.approx(expected, abs=0.02)
    assert standing.reduction_from_labels.low > 0
    assert row_of(findings, "none", LABEL_ONLY).results[200].reduction_from_labels is None
    assert row_of(findings, "none", NONE).results[200].reduction_from_labels.high < 0


def test_without_label_only_nothing_is_compared_with_it():
    cells = [record for record in static() if tuple(record.spec["defense"]) != LABEL_ONLY]
    found = Findings([*AUDITED, *cells], {"digits": 200})
    assert row_of(found, "none", SIGMOID).results[200].reduction_from_labels is None


def test_the_strongest_threat_model_comes_first_and_has_the_defenses_of_weaker_ones(findings):
    assert [threat.knowledge for threat in findings.threats] == ["full", "none"]
    assert findings.strongest == findings.threats[:1]
    met = {row.defense for row in findings.rows[findings.threats[0]]}
    # No adaptive attack was run against top_k: there the non-adaptive ones are candidates.
    assert USELESS in met
    best = row_of(findings, "full", USELESS).results[200].best
    assert best.attack.endswith("(non-adaptive)")


def test_a_stronger_threat_model_is_not_evaluated_at_budgets_that_it_was_not_run_at():
    found = Findings(
        [*AUDITED, *static(budgets=(50, 200, 800)), *knowing(budgets=(50, 200))], {"digits": 200}
    )
    assert {b for budgets in found.conditions[found.threats[0]].values() for b in budgets} == {50, 200}
    assert found.summary_budgets(found.threats[0]) == [200]
    assert found.summary_budgets(found.threats[1]) == [200, 800]


def test_each_pool_has_a_strongest_threat_model_of_its_own():
    found = Findings([*AUDITED, *static(), *knowing(), *static(NEAR)], {"digits": 200})
    assert [(threat.pool, threat.knowledge) for threat in found.strongest] == [
        ("in-distribution", "full"),
        ("usps", "none"),
    ]


def test_non_adaptive_attacks_are_compared_among_themselves(findings):
    aware, plain = (row_of(findings, knowledge, SIGMOID).results[200] for knowledge in ("full", "none"))
    assert aware.best.attack == RECOVER
    assert aware.non_adaptive.best.interval.value == plain.best.interval.value
    assert aware.non_adaptive.reduction == plain.reduction
    assert aware.non_adaptive.adaptive_gain.low > 0
    assert plain.non_adaptive is None


def test_what_an_attack_gains_by_knowledge_does_not_count_for_non_adaptive_ones():
    unknowing = [
        cell(INSIDE, d, RECOVER, 200, r, share=share)
        for d, share in {NONE: 0.5, SIGMOID: 0.2}.items()
        for r in range(REPEATS)
    ]
    better = knowing(shares={NONE: 0.95, SIGMOID: 0.9}, budgets=(200,))
    found = Findings([*AUDITED, *static(budgets=(200,)), *unknowing, *better], {"digits": 200})
    aware, plain = (row_of(found, knowledge, SIGMOID).results[200] for knowledge in ("full", "none"))
    assert aware.non_adaptive.reduction == plain.reduction


def test_results_carried_over_from_label_only_are_non_adaptive():
    evaluations = [
        evaluation(d, **({"l1": 0.3} if d == SIGMOID else {})) for d in (NONE, LABEL_ONLY, SIGMOID)
    ]
    found = Findings([*evaluations, *static(), *knowing()], {"digits": 200})
    replayed = {
        name: sample
        for name, sample in found.candidates(found.threats[0], SIGMOID, 200).items()
        if name.endswith(", carried over from label_only")
    }
    assert replayed
    assert not any(sample.adaptive for sample in replayed.values())


def test_an_attack_that_is_only_carried_over_did_not_meet_the_defense():
    """Behind labels it learns little; what it learns from this defense's answers nobody has seen."""
    on_answers, on_labels = (f"active_thief(use_probability={value})" for value in ("true", "false"))
    shares = {(NONE, on_answers): 0.95, (LABEL_ONLY, on_answers): 0.6}
    shares |= {(defense, on_labels): 0.85 for defense in (NONE, LABEL_ONLY)}
    more = [
        cell(INSIDE, defense, attack, 200, repeat, share=share)
        for (defense, attack), share in shares.items()
        for repeat in range(REPEATS)
    ]
    found = Findings([*AUDITED, *static(budgets=(200,)), *more], {"digits": 200})
    (threat,) = found.threats
    undefended, carried = (found.candidates(threat, defense, 200) for defense in (NONE, USELESS))
    assert f"{found.attack_name(on_answers)}, carried over from label_only" in carried

    def met(defense):
        rivals = in_both(undefended, found.candidates(threat, defense, 200)).values()
        return {rival.attack for rival in rivals if not rival.carried_over}

    assert met(LABEL_ONLY) == {SOFT, LABELS, on_answers, on_labels}
    # With labels alone it learns the same whatever the defense answers.
    assert met(USELESS) == {SOFT, LABELS, on_labels}
    assert met(SIGMOID) == {SOFT, LABELS}
    after = row_of(found, "none", USELESS).results[200]
    assert after.best.attack.startswith(found.attack_name(on_labels))
    assert after.reduction.value == 0


def test_without_cells_of_the_undefended_victim_no_reduction_is_claimed():
    cells = [record for record in static() if tuple(record.spec["defense"]) != NONE]
    found = Findings([*AUDITED, *cells], {"digits": 200})
    (threat,) = found.threats
    assert NONE not in found.conditions[threat]
    assert not found.candidates(threat, NONE, 200)
    for defense in (LABEL_ONLY, SIGMOID, USELESS):
        assert row_of(found, "none", defense).results[200].reduction is None


def renamed(records, old, new, **claims):
    """The same run of a defense of another name; ``claims``: those in its evaluation."""
    made = []
    for record in records:
        if tuple(record.spec["defense"]) != old:
            made.append(record)
            continue
        info = record.info
        if record.kind == "audit":
            info = info.with_values(claims=info.claims.with_values(**claims))
        made.append(replace(record, task=replace(record.task, defense=new), info=info))
    return made


def labels_reductions(found):
    results = row_of(found, "none", SIGMOID).results[200]
    return results.reduction_from_labels, row_of(found, "none", USELESS).results[200].best


def test_a_defense_that_answers_labels_alone_is_known_by_what_it_claims_and_not_by_its_name():
    """Records of earlier versions do not say; there the name ``label_only`` decides."""
    run, other = [*AUDITED, *static()], ("only_the_top",)
    by_name = labels_reductions(Findings(run, {"digits": 200}))
    claimed = renamed(run, LABEL_ONLY, other, one_hot=True)
    assert by_name[0].low > 0
    assert labels_reductions(Findings(claimed, {"digits": 200})) == by_name
    assert Findings(claimed, {"digits": 200}).is_label_only(other)
    assert labels_reductions(Findings(renamed(run, LABEL_ONLY, other), {"digits": 200}))[0] is None
    for broken in ({"one_hot": False}, {"one_hot": True, "may_refuse": True}):
        found = Findings(renamed(run, LABEL_ONLY, LABEL_ONLY, **broken), {"digits": 200})
        assert not found.is_label_only(LABEL_ONLY)


def test_carried_over_results_name_the_defense_that_they_come_from():
    claimed = renamed([*AUDITED, *static()], LABEL_ONLY, ("only_the_top",), one_hot=True)
    found = Findings(claimed, {"digits": 200})
    names = found.candidates(found.threats[0], USELESS, 200)
    assert any(name.endswith(", carried over from only_the_top") for name in names)


def test_attacks_that_agree_wherever_both_were_run_are_one_by_any_name():
    twins = [
        cell(INSIDE, defense, MAJORITY, 200, repeat, share=KEPT[defense, LABELS])
        for defense in (NONE, SIGMOID)
        for repeat in range(REPEATS)
    ]
    for twin in twins:
        stream = hits(KEPT[tuple(twin.spec["defense"]), LABELS], LABELS, twin.spec["repeat"])
        twin.arrays["agreement"] = stream
    found = Findings([*AUDITED, *static(budgets=(200,)), *twins], {"digits": 200})
    (threat,) = found.threats
    name = "labels = copycat on labels"
    assert all(name in found.attack_results[threat, d, 200] for d in (NONE, SIGMOID, ROUNDED))
    assert name in found.candidates(threat, LABEL_ONLY, 200)


def test_one_condition_where_they_differ_keeps_attacks_apart_everywhere():
    cells = static(budgets=(200,))
    twins = [
        replace(record, task=replace(record.task, attack=MAJORITY))
        for record in cells
        if record.spec["attack"] == LABELS
    ]
    other = cell(INSIDE, ROUNDED, MAJORITY, 200, 0, share=0.2)
    twins = [other if (tuple(t.spec["defense"]), t.spec["repeat"]) == (ROUNDED, 0) else t for t in twins]
    found = Findings([*AUDITED, *cells, *twins], {"digits": 200})
    (threat,) = found.threats
    for place in (NONE, SIGMOID, ROUNDED):
        assert {MAJORITY, "copycat on labels"} <= set(found.attack_results[threat, place, 200])


def test_an_attack_that_differs_from_one_of_two_names_joins_neither():
    def ran(attack, defense, share):
        cells = [cell(INSIDE, defense, attack, 200, repeat, share=share) for repeat in range(2)]
        for record in cells:
            record.arrays["agreement"] = hits(share, "x", record.spec["repeat"])
        return cells

    cells = [*ran("a", NONE, 0.7), *ran("b", NONE, 0.7), *ran("c", NONE, 0.7)]
    cells += [*ran("b", SIGMOID, 0.4), *ran("c", SIGMOID, 0.6)]
    found = Findings(cells, {})
    (threat,) = found.threats
    assert set(found.attack_results[threat, NONE, 200]) == {"a = b", "c"}


@pytest.mark.parametrize("flag", ["near_chance", "nothing_learnt"])
def test_two_untrained_surrogates_do_not_make_two_attacks_one(flag):
    cells = [
        cell(INSIDE, SIGMOID, attack, 200, repeat, share=0.1, flags=[flag])
        for attack in (SOFT, LABELS)
        for repeat in range(2)
    ]
    for record in cells:
        record.arrays["agreement"] = hits(0.1, "x", record.spec["repeat"])
    (samples,) = Findings(cells, {}).attack_results.values()
    assert equal_agreement(*samples.values())
    assert len(samples) == 2


def test_two_perfect_surrogates_do_not_make_two_attacks_one():
    cells = [
        cell(INSIDE, NONE, attack, 200, repeat, share=2.0) for attack in (SOFT, LABELS) for repeat in range(2)
    ]
    (samples,) = Findings(cells, {}).attack_results.values()
    assert all(sample.agreement.all() for sample in samples.values())
    assert len(samples) == 2


def test_parameters_found_by_utility_loss_are_shown_with_that_loss(tmp_path):
    given = ("reverse_sigmoid(l1=0.3)",)
    found = evaluation(given, l1=0.31, kept=0.99)
    resolved = {given[0]: "reverse_sigmoid(beta=1.0, gamma=0.0731)"}
    found = replace(found, info=found.info.with_values(resolved=resolved))
    cells = [cell(INSIDE, d, SOFT, 200, r, share=0.7) for d in (NONE, given) for r in range(2)]
    write_report([evaluation(NONE), found, *cells], META, tmp_path)
    text = (tmp_path / "utility.md").read_text(encoding="utf-8")
    part = section(text, "## Defenses given by their utility loss")
    assert re.search(
        r"`reverse_sigmoid\(l1=0\.3\)` +\| `reverse_sigmoid\(beta=1\.0, gamma=0\.0731\)` +\| +0\.310", part
    )


def test_a_run_without_such_defenses_has_no_section_for_them(tmp_path):
    cells = [cell(INSIDE, NONE, SOFT, 200, r, share=0.7) for r in range(2)]
    write_report([*AUDITS, *cells], META, tmp_path)
    text = (tmp_path / "utility.md").read_text(encoding="utf-8")
    assert "given by their utility loss" not in text


def test_the_order_of_knowledge_is_none_family_full():
    threats = [
        VictimThreatModel.of(cell(t, NONE, SOFT, 200, 0, share=0.5).task) for t in (INSIDE, FAMILY, FULL)
    ]
    assert [t.knowledge for t in sorted(threats, key=lambda t: t.order)] == ["full", "family", "none"]
    assert {t.knowledge for t in threats[2].weaker() if t.shows == "probabilities"} == {"none", "family"}
