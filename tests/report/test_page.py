import re
from itertools import combinations, product

import numpy as np
import pytest
from bench.report.sentences import summary_sentences
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from records import (
    ADAPTIVE,
    AUDITS,
    DEFENSES,
    INSIDE,
    LABEL_ONLY,
    LABELS,
    META,
    NONE,
    RANDOM,
    REPEATS,
    ROUNDED,
    SCREEN,
    SOFT,
    cell,
    evaluation,
    failed,
    fake_run,
    section,
)

from bench.analysis.display_names import short_names
from bench.analysis.findings import Findings
from bench.metrics.flags import MEANING
from bench.report.figures.label_placement import name_points
from bench.report.page import write_report
from bench.run_facts import Meta


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return write_report(fake_run(), META, tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def text(report):
    return report.read_text(encoding="utf-8")


def inside(budget=200):
    findings = Findings([*AUDITS, *few(budget)], {"digits": budget})
    (threat,) = findings.threats
    return findings, threat


def few(budget=200, attacks=(LABELS, SOFT, RANDOM, ADAPTIVE), repeats=REPEATS):
    return [
        cell(INSIDE, defense, attack, budget, repeat)
        for defense, attack, repeat in product(DEFENSES, attacks, range(repeats))
    ]


def test_the_summary_comes_first_and_names_the_best_attack(text):
    assert text.index("## Summary") < text.index("## T1 in detail")
    verdict = section(text, "### T1 ·")
    undefended = next(line for line in verdict.splitlines() if line.startswith("| **none**"))
    assert undefended.count("copycat = knockoff random on probabilities") == 2
    screened = next(line for line in verdict.splitlines() if line.startswith("| **mahalanobis**"))
    assert "knockoff adaptive on labels" in screened


def test_the_sentences_of_the_summary_follow_the_intervals(text):
    verdict = section(text, "### T1 ·")
    assert "the largest fidelity reduction is that of **mahalanobis" in verdict
    useless = [cell(INSIDE, d, SOFT, 200, r, share=0.8) for d in (NONE, SCREEN) for r in range(REPEATS)]
    findings = Findings([*AUDITS, *useless], {"digits": 200})
    (threat,) = findings.threats
    said = " ".join(summary_sentences(findings, threat))
    gap = findings.rows[threat][1].results[200].reduction
    assert gap.low <= 0
    assert "no defense reduces fidelity significantly" in said
    assert f"reductions above {100 * gap.high:.1f} pp are excluded" in said


def test_every_threat_model_has_a_summary_of_its_own(text):
    assert section(text, "### T1 ·") != section(text, "### T2 ·")
    assert "in-distribution data" in text.split("### T1 ·")[1].splitlines()[0]
    assert "usps (near)" in text.split("### T2 ·")[1].splitlines()[0]


def test_a_label_keeping_defense_never_looks_stronger_than_label_only():
    findings, threat = inside()
    best = {row.defense: row.results[200].best for row in findings.rows[threat]}
    seen = findings.attack_results[threat, ROUNDED, 200]
    assert max(sample.agreement.mean() for sample in seen.values()) < best[LABEL_ONLY].interval.value
    assert best[ROUNDED].interval.value >= best[LABEL_ONLY].interval.value
    assert best[ROUNDED].attack.endswith(", carried over from label_only")
    assert best[NONE].interval.value >= best[LABEL_ONLY].interval.value


@pytest.mark.parametrize(
    "spoilt",
    [
        evaluation(ROUNDED, kept=0.999),
        evaluation(ROUNDED, ties=True),
        evaluation(ROUNDED, may_refuse=True),
        evaluation(ROUNDED, keeps_label=False),
        None,
    ],
)
def test_nothing_is_carried_over_where_the_label_may_change_or_is_not_known_to_stay(spoilt):
    evaluations = [record for record in (*AUDITS[:2], spoilt) if record]
    findings = Findings([*evaluations, *few()], {"digits": 200})
    (threat,) = findings.threats
    assert not any("carried over" in name for name in findings.candidates(threat, ROUNDED, 200))


def test_copycat_and_random_knockoff_are_one_attack_where_they_agree_everywhere(text):
    assert "copycat = knockoff random on probabilities" in text
    findings, threat = inside()
    assert not any(
        name in findings.candidates(threat, NONE, 200) for name in ("knockoff random on probabilities",)
    )


def test_copycat_and_random_knockoff_stay_apart_where_one_repeat_differs():
    cells = few(attacks=(SOFT, RANDOM))
    cells[0] = cell(INSIDE, NONE, SOFT, 200, 0, share=0.5)
    findings = Findings(cells, {})
    (threat,) = findings.threats
    assert set(findings.attack_results[threat, NONE, 200]) == {
        "copycat on probabilities",
        "knockoff random on probabilities",
    }


def test_attacks_near_chance_are_shown_and_flagged_but_not_ranked(tmp_path):
    weak = [cell(INSIDE, NONE, SOFT, 200, repeat, flags=["near_chance"]) for repeat in range(REPEATS)]
    others = [cell(INSIDE, NONE, LABELS, 200, repeat) for repeat in range(REPEATS)]
    defended = [cell(INSIDE, SCREEN, SOFT, 200, repeat) for repeat in range(REPEATS)]
    findings = Findings([*weak, *others, *defended], {"digits": 200})
    (threat,) = findings.threats
    undefended, screened = findings.rows[threat]
    assert undefended.results[200].best.attack == "copycat on labels"
    assert screened.results[200].best is None
    text = write_report([*weak, *others, *defended], META, tmp_path).read_text(encoding="utf-8")
    assert "not ranked" in section(text, "### T1 ·")
    assert "near_chance" in section(text, "## Flags")
    assert re.search(r"none +\| copycat on probabilities +\| +\d+\.\d \[", section(text, "## T1 in detail"))


def test_attacks_on_labels_are_candidates_where_probabilities_are_shown():
    labels = INSIDE | {"shows": "labels"}
    cells = [cell(INSIDE, NONE, SOFT, 200, repeat, share=0.5) for repeat in range(REPEATS)]
    cells += [cell(labels, NONE, LABELS, 200, repeat, share=0.7) for repeat in range(REPEATS)]
    findings = Findings(cells, {})
    stronger, weaker = findings.threats
    assert (stronger.shows, weaker.shows) == ("probabilities", "labels")
    assert "copycat on labels (sees labels)" in findings.candidates(stronger, NONE, 200)
    assert set(findings.candidates(weaker, NONE, 200)) == {"copycat on labels"}


def test_failed_cells_are_shown_with_their_error_and_how_to_try_again(text):
    part = section(text, "## Failed cells")
    assert "ValueError: probabilities contain NaN" in part
    assert "moatbench run fake" in part
    assert "not complete" in text.split("## Summary")[0]


def test_an_error_cannot_break_the_table_or_vanish_as_markup(tmp_path):
    broken = failed(cell(INSIDE, NONE, SOFT, 200, 0), "TypeError: <class 'int'> | None\nsecond line")
    part = section(write_report([broken], META, tmp_path).read_text(encoding="utf-8"), "## Failed cells")
    assert "&lt;class 'int'&gt; \\| None second line" in part


def test_flagged_rows_are_marked_and_explained(text):
    assert re.search(r"copycat on labels +\|.*⚑", section(text, "## T1 in detail"))
    assert MEANING["still_moving"] in section(text, "## Flags")
    assert re.search(r"still_moving .*T1 .*copycat on labels .*50 .*1 of 5", section(text, "## Flags"))


def test_a_row_with_fewer_repeats_says_so(text):
    assert "(n = 4)" in section(text, "## T2 in detail")


def test_shares_have_no_interval_beyond_0_and_100(tmp_path):
    cells = [cell(INSIDE, NONE, SOFT, 200, repeat) for repeat in range(2)]
    for record, accuracy in zip(cells, (0.5, 0.9), strict=True):
        record.metrics["extraction.accuracy"] = accuracy
    text = write_report(cells, META, tmp_path).read_text(encoding="utf-8")
    assert "70.0 [0.0, 100.0]" in section(text, "## T1 in detail")


def test_a_reference_budget_that_was_not_run_is_said(tmp_path):
    text = write_report(few(50, repeats=2), META, tmp_path).read_text(encoding="utf-8")
    assert "No multiplier: the reference budget of 200 was not run" in section(text, "### T1 ·")


def test_the_zero_query_baseline_is_a_row_and_no_candidate(text):
    assert "*zero-query baseline*" in section(text, "### T1 ·")
    findings = Findings(fake_run(), {"digits": 200})
    assert 0 not in findings.conditions[findings.threats[0]][NONE]


def test_every_fidelity_and_reduction_has_its_interval(text):
    for heading in ("### T1 ·", "### T2 ·"):
        rows = [line for line in section(text, heading).splitlines() if line.startswith("| **")]
        assert len(rows) == len(DEFENSES)
        for row in rows:
            cells = [part.strip() for part in row.strip("|").split("|")]
            for place in (1, 4):
                assert re.match(r"\*\*\d+\.\d \[\d+\.\d, \d+\.\d\]\*\*", cells[place])
            for place in (2, 3, 5, 6):
                assert cells[place] == "–" or re.fullmatch(
                    r"-?\d+\.\d \[-?\d+\.\d, -?\d+\.\d\]", cells[place]
                )
            assert cells[7] == "–" or "[" in cells[7]


def test_every_linked_figure_is_there_and_every_figure_is_linked(report, text):
    linked = set(re.findall(r"!\[[^]]*\]\(([^)]+)\)", text))
    there = {f"figures/{path.name}" for path in (report.parent / "figures").iterdir()}
    assert linked == there
    assert {"figures/T1-curves.svg", "figures/T2-pareto.svg", "figures/heatmap-1.svg"} <= linked


def test_the_same_records_give_the_same_bytes_also_over_an_older_report(tmp_path):
    records = [*AUDITS, *few(), *few(50)]
    for name in ("a", "b"):
        (tmp_path / name / "figures").mkdir(parents=True)
    (tmp_path / "b" / "figures" / "T9-curves.svg").write_text("stale", encoding="utf-8")
    for name in ("a", "b"):
        write_report(records, META, tmp_path / name)
    files = {
        name: {path.name: path.read_bytes() for path in (tmp_path / name).rglob("*.*") if path.is_file()}
        for name in ("a", "b")
    }
    assert files["a"] == files["b"]


def test_the_order_of_the_records_does_not_matter(tmp_path):
    records = [*AUDITS, *few(repeats=3)]
    first = write_report(records, META, tmp_path / "a").read_bytes()
    assert write_report(records[::-1], META, tmp_path / "b").read_bytes() == first


def test_figures_carry_no_date_and_no_opaque_ground(report):
    for path in (report.parent / "figures").iterdir():
        svg = path.read_text(encoding="utf-8")
        assert "<dc:date>" not in svg
        assert "fill: #ffffff" not in svg


def test_detection_and_utility_loss_are_reported_per_defense(text):
    assert re.search(
        r"mahalanobis +\| noise +\| +99\.5 \[99\.0, 100\.0\]", section(text, "## Detection by pool")
    )
    assert "never" in section(text, "## Detection by pool")
    assert "rounded(decimals=1)" in section(text, "## Utility for benign users")
    assert "rounded" not in section(text, "## Benign queries rejected or flagged")


def test_shared_trainings_do_not_count_in_training_time(text):
    line = next(x for x in section(text, "## Timing").splitlines() if "knockoff random" in x)
    cells = [part.strip() for part in line.strip("|").split("|")]
    assert (cells[3], cells[7]) == (cells[2], "–")


def test_how_it_was_made_can_be_traced(text):
    part = section(text, "## How it was made")
    for fact in (
        "moatbench run fake",
        "0123456789abcdef",
        "torch 2.13.0",
        "a CPU",
        "2023-11-14 22:13 UTC",
        'name = "fake"',
    ):
        assert fact in part


def test_a_run_without_results_still_has_a_report(tmp_path):
    text = write_report([], Meta(), tmp_path).read_text(encoding="utf-8")
    assert "No cell has a result yet" in text


def test_short_names_keep_what_sets_plugins_apart():
    names = short_names([ADAPTIVE, ADAPTIVE.replace("reward=all", "reward=cert"), RANDOM, SOFT])
    assert names[ADAPTIVE] == "knockoff adaptive (reward=all) on labels"
    assert names[RANDOM] == "knockoff random on probabilities"
    assert short_names(["rounded(decimals=1)"], limit=26) == {"rounded(decimals=1)": "rounded(decimals=1)"}
    long = [f"mahalanobis(action={action}, fpr=0.05, space=deep)" for action in ("noise", "refuse")]
    assert short_names(long, limit=26)[long[0]] == "mahalanobis(action=noise, …)"


def test_names_in_a_crowd_of_points_do_not_overlap():
    figure = Figure(figsize=(5, 4))
    axes = figure.add_axes((0.1, 0.1, 0.8, 0.8))
    axes.set(xlim=(0, 1), ylim=(0, 1))
    spread = np.random.default_rng(0).normal(0.4, 0.02, (14, 2))
    name_points(axes, [(float(x), float(y), f"defense {place}") for place, (x, y) in enumerate(spread)])
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [label.get_window_extent(renderer) for label in axes.texts]
    assert len(boxes) == 14
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))


def test_the_figure_of_many_defenses_has_a_key_that_names_stacks_too(tmp_path):
    stack = (*ROUNDED, *SCREEN)
    costs = {NONE: 0.0, stack: 0.9} | {(f"gaussian_noise(scale={k / 10})",): k / 10 for k in range(1, 8)}
    cells = [
        cell(INSIDE, defense, SOFT, budget, repeat, share=0.8)
        for defense, budget, repeat in product(costs, (100, 200), range(2))
    ]
    write_report([*(evaluation(d, l1=l1) for d, l1 in costs.items()), *cells], META, tmp_path)
    svg = (tmp_path / "figures" / "T1-pareto.svg").read_text(encoding="utf-8")
    assert "gaussian_noise(scale=0.7)" in svg
    assert "+ mahalanobis" in svg
