import re
from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from records import (
    ADAPTIVE,
    AUDITS,
    DEFENSES,
    INPUTS,
    INSIDE,
    LABEL_ONLY,
    LABELS,
    META,
    NEAR,
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
from bench.report.figures.victim import cut
from bench.report.page import write_report
from bench.run_facts import Meta
from bench.tasks import VictimSpec


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return write_report(fake_run(), META, tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def text(report):
    """All pages, one after another."""
    return pages_of(report)


def pages_of(report):
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted(report.parent.glob("*.md")))


def page(report, name):
    return (report.parent / name).read_text(encoding="utf-8")


LINK = re.compile(r"\]\(([^)#]+)\)")


def test_every_page_is_linked_from_the_first_and_every_link_leads_somewhere(report):
    written = {path.name for path in report.parent.glob("*.md")} - {"report.md"}
    assert written == {"attacks.md", "utility.md", "detection.md", "warnings.md", "provenance.md"}
    assert written <= set(LINK.findall(page(report, "report.md")))
    for path in report.parent.glob("*.md"):
        for link in LINK.findall(path.read_text(encoding="utf-8")):
            assert (report.parent / link).is_file(), (path.name, link)


def test_the_first_page_is_short(report):
    text = page(report, "report.md")
    assert text.startswith("# digits/mlp: which defense against model extraction?\n")
    assert len(text.splitlines()) <= 80
    assert len(re.findall(r"!\[", text)) == 3
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert tables
    assert all(len(re.findall(r"(?<!\\)\|", line)) <= 6 for line in tables)


def test_every_figure_is_shown_with_a_text_in_its_place(report, text):
    shown = dict(re.findall(r"!\[([^]]*)\]\(([^)]+)\)", text))
    assert set(shown.values()) == {f"figures/{path.name}" for path in (report.parent / "figures").iterdir()}
    assert {"figures/reduction.svg", "figures/budget.svg", "figures/cost.svg"} == set(shown.values())
    assert all(len(alt) > 20 for alt in shown)


def told(defenses, budgets=(200,)):
    """Cells of ``auto`` that knows each of the defenses."""
    full = INSIDE | {"knowledge": "full"}
    return [
        cell(full, defense, "auto", budget, repeat, share=0.78)
        for defense, budget, repeat in product(defenses, budgets, range(REPEATS))
    ]


def test_a_defense_of_which_nobody_was_told_has_no_reduction_under_attackers_who_adapt(tmp_path):
    first = page(write_report([*AUDITS, *few(), *told((NONE, ROUNDED))], META, tmp_path), "report.md")
    (alt,) = re.findall(
        r"!\[Fidelity reduction in pp by defense under attackers who adapt[^]]*: ([^]]*)\]", first
    )
    shown = dict(part.split(" ", 1) for part in alt.replace("(decimals=1)", "").split("; "))
    assert shown["label_only"].startswith("not run and ")
    assert re.match(r"-?\d+\.\d \(", shown["rounded"])
    assert " and " in shown["rounded"]


def test_an_attacker_who_owns_inputs_like_the_users_is_not_said_to_send_other_ones_alone(tmp_path):
    evade = "evade(own=100, use_probability=true, blend=None, clients=None)"
    near = [cell(NEAR, NONE, SOFT, 200, repeat, share=0.5) for repeat in range(REPEATS)]
    owning = [
        cell(NEAR | {"knowledge": "full"}, NONE, evade, 200, repeat, share=0.9) for repeat in range(REPEATS)
    ]
    poor, rich = (
        page(write_report([*AUDITS, *few(), *near, *more], META, tmp_path), "report.md")
        for more in ([], owning)
    )
    assert "has similar data, does not adapt: 200 inputs similar to your users' (usps) give" in poor
    assert "has similar data and 100 inputs like the users', adapts: 200 queries give" in rich


def test_reductions_side_by_side_are_at_one_budget(tmp_path):
    """Who adapts was run at 200 queries alone, and there is no reference budget: others go up to 800."""
    meta = META.model_copy(update={"reference_budget": {}})
    written = write_report([*fake_run(), *told((NONE, ROUNDED))], meta, tmp_path)
    (alt,) = re.findall(
        r"!\[Fidelity reduction in pp by defense under attackers who adapt([^]]*)\]",
        page(written, "report.md"),
    )
    alone = write_report(
        [r for r in [*fake_run(), *told((NONE, ROUNDED))] if r.kind == "audit" or r.cell.budget in (0, 200)],
        meta,
        tmp_path / "alone",
    )
    assert alt in page(alone, "report.md")


def test_no_page_numbers_its_attackers(text):
    assert not re.search(r"\bT\d+\b", text)
    assert "an attacker who has users' data, does not adapt" in text
    assert "an attacker who has similar data, does not adapt" in text


def test_several_victims_have_a_page_each_and_a_row_in_the_first(tmp_path):
    other = [replace(record, task=replace(record.task, victim=OTHER)) for record in (*AUDITS, *few())]
    report = write_report([*AUDITS, *few(), *other], META, tmp_path)
    first = page(report, "report.md")
    assert len(first.splitlines()) <= 80
    rows = [line for line in first.splitlines() if line.startswith("| [")]
    assert [LINK.findall(row)[0] for row in rows] == ["digits-cnn.md", "digits-mlp.md"]
    for name in ("digits-cnn.md", "digits-mlp.md"):
        own = page(report, name)
        assert len(own.splitlines()) <= 80
        assert "[All victims](report.md)" in own
        assert f"(figures/{name[:-3]}-reduction.svg)" in own
    # A later report of one victim leaves nothing of this one behind, and nothing of others is touched.
    (tmp_path / "mine.md").write_text("# Mine\n")
    (tmp_path / "figures/mine.svg").write_text("<svg/>")
    write_report([*AUDITS, *few()], META, tmp_path)
    assert not list(tmp_path.glob("digits-*"))
    assert not list(tmp_path.glob("figures/digits-*"))
    assert (tmp_path / "mine.md").is_file()
    assert (tmp_path / "figures/mine.svg").is_file()


def test_a_store_without_the_metrics_of_this_version_says_what_is_missing(report):
    # Made-up records are like those of older versions: no balanced accuracy, no Brier score.
    first = page(report, "report.md")
    assert "Nothing is recommended." in first
    lacking = "balanced accuracy, the ranking by confidence, the Brier score and threshold decisions"
    assert f"Not measured by the version that made this store: {lacking}; run again." in first


def test_rows_of_every_attack_add_up_to_their_printed_digits(report):
    rows = re.findall(r"(\d+\.\d) → (\d+\.\d) +\| +(-?\d+\.\d) \(", page(report, "attacks.md"))
    assert len(rows) > 10
    for before, after, less in rows:
        assert round(float(before) - float(less), 1) == float(after)


def test_a_warning_comes_once_with_what_to_do(report):
    noted = page(report, "warnings.md")
    assert noted.count("still_moving") == 1
    assert MEANING["still_moving"][1:] in noted
    assert "What to do: Train longer" in noted


def test_the_limits_in_force_and_what_the_run_can_find_are_written_down(report):
    part = section(page(report, "provenance.md"), "## Limits in force")
    assert re.search(r"accuracy and balanced accuracy lost \(pp\) +\| +1 \|", part)
    assert "smallest reduction found in 90 % (pp)" in part
    assert "| seeds" in page(report, "provenance.md")


def test_what_was_not_run_is_written_down(tmp_path):
    meta = META.with_values(attacks=["auto", "labels", "recover"], defenses=["label_only", "none", "top_k"])
    part = section(page(write_report(fake_run(), meta, tmp_path), "provenance.md"), "## What was not run")
    assert "did not use: `auto`, `labels`, `recover`." in part
    assert "did not test: `top_k`." in part
    assert "No attacker of this run has other data, has no data or adapts." in part
    assert "moatbench compare EARLIER LATER" in page(tmp_path / "report.md", "provenance.md")


def test_a_store_without_the_names_of_plugins_says_that_they_are_not_known(report):
    part = section(page(report, "provenance.md"), "## What was not run")
    assert "did not record which attacks and defenses there were" in part
    assert "did not use" not in part


def test_the_zero_query_baseline_is_no_candidate(text):
    assert "Zero-query baseline: " in text
    findings = Findings(fake_run(), {"digits": 200})
    assert 0 not in findings.conditions[findings.threats[0]][NONE]


def test_figures_of_long_and_hostile_names_are_drawn(tmp_path):
    stack = (*ROUNDED, *SCREEN)
    costs = {NONE: 0.0, stack: 0.9} | {(f"gaussian_noise(scale={k / 10})",): k / 10 for k in range(1, 5)}
    cells = [
        cell(INSIDE, defense, SOFT, budget, repeat, share=0.8)
        for defense, budget, repeat in product(costs, (100, 200), range(2))
    ]
    write_report([*(evaluation(d, l1=l1) for d, l1 in costs.items()), *cells], META, tmp_path)
    svg = (tmp_path / "figures" / "reduction.svg").read_text(encoding="utf-8")
    assert "+ mahalanobis" in svg


@pytest.mark.parametrize(
    ("values", "end"),
    [
        ([2.8, 1.7, 82.4], 2.8),
        ([1, 2, 3], 3),
        ([5.4, 4.0, 1.3, 0.1], 5.4),
        ([80, 82, 1.5, 2, 3], 3),
        ([80, 82, 1.5], 82),
        ([], 0),
    ],
)
def test_an_axis_is_cut_where_outliers_would_squash_most_others(values, end):
    assert cut(values) == end


OTHER = VictimSpec("digits", "cnn")


def inside(budget=200):
    findings = Findings([*AUDITS, *few(budget)], {"digits": budget})
    (threat,) = findings.threats
    return findings, threat


def few(budget=200, attacks=(LABELS, SOFT, RANDOM, ADAPTIVE), repeats=REPEATS):
    return [
        cell(INSIDE, defense, attack, budget, repeat)
        for defense, attack, repeat in product(DEFENSES, attacks, range(repeats))
    ]


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
    text = pages_of(write_report([*weak, *others, *defended], META, tmp_path))
    assert "not ranked" in text
    assert "F5 · near_chance" in text
    assert re.search(r"none +\| copycat on probabilities +\| +\d+\.\d \(", text)


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
    assert "**This run is not complete** (cells: 1 failed; [provenance.md](provenance.md))" in text


def test_an_error_cannot_break_the_table_or_vanish_as_markup(tmp_path):
    broken = failed(cell(INSIDE, NONE, SOFT, 200, 0), "TypeError: <class 'int'> | None\nsecond line")
    part = section(pages_of(write_report([broken], META, tmp_path)), "## Failed cells")
    assert "&lt;class 'int'&gt; \\| None second line" in part


def test_a_comparison_counts_the_repeats_that_both_sides_have(tmp_path):
    records = [
        failed(r, "no")
        if r.kind == "cell" and not r.cell.defense and r.cell.repeat > 2 and r.cell.attack in (SOFT, RANDOM)
        else r
        for r in [*AUDITS, *few()]
    ]
    (line, *_) = [
        x for x in page(write_report(records, META, tmp_path), "attacks.md").splitlines() if "`rounded" in x
    ]
    assert line.split("|")[-2].strip() == "3"


def test_a_row_with_fewer_repeats_says_so(text):
    assert "(n = 4)" in text


def test_shares_have_no_interval_beyond_0_and_100(tmp_path):
    cells = [cell(INSIDE, NONE, SOFT, 200, repeat) for repeat in range(2)]
    for record, accuracy in zip(cells, (0.5, 0.9), strict=True):
        record.metrics["extraction.accuracy"] = accuracy
    assert "70.0 (0.0–100.0)" in pages_of(write_report(cells, META, tmp_path))


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
        r"`mahalanobis` +\| noise +\| +99\.5 \(99\.0–100\.0\)", section(text, "## Detection by pool")
    )
    assert "never" in section(text, "## Detection by pool")
    assert "rounded(decimals=1)" in section(text, "## Utility for benign users")
    assert "rounded" not in section(text, "## Benign queries rejected or flagged")


def test_confidence_out_of_distribution_is_a_row_a_defense_and_pool_where_it_was_measured(text, tmp_path):
    assert "## Confidence out of distribution" not in text  # these records are older
    name, lost = "honest.ood_auroc.noise", "honest.ood_auroc_lost.noise"
    records = [
        replace(
            record,
            metrics=record.metrics | {name: 0.9 - 0.4 * number} | ({lost: 0.4} if number else {}),
            info=record.info.with_values(
                intervals=record.info.intervals | {name: [0.45, 0.95], lost: [0.35, 0.45]}
            ),
        )
        for number, record in enumerate(AUDITS[:2])
    ]
    report = write_report([*records, *fake_run()[len(AUDITS) :]], META, tmp_path)
    shown = section(pages_of(report), "## Confidence out of distribution")
    assert re.search(r"\| none +\| noise +\| +0\.900 \(0\.450–0\.950\) \| +– +\|", shown)
    assert re.search(
        r"\| `label_only` +\| noise +\| +0\.500 \(0\.450–0\.950\) \| +0\.400 \(0\.350–0\.450\) \|", shown
    )


def test_disagreement_of_surrogates_is_shown_where_their_labels_are_stored(text, tmp_path):
    assert not re.search(r"\| ambiguity", text)

    def labelled(record):
        labels = np.zeros(INPUTS, np.uint8)
        labels[: 3 * record.repeat] = 1
        return replace(record, arrays=record.arrays | {"surrogate_label": labels})

    records = [labelled(record) if record.arrays else record for record in fake_run()]
    report = write_report(records, META, tmp_path)
    line = next(
        line
        for line in page(report, "attacks.md").splitlines()
        if re.match(r"\| none +\| copycat on labels", line) and line.count("|") > 10
    )
    # Repeats 0 to 4 give another label to the first 0, 3, 6, 9 and 12 of 300 inputs.
    cells = [part.strip() for part in line.strip("|").split("|")]
    assert cells[-2].startswith("4.0 (")
    assert cells[-1].startswith("4.0 (")


def test_shared_trainings_do_not_count_in_training_time(text):
    line = next(x for x in section(text, "## Timing").splitlines() if "knockoff random" in x)
    cells = [part.strip() for part in line.strip("|").split("|")]
    assert (cells[3], cells[7]) == (cells[2], "–")


def test_how_it_was_made_can_be_traced(text):
    part = text
    for fact in (
        "moatbench run fake",
        "0123456789abcdef",
        "torch 2.13.0",
        "a CPU",
        "2023-11-14 22:13 UTC",
        'name = "fake"',
    ):
        assert fact in part


@pytest.mark.parametrize("others", [0, 1, 2])
def test_a_victim_whose_attacks_stay_near_chance_is_named(others, tmp_path):
    cells = [
        cell(INSIDE, NONE, SOFT, 50, repeat, share=0.1, flags=["near_chance"]) for repeat in range(REPEATS)
    ]
    weak = [replace(r, task=replace(r.task, victim=VictimSpec("mine.py:make", ""))) for r in cells]
    for seed in range(others):
        own = [cell(INSIDE, NONE, SOFT, 200, repeat) for repeat in range(REPEATS)]
        named = [(r, replace(r.task, victim=replace(r.task.victim, seed=seed))) for r in own]
        weak += [replace(r, key=f"{r.key}{seed}", task=task) for r, task in named]
    text = write_report(weak, Meta(), tmp_path).read_text(encoding="utf-8")
    assert "Defenses of `mine.py:make` cannot be compared" in text
    assert others < 2 or "attacker of any victim" in text


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


def test_a_name_on_the_left_of_its_point_ends_there():
    """What is narrower than the place that was kept for it would else be far from its point."""
    figure = Figure(figsize=(5, 4))
    axes = figure.add_axes((0.1, 0.1, 0.8, 0.8))
    axes.set(xlim=(0, 1), ylim=(0, 1))
    name_points(axes, [(1.0, 0.5, "iiiiiiiiiiiiiiii")])
    renderer = FigureCanvasAgg(figure).get_renderer()
    (box,) = [label.get_window_extent(renderer) for label in axes.texts]
    at = axes.transData.transform((1.0, 0.5))[0]
    assert 0 < at - box.x1 < 0.25 * figure.dpi


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
