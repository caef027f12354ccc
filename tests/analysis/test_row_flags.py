"""Reliability flags of rows: made records that raise each flag, and near ones that do not."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.analysis.findings import Findings
from bench.analysis.row_flags import row_flags
from bench.calls import parse_call
from bench.metrics.flags import FLAGS, MEANING, label
from bench.records import AttackDeclarations, ClaimsRecord, Info, Record, task_of

NONE, WARD, BARE = (), ("ward",), ("bare",)
INPUTS, REPEATS = 2_000, 5
THREAT = {
    "pool": "in-distribution",
    "access": "in-distribution",
    "knowledge": "none",
    "surrogate": "mlp",
    "shows": "probabilities",
}
FULL = {"knowledge": "full"}
VICTIM = {"victim": "digits/mlp", "victim_seed": 0, "data": "digits", "splits": "disjoint"}
OFFICIAL = {"victim": "mnist/lenet (official splits)", "data": "mnist", "splits": "official"}
CLAIMS = {"keeps_label": True, "stochastic": False, "consistent_noise": False, "may_flag": False}


EXPECTED = {"digits/mlp": 0.94, "mnist/lenet (official splits)": 0.99, "mine.py:factory": 0.9}
KNOWN_BY = {"ward": ["pry", "seek"], "bare": []}
"""Made-up defenses and the attacks that know them, as records declare it."""
ADAPTIVE = {"knowledge": ["none", "family", "full"], "universal": False}
DECLARED = {"pry": ADAPTIVE, "evade": ADAPTIVE}
"""What attacks declare; the others do the same against every defense."""


def hits(share, repeat, spread):
    """Inputs are equally difficult for every attack; ``spread``: sd over repeats."""
    hard = np.random.default_rng(7).random(INPUTS)
    luck = np.random.default_rng(repeat)
    return (hard + luck.normal(0, 0.02, INPUTS) + spread * luck.normal() < share).astype(np.uint8)


def cells(attack="seek", defense=WARD, share=0.8, *, budget=200, spread=0.0, repeats=REPEATS, **spec):
    """One attack at one budget; ``flags``: how many of its repeats carry which cell flag."""
    flags, facts = spec.pop("flags", {}), spec.pop("facts", {})
    metrics = {f"extraction.{name}": value for name, value in facts.items()}
    made = []
    for repeat in range(repeats):
        whole = {**VICTIM, **THREAT, "defense": list(defense), "attack": attack, "budget": budget}
        whole |= {"repeat": repeat, "repeats": repeats, "seed": 0, **spec}
        declared = DECLARED.get(parse_call(attack)[0], {"knowledge": ["none"], "universal": False})
        own = [flag for flag, count in flags.items() if repeat < count]
        info = Info(flags=own, attack=AttackDeclarations(**declared))
        arrays = {"agreement": hits(share, repeat, spread)}
        made.append(Record(repr(whole), task_of("cell", whole), "ok", metrics, arrays, info))
    return made


def evaluation(defense=WARD, *, kept=1.0, refused=0.0, accuracy=0.96, pools=("noise",), spec=(), **claims):
    whole = {**VICTIM, "defense": list(defense), "pools": list(pools), "repeats": 5, "seed": 0, **dict(spec)}
    metrics = {"honest.top1_kept": kept, "honest.refused": refused, "honest.accuracy_undefended": accuracy}
    known_by = {name: KNOWN_BY[name] for name in defense if name in KNOWN_BY}
    info = Info(claims=ClaimsRecord(**(CLAIMS | claims)), known_by=known_by)
    return Record(repr(whole), task_of("audit", whole), "ok", metrics, info=info)


UNDEFENDED = cells(defense=NONE, share=0.85)


def raised(*records, defense=WARD, knowledge="none"):
    """Return what the row of ``defense`` raises: details by flag, in order."""
    flat = [*UNDEFENDED]
    for each in records:
        flat += [each] if isinstance(each, Record) else each
    findings = Findings(flat, {"digits": 200, "mnist": 200}, EXPECTED)
    (row,) = (
        row
        for threat, rows in findings.rows.items()
        for row in rows
        if (row.defense, threat.knowledge) == (defense, knowledge)
        and threat.victim == flat[-1].spec["victim"]
    )
    return {each.flag: each.detail for each in row_flags(findings, row)}


def test_the_numbers_are_fixed_for_reports_quote_them():
    order = (
        "randomised averaging_helps labels_flip aware_attacker_wins near_chance still_moving wide_interval "
        "detector_fit weak_victim no_declared_attacker overlap nothing_learnt small_budget"
    )
    assert [flag.name for flag in FLAGS.values()] == order.split()
    assert [flag.number for flag in FLAGS.values()] == list(range(1, 14))
    assert {name: flag.meaning for name, flag in FLAGS.items()} == MEANING
    assert label("labels_flip") == "F3"
    assert label("a flag of tomorrow") == "a flag of tomorrow"


def test_the_method_page_has_a_section_for_every_flag_in_order():
    method = (Path(__file__).parents[2] / "METHOD.md").read_text(encoding="utf-8")
    part = method.split("\n## Flags\n")[1].split("\n## ")[0]
    headings = re.findall(r"^### (.+)$", part, re.MULTILINE)
    assert headings == [f"{label(name)} · {name}" for name in FLAGS]
    for body in re.split(r"^### .+$", part, flags=re.MULTILINE)[1:]:
        assert "*Raised*" in body
        assert "*Do*" in body


def test_a_sound_row_raises_nothing():
    assert raised(evaluation(), cells()) == {}
    assert raised(evaluation(NONE), defense=NONE) == {}


def test_a_row_without_a_defense_evaluation_raises_nothing_that_only_that_can_show():
    of_another_victim = evaluation(spec={"victim": "digits/cnn"})
    assert raised(of_another_victim, cells()) == {}


def test_flags_come_in_the_order_of_their_numbers():
    found = raised(evaluation(kept=0.9, stochastic=True), cells(spread=0.2, flags={"overlap": 5}))
    assert list(found) == ["randomised", "labels_flip", "wide_interval", "overlap"]


@pytest.mark.parametrize(("consistent", "answer"), [(False, "gets another"), (True, "gets the same")])
def test_randomized_answers_are_flagged_with_what_repeated_queries_get(consistent, answer):
    found = raised(evaluation(stochastic=True, consistent_noise=consistent), cells())
    assert list(found) == ["randomised"]
    assert answer in found["randomised"]


AGAIN = {"facts": {"repeated": 60.0}}
NOISY = evaluation(stochastic=True)


def test_averaging_helps_where_an_attack_that_repeats_queries_is_ahead_of_all_others():
    found = raised(NOISY, cells(share=0.7), cells("pry(a=1)", share=0.75, **AGAIN))
    assert found["averaging_helps"].startswith("pry is ")
    assert "ahead of seek at 200 queries" in found["averaging_helps"]


@pytest.mark.parametrize(
    ("records", "why"),
    [
        (cells("pry", share=0.75), "asked nothing again"),
        (cells("pry", share=0.75, facts={"repeated": 0.0}), "could have, and did not"),
        (cells("pry", share=0.7, **AGAIN), "does as well"),
        ([*cells("pry", share=0.75, **AGAIN), *cells("copycat", share=0.8)], "another does better still"),
    ],
)
def test_averaging_does_not_help_an_attack_that(records, why):
    assert "averaging_helps" not in raised(NOISY, cells(share=0.7), records), why


@pytest.mark.parametrize(
    ("seen", "flagged"),
    [
        (evaluation(), False),
        (evaluation(stochastic=True, consistent_noise=True), False),
        (evaluation(counts_queries=True), True),
        ([], True),
    ],
)
def test_averaging_helps_only_where_an_answer_may_vary_or_that_is_unknown(seen, flagged):
    found = raised(seen, cells(share=0.7), cells("pry", share=0.75, **AGAIN))
    assert ("averaging_helps" in found) == flagged


def test_a_mean_that_is_ahead_is_not_enough():
    once, lucky = cells(share=0.7), cells("pry", share=0.72, spread=0.05, **AGAIN)
    mean_of = [np.mean([record.arrays["agreement"] for record in side]) for side in (once, lucky)]
    assert mean_of[1] > mean_of[0] + 0.01
    found = raised(NOISY, once, lucky)
    assert found.keys() <= {"randomised", "wide_interval"}


def test_an_attack_that_is_not_ranked_is_ahead_of_none():
    weak = cells("pry", NONE, share=0.2, flags={"near_chance": 1})
    found = raised(NOISY, weak, cells(share=0.7), cells("pry", share=0.75, **AGAIN))
    assert list(found) == ["randomised", "near_chance"]


def test_averaging_against_no_defense_lowers_nothing():
    again = cells("pry", NONE, share=0.95, **AGAIN)
    assert raised(evaluation(NONE, counts_queries=True), again, defense=NONE) == {}


@pytest.mark.parametrize(
    ("kept", "refused", "detail"),
    [
        (0.98, 0.0, "2 % of the answered benign queries"),
        (0.9999, 0.0, "0.01 % of"),
        (0.855, 0.05, "10 % of the answered benign queries, and 5.0 % were rejected"),
    ],
)
def test_labels_flip_among_the_answers(kept, refused, detail):
    assert detail in raised(evaluation(kept=kept, refused=refused), cells())["labels_flip"]


@pytest.mark.parametrize("refused", [0.0, 22 / 447, 0.3, 1.0])
def test_a_rejection_flips_no_label(refused):
    assert raised(evaluation(kept=1 - refused, refused=refused), cells()) == {}


def test_an_adaptive_attack_that_is_ahead_is_flagged_on_both_rows():
    records = (evaluation(), cells(share=0.7), cells(defense=NONE, share=0.85, **FULL))
    records += (cells("pry", share=0.78, **FULL),)
    for knowledge in ("none", "full"):
        found = raised(*records, knowledge=knowledge)
        assert list(found) == ["aware_attacker_wins"]
        assert "ahead of seek" in found["aware_attacker_wins"]


def test_an_attack_whose_threat_model_includes_the_defense_is_adaptive_also_if_undeclared():
    found = raised(evaluation(), cells(share=0.7), cells("evade", share=0.78, **FULL))
    assert "evade (knowledge = full) is" in found["aware_attacker_wins"]


def test_a_declared_attack_that_can_use_knowledge_is_adaptive_under_any_threat_model():
    found = raised(evaluation(), cells(share=0.7), cells("pry", share=0.78))
    assert "pry is" in found["aware_attacker_wins"]


@pytest.mark.parametrize(
    ("records", "why"),
    [
        (cells("pry", share=0.7, **FULL), "wins nothing"),
        (cells("seek(a=1)", share=0.78), "is declared, and does the same against every defense"),
        (cells("evade", share=0.78), "could use knowledge, and this defense does not name him"),
        (cells("pry", share=0.78, pool="usps", access="near", **FULL), "has other data"),
        (cells("pry", share=0.78, surrogate="lenet", **FULL), "trains another copy"),
    ],
)
def test_no_flag_for_an_adaptive_attack_that(records, why):
    assert "aware_attacker_wins" not in raised(evaluation(), records, cells(share=0.7)), why


def test_an_attack_adaptive_to_another_defense_is_not_adaptive_to_this_one():
    other = cells("pry", ("label_only",), share=0.78, **FULL)
    records = (evaluation(), other, cells(defense=NONE, share=0.85, **FULL), cells(share=0.7))
    # Its result is carried over from label_only here, which needs no knowledge.
    assert "aware_attacker_wins" not in raised(*records)
    assert "aware_attacker_wins" not in raised(*records, knowledge="full")


def test_near_chance_is_raised_where_no_attack_is_ranked():
    weak = cells("pry", NONE, share=0.2, flags={"near_chance": 1})
    found = raised(evaluation(NONE), weak, defense=NONE)
    assert found == {}, "the strongest attacker is another, and is ranked"
    unranked = cells("pry", NONE, share=0.2, flags={"near_chance": 1}, **OFFICIAL)
    found = raised(evaluation(NONE, spec=OFFICIAL, accuracy=0.995), unranked, defense=NONE)
    assert found == {"near_chance": "none of 1 attacks is ranked at 200 queries"}


@pytest.mark.parametrize(("share", "flagged"), [(0.9, True), (0.6, False)])
def test_near_chance_is_raised_where_an_attack_that_is_not_ranked_is_ahead(share, flagged):
    weak = cells("pry", NONE, share=0.2, flags={"near_chance": 1})
    found = raised(evaluation(), weak, cells("pry", share=share), cells(share=0.7))
    assert ("near_chance" in found) == flagged


@pytest.mark.parametrize("flag", ["still_moving", "overlap", "nothing_learnt"])
def test_a_row_has_the_cell_flags_of_its_best_attack_and_of_no_other(flag):
    strong, weak = cells(share=0.75, flags={flag: 3}), cells("copycat", share=0.7)
    assert raised(evaluation(), strong, weak) == {flag: "3 of 5 repeats at 200 queries"}
    strong, weak = cells(share=0.75), cells("copycat", share=0.7, flags={flag: 3})
    assert raised(evaluation(), strong, weak) == {}


def test_flags_are_those_of_the_budgets_in_the_summary():
    undefended = [*cells(defense=NONE, budget=50), *cells(defense=NONE, budget=800)]
    moving = {"flags": {"still_moving": 1}}
    small = [*cells(budget=50, **moving), *cells(budget=800), *cells()]
    assert raised(evaluation(), undefended, small) == {}
    large = [*cells(budget=50), *cells(budget=800, **moving), *cells(**moving)]
    said = "1 of 5 repeats at 200 queries; 1 of 5 repeats at 800 queries"
    assert raised(evaluation(), undefended, large) == {"still_moving": said}


def test_a_reduction_known_to_more_than_two_percentage_points_is_too_wide():
    found = raised(evaluation(), cells(share=0.7, spread=0.05))
    assert re.fullmatch(r"±\d\.\d pp at 200 queries", found["wide_interval"])


def test_variation_that_both_rows_share_does_not_widen_a_reduction():
    shared = {"spread": 0.05, "surrogate": "lenet"}
    found = raised(evaluation(), cells(defense=NONE, share=0.8, **shared), cells(share=0.7, **shared))
    assert found == {}


def test_a_single_repeat_has_no_width_to_trust():
    assert raised(evaluation(), cells(repeats=1)) == {"wide_interval": "a single repeat at 200 queries"}


def test_no_defense_is_not_ranked_and_needs_no_width():
    wide = cells("pry", NONE, share=0.9, spread=0.2)
    assert raised(evaluation(NONE), wide, defense=NONE) == {}


GATE = {"may_flag": True}
MNIST = {**OFFICIAL, "pool": "usps", "access": "near"}


@pytest.mark.parametrize(
    ("seen", "sent", "detail"),
    [
        (evaluation(**GATE, pools=("noise", "train")), cells(), "it is evaluated on pool train"),
        (evaluation(**GATE), cells(pool="train"), "the attacker sends train"),
        (
            evaluation(**GATE, spec=OFFICIAL, accuracy=0.995),
            cells(**MNIST),
            "its thresholds were set on images",
        ),
        (
            evaluation(**GATE, spec=OFFICIAL, accuracy=0.995, pools=("mnist",)),
            cells(**MNIST),
            "it is evaluated on pool mnist",
        ),
        (
            evaluation(**GATE, spec=OFFICIAL, accuracy=0.995),
            cells(**OFFICIAL),
            "the attacker sends in-distribution, on which",
        ),
    ],
)
def test_a_detector_judged_on_what_it_was_fitted_on_is_flagged(seen, sent, detail):
    found = raised(seen, sent)
    assert list(found) == ["detector_fit"]
    assert detail in found["detector_fit"]


@pytest.mark.parametrize(
    ("seen", "sent"),
    [
        (evaluation(**GATE, pools=("noise", "test", "in-distribution", "digits")), cells()),
        (evaluation(**GATE), cells(pool="test")),
        (evaluation(pools=("train",)), cells(pool="train")),
        (evaluation(spec=OFFICIAL, accuracy=0.995), cells(**OFFICIAL)),
    ],
)
def test_no_flag_where_the_traffic_is_new_or_nothing_is_detected(seen, sent):
    assert raised(seen, sent) == {}


# Expected: .94 of an MLP on digits, .99 of a LeNet on MNIST's official splits, nothing of the last.
@pytest.mark.parametrize(
    ("spec", "accuracy", "flagged"),
    [
        ({}, 0.934, True),
        ({}, 0.936, False),
        (OFFICIAL, 0.984, True),
        (OFFICIAL, 0.986, False),
        ({"victim": "mine.py:factory", "data": "mine.py:factory"}, 0.3, False),
    ],
)
def test_a_victim_half_a_percentage_point_below_its_expected_accuracy_is_weak(spec, accuracy, flagged):
    found = raised(evaluation(spec=spec, accuracy=accuracy), cells(**spec))
    assert ("weak_victim" in found) == flagged
    if flagged:
        assert f"{100 * accuracy:.1f} %" in found["weak_victim"]


def test_a_row_without_an_evaluation_takes_the_victims_accuracy_from_that_of_no_defense():
    assert "weak_victim" in raised(evaluation(NONE, accuracy=0.9), cells())


def test_a_defense_that_names_no_attack_is_flagged_also_inside_a_stack():
    found = raised(evaluation(BARE), cells(defense=BARE), defense=BARE)
    assert found == {"no_declared_attacker": "bare declares no attack that knows it"}
    stack = (*WARD, *BARE)
    assert raised(evaluation(stack), cells(defense=stack), defense=stack) == found


def test_declared_attacks_that_were_not_run_are_named():
    found = raised(evaluation(), cells("copycat"))
    assert found == {"no_declared_attacker": "ward is known by pry, seek, of which none was run here"}


@pytest.mark.parametrize(
    ("records", "flagged"),
    [
        (cells("pry", **FULL), False),
        (cells("pry", pool="usps", access="near", **FULL), True),
        (cells("pry", budget=50), False),
        (cells("pry", BARE), True),
        ([Record("f", cells("pry")[0].task, "failed", error="it broke")], True),
    ],
)
def test_a_declared_attack_counts_where_it_ran_against_this_defense_with_the_same_data(records, flagged):
    found = raised(evaluation(), records, cells("copycat"))
    assert ("no_declared_attacker" in found) == flagged


def test_without_a_record_that_says_who_knows_a_defense_the_flag_says_so():
    found = raised(evaluation(("gone",)), cells(defense=("gone",)), defense=("gone",))
    assert found == {"no_declared_attacker": "the store does not say which attacks know gone"}


def test_an_attack_of_an_older_store_is_adaptive_only_by_its_threat_model():
    declared = [replace(each, info=Info()) for each in cells("pry", share=0.78)]
    assert "aware_attacker_wins" not in raised(evaluation(), cells(share=0.7), declared)


@pytest.mark.parametrize(
    ("own", "said"), [(1.0, {"small_budget": "pry at 200 queries"}), (0.0, {}), (None, {})]
)
def test_a_budget_that_the_best_attack_calls_too_small_is_flagged(own, said):
    facts = {} if own is None else {"small_budget": own}
    assert raised(evaluation(), cells("pry", share=0.75, facts=facts)) == said


def test_a_budget_too_small_for_another_attack_than_the_best_is_fine():
    weak = cells("copycat", share=0.6, facts={"small_budget": 1.0})
    assert raised(evaluation(), weak, cells(share=0.75)) == {}
