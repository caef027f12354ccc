"""Reliability flags of rows: made records that raise each flag, and near ones that do not."""

import re
from pathlib import Path

import numpy as np
import pytest

from bench.analysis.findings import Findings
from bench.analysis.row_flags import grouped, row_flags
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
    assert {flag.number: flag.name for flag in FLAGS.values()} == {
        5: "near_chance",
        6: "still_moving",
        8: "detector_fit",
        9: "weak_victim",
        11: "overlap",
        12: "nothing_learnt",
        13: "small_budget",
        14: "single_repeat",
    }
    assert [flag.number for flag in FLAGS.values()] == sorted(flag.number for flag in FLAGS.values())
    assert {name: flag.meaning for name, flag in FLAGS.items()} == MEANING
    assert label("still_moving") == "F6"
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


def test_a_single_repeat_is_noted():
    assert raised(evaluation(), cells(repeats=1)) == {"single_repeat": "at 200 queries"}


def test_what_a_reader_need_not_act_on_raises_nothing():
    noisy = evaluation(kept=0.9, stochastic=True)
    wide = [*cells(share=0.6, spread=0.2), *cells("copycat", share=0.7, spread=0.2)]
    assert raised(noisy, wide) == {}
    assert raised(evaluation(("gone",)), cells(defense=("gone",)), defense=("gone",)) == {}


def test_every_warning_of_a_run_comes_once_and_invalidating_ones_first():
    moving, empty = (
        cells(share=0.8, flags={"still_moving": 2}),
        cells(defense=BARE, flags={"nothing_learnt": 5}),
    )
    findings = Findings([*UNDEFENDED, evaluation(), *moving, *empty], {"digits": 200}, EXPECTED)
    found = grouped(findings)
    assert [(note.flag.name, note.flag.invalidates, note.cells) for note in found] == [
        ("nothing_learnt", True, 5),
        ("still_moving", False, 2),
    ]
    assert [(defense, detail) for _, defense, detail in found[0].rows] == [
        (BARE, "5 of 5 repeats at 200 queries")
    ]
    assert all(note.flag.do for note in found)


def test_a_flag_of_a_newer_version_is_named():
    findings = Findings([*UNDEFENDED, *cells(flags={"from_tomorrow": 1})], {"digits": 200})
    assert [note.flag.name for note in grouped(findings)] == ["from_tomorrow"]


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


@pytest.mark.parametrize(
    ("own", "said"), [(1.0, {"small_budget": "pry at 200 queries"}), (0.0, {}), (None, {})]
)
def test_a_budget_that_the_best_attack_calls_too_small_is_flagged(own, said):
    facts = {} if own is None else {"small_budget": own}
    assert raised(evaluation(), cells("pry", share=0.75, facts=facts)) == said


def test_a_budget_too_small_for_another_attack_than_the_best_is_fine():
    weak = cells("copycat", share=0.6, facts={"small_budget": 1.0})
    assert raised(evaluation(), weak, cells(share=0.75)) == {}
