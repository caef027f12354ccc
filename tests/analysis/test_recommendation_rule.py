from dataclasses import replace

import numpy as np
import pytest

from bench.analysis.confirmed_reduction import (
    AttackTable,
    confirmed_reduction,
    reduction,
    smallest_reduction,
    strongest_pair,
)
from bench.analysis.eligibility import REQUIRED
from bench.analysis.recommendation_rule import DefenseCase, conclude
from bench.analysis.verdicts import Criterion
from bench.metrics.intervals import Interval, paired_difference
from bench.run_facts import ReportOptions

INPUTS, FIRST, FRESH = 1000, 5, 20
OPTIONS = ReportOptions()
MET = {name: Criterion(name, "affordable") for name in sorted(REQUIRED["probabilities"])}
ORDER = np.random.default_rng(3).permutation(INPUTS)


def table(attack, share, repeats=FIRST, *, spread=0.004, name=None):
    """An attack with this mean fidelity: the same inputs are hard for all, each repeat has luck."""
    luck = np.random.default_rng([sum(map(ord, attack)), repeats]).standard_normal(repeats)
    levels = share + spread * (luck - luck.mean())
    agreement = np.stack([(round(level * INPUTS) > ORDER) for level in levels]).astype(np.uint8)
    return AttackTable(name or attack, attack, tuple(range(repeats)), agreement)


def tables(shares, repeats=FIRST):
    return tuple(table(attack, share, repeats) for attack, share in shares.items())


def case(name, shares, fresh=None, *, failing=(), **fields):
    """A defense; ``fresh``: what attacks reach in the confirmation run; ``failing``: criteria that fail."""
    own = MET | {each.name: each for each in failing}
    again = tables(fresh, FRESH) if fresh else ()
    return DefenseCase((name,), tuple(own.values()), tables(shares), again, **fields)


NONE = {"soft": 0.97, "labels": 0.95, "auto": 0.97}
HELPS = {"soft": 0.90, "labels": 0.92, "auto": 0.91}
HELPS_MORE = {"soft": 0.85, "labels": 0.87, "auto": 0.86}
USELESS = {"soft": 0.97, "labels": 0.95, "auto": 0.97}
DEAR = Criterion("accuracy", "too dear", Interval(0.8, 0.78, 0.82), 0.01)
UNCLEAR = Criterion("accuracy", "not shown", Interval(0.0, -0.02, 0.02), 0.01, 900)
UNMET = Criterion("adaptive", "too dear", detail="not evaluated against an adaptive attacker")
UNDECIDED = Criterion("adaptive", "not shown", Interval(0.0, -0.02, 0.02), 0.01, 900)
BROKEN = Criterion("valid", "too dear", detail="2 cells failed")


def concluded(*cases, fresh=True, options=OPTIONS):
    found = conclude(tables(NONE), cases, options, tables(NONE, FRESH) if fresh else ())
    return found, {row.defense[0]: row.conclusion for row in found.verdicts}


def test_what_is_only_carried_over_counts_on_both_sides_or_where_it_is_the_same():
    alone = table("soft", 0.93)
    on_labels = replace(table("soft", 0.6, name="soft, carried over"), carried_over=True)
    other, labels = table("auto", 0.9), table("labels", 0.8)
    same = replace(labels, name="labels, carried over", carried_over=True)
    found = reduction([alone, other, labels], [on_labels, other, same])
    assert found.undefended_attack == "auto"
    assert found.interval.value == 0
    both = reduction([alone, on_labels, labels], [on_labels, same])
    assert both.undefended_attack == "labels"
    assert reduction([alone], [on_labels]) is None
    own = replace(alone, name="of its own")
    assert reduction([alone, other], [own, on_labels]).undefended_attack == "soft"


def test_of_the_confirmed_defenses_the_largest_reduction_is_recommended():
    found, conclusions = concluded(case("a", HELPS, HELPS), case("b", HELPS_MORE, HELPS_MORE))
    assert conclusions == {"b": "recommended", "a": "confirmed"}
    best = found.verdicts[0].reduction
    assert best.fresh
    assert best.repeats == FRESH
    assert best.undefended - best.defended == pytest.approx(best.interval.value)
    assert best.interval.value == pytest.approx(0.97 - 0.87, abs=0.002)
    assert best.interval.low > 0.07
    assert best.attack == "labels"
    assert best.undefended_attack in ("auto", "soft")
    assert found.fresh_repeats == FRESH
    assert dict(found.others) == {"labels": ("b",), "ranking": ("b",)}


def test_one_defense_alone_can_be_recommended():
    assert concluded(case("a", HELPS, HELPS))[1] == {"a": "recommended"}


def test_without_a_defense_nothing_is_concluded():
    found, conclusions = concluded()
    assert conclusions == {}
    assert found.selected == ()
    assert found.smallest is None


def test_nothing_is_recommended_where_fresh_repeats_show_no_reduction():
    found, conclusions = concluded(case("lucky", HELPS, USELESS))
    assert conclusions == {"lucky": "not confirmed"}
    assert dict(found.others) == {"labels": None, "ranking": None}
    assert 0.01 < found.smallest < 0.05


def test_without_a_confirmation_run_a_defense_is_a_candidate_at_most():
    found, conclusions = concluded(case("a", HELPS), case("b", HELPS_MORE), fresh=False)
    assert conclusions == {"b": "candidate", "a": "candidate"}
    assert found.selected == (("b",), ("a",))
    assert found.fresh_repeats == 0
    assert not any(row.reduction.fresh for row in found.verdicts)
    assert dict(found.others) == {"labels": None, "ranking": None}


def test_what_may_reduce_nothing_is_no_candidate_but_is_run_again():
    found, conclusions = concluded(case("a", USELESS), fresh=False)
    assert conclusions == {"a": "eligible"}
    assert found.selected == (("a",),)
    little = {name: share - 0.008 for name, share in NONE.items()}
    found, conclusions = concluded(case("a", little), fresh=False)
    assert found.verdicts[0].reduction.interval.low > 0
    assert conclusions == {"a": "eligible"}
    assert concluded(case("a", little), fresh=False, options=ReportOptions(least=0.005))[1] == {
        "a": "candidate"
    }


def test_a_confirmed_reduction_below_the_least_is_not_recommended():
    small = {name: share - 0.008 for name, share in NONE.items()}
    found, conclusions = concluded(case("a", HELPS, small))
    assert found.verdicts[0].reduction.interval.low > 0
    assert conclusions == {"a": "confirmed"}
    less = ReportOptions(least=0.005)
    assert concluded(case("a", HELPS, small), options=less)[1] == {"a": "recommended"}


@pytest.mark.parametrize(
    ("failing", "conclusion"),
    [
        ([DEAR], "not usable"),
        ([UNCLEAR], "not shown"),
        ([UNMET], "no adaptive attacker"),
        ([UNDECIDED], "not shown"),
        ([BROKEN], "invalid"),
        ([DEAR, UNMET], "not usable"),
        ([DEAR, BROKEN], "invalid"),
        ([UNCLEAR, UNMET], "no adaptive attacker"),
    ],
)
def test_what_is_not_eligible_is_never_recommended_and_keeps_its_figures(failing, conclusion):
    found, conclusions = concluded(case("a", HELPS_MORE, HELPS_MORE, failing=failing))
    assert conclusions == {"a": conclusion}
    row = found.verdicts[0]
    assert set(row.failed) == set(failing)
    assert row.reduction.interval.value > 0.09
    assert row.eligible_for == ()


def test_only_defenses_that_may_be_eligible_are_confirmed():
    cases = [
        case("dear", HELPS_MORE, failing=[DEAR]),
        case("unclear", HELPS_MORE, failing=[UNCLEAR]),
        case("unmet", HELPS_MORE, failing=[UNMET]),
        case("undecided", HELPS_MORE, failing=[UNDECIDED]),
        case("both", HELPS_MORE, failing=[UNDECIDED, UNCLEAR]),
        case("fine", HELPS),
    ]
    found, _ = concluded(*cases, fresh=False)
    # More repeats can tell whether adaptive attackers are behind; more repeats add no test input.
    assert found.selected == (("undecided",), ("fine",))


def test_fresh_repeats_decide_whether_adaptive_attackers_are_behind():
    fine = Criterion("adaptive", "affordable", Interval(0.0, -0.005, 0.005), 0.01)
    undecided = case("a", HELPS, HELPS, failing=[UNDECIDED], fresh_adaptive=fine)
    assert concluded(undecided)[1] == {"a": "recommended"}
    behind = replace(undecided, fresh_adaptive=replace(UNDECIDED, verdict="too dear"))
    assert concluded(behind)[1] == {"a": "no adaptive attacker"}


def test_the_three_largest_reductions_are_selected_even_if_none_reduces_anything():
    shares = [{name: share - 0.01 * step for name, share in NONE.items()} for step in range(5)]
    cases = [case(f"d{step}", each) for step, each in enumerate(shares)]
    assert concluded(*cases, fresh=False)[0].selected == (("d4",), ("d3",), ("d2",))
    useless = [case(f"d{step}", USELESS) for step in range(2)]
    assert concluded(*useless, fresh=False)[0].selected == (("d0",), ("d1",))


def test_of_two_that_tie_the_one_that_costs_users_less_is_recommended():
    close = {name: share - 0.002 for name, share in HELPS.items()}
    wide = {"a": HELPS, "b": close}
    dearer, cheaper = (0.004, 0.0, 0.01, 5.0, 1.0), (0.001, 0.0, 0.02, 50.0, 2.0)
    cases = [
        case("a", HELPS, wide["a"], costs=cheaper),
        case("b", close, wide["b"], costs=dearer),
    ]
    noisy = [
        replace(each, fresh=tuple(table(t.attack, t.mean, FRESH, spread=0.01) for t in each.fresh))
        for each in cases
    ]
    # The same luck in both: their difference is exact, and significant.
    assert concluded(*noisy)[1] == {"b": "recommended", "a": "confirmed"}
    # Luck of its own: the difference may be 0.
    own = replace(noisy[1], fresh=tuple(_other_luck(each) for each in noisy[1].fresh))
    assert concluded(noisy[0], own)[1] == {"a": "recommended", "b": "tied"}


def _other_luck(each):
    return replace(each, agreement=np.roll(each.agreement, 7, axis=0))


def test_a_significant_or_relevant_difference_is_no_tie():
    cheap, dear = (0.0,), (0.005,)
    cases = [case("cheap", HELPS, HELPS, costs=cheap), case("dear", HELPS_MORE, HELPS_MORE, costs=dear)]
    assert concluded(*cases)[1] == {"dear": "recommended", "cheap": "confirmed"}


def test_an_attack_that_was_not_run_again_leaves_a_defense_unconfirmed():
    fewer = {"soft": 0.90, "auto": 0.91}
    found, conclusions = concluded(case("a", HELPS, fewer))
    assert conclusions == {"a": "candidate"}
    assert not found.verdicts[0].reduction.fresh


def test_a_defense_that_no_attack_met_has_no_reduction():
    found, conclusions = concluded(DefenseCase(("a",), tuple(MET.values()), ()), case("b", HELPS, HELPS))
    assert conclusions == {"b": "recommended", "a": "eligible"}
    assert found.compared == 1
    assert found.verdicts[1].reduction is None


def test_what_is_sold_decides_which_criteria_count():
    brier = Criterion("brier", "too dear", Interval(0.2, 0.1, 0.3), 0.02)
    cases = [case("a", HELPS_MORE, HELPS_MORE, failing=[brier]), case("b", HELPS, HELPS)]
    found, conclusions = concluded(*cases)
    assert conclusions == {"b": "recommended", "a": "not usable"}
    assert dict(found.others) == {"labels": ("a",), "ranking": ("a",)}
    assert found.verdicts[1].eligible_for == ("labels", "ranking")
    labels = ReportOptions(sells="labels")
    assert concluded(*cases, options=labels)[1] == {"a": "recommended", "b": "confirmed"}


def test_only_attacks_that_met_the_defense_are_compared_without_it():
    met = reduction(tables(NONE | {"best": 0.99}), tables({"soft": 0.9, "mine": 0.93}))
    assert met.undefended_attack == "soft"
    # An attack that was run against the defense alone counts against it.
    assert met.attack == "mine"
    assert met.attacks == 2
    assert reduction(tables({"soft": 0.9}), tables({"mine": 0.9})) is None


def test_both_sides_are_compared_in_the_repeats_that_all_have():
    whole = table("soft", 0.97)
    part = AttackTable("soft", "soft", whole.repeats[1:], table("soft", 0.9).agreement[1:])
    found = reduction([whole], [part])
    assert found.repeats == FIRST - 1
    assert found.undefended == pytest.approx(whole.agreement[1:].mean())
    assert reduction([whole], [replace(part, repeats=(7, 8, 9, 10))]) is None


def test_the_confirmed_interval_widens_with_the_number_of_defenses_and_of_attacks():
    chosen = strongest_pair(tables(NONE), tables(HELPS))
    one, many = (
        confirmed_reduction(tables(NONE, FRESH), tables(HELPS, FRESH), chosen, number) for number in (1, 20)
    )
    assert many.interval.low < one.interval.low
    assert many.interval.high > one.interval.high
    pair = strongest_pair([table("soft", 0.97)], [table("soft", 0.9)])
    fresh = [table("soft", 0.97, FRESH)], [table("soft", 0.9, FRESH)]
    alone = confirmed_reduction(*fresh, pair, 1)
    plain = paired_difference(fresh[0][0].agreement, fresh[1][0].agreement)
    assert (alone.interval.low, alone.interval.high) == pytest.approx((plain.low, plain.high))


def test_what_the_repeats_that_chose_an_attack_say_of_it_is_an_interval_on_its_own():
    found = reduction(tables(NONE), tables(HELPS))
    first, second = table("auto", 0.97), table("labels", 0.92)
    assert (found.undefended_attack, found.attack) == ("auto", "labels")
    plain = paired_difference(first.agreement, second.agreement)
    assert found.interval.high == pytest.approx(plain.high)
    assert found.interval.low == pytest.approx(plain.low)


def test_the_lower_end_is_that_of_the_worst_attack_and_the_upper_end_of_the_best_rival():
    chosen = strongest_pair(tables(NONE), tables(HELPS))
    fresh = {"soft": 0.96, "labels": 0.92, "auto": 0.91}
    found = confirmed_reduction(tables(NONE, FRESH), tables(fresh, FRESH), chosen, 1)
    # Another attack than the chosen one is the strongest now: the reduction is against that.
    assert found.attack == "soft"
    assert found.interval.low < found.interval.value < 0.015
    assert found.interval.high > 0.97 - 0.92


def test_where_nothing_differs_the_smallest_reduction_follows_from_the_inputs():
    same = strongest_pair([table("soft", 0.97)], [table("soft", 0.97)])
    few, many = (smallest_reduction([same], 20, compared, 0.0) for compared in (1, 20))
    assert 0.005 < few < many < 0.02
    assert smallest_reduction([same], 20, 1, 0.05) > 0.05
    assert smallest_reduction([same], 1, 1, 0.01) is None
    assert smallest_reduction([], 20, 1, 0.01) is None


def test_the_order_of_cases_does_not_matter():
    cases = [case("a", HELPS, HELPS), case("b", HELPS, HELPS), case("c", USELESS, failing=[DEAR])]
    assert concluded(*cases)[0].verdicts == concluded(*reversed(cases))[0].verdicts
