import re
from itertools import combinations, product

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bench.analysis.display_names import short_names
from bench.analysis.findings import Findings
from bench.metrics.flags import MEANING
from bench.report.figures.label_placement import name_points
from bench.report.page import write_report
from bench.report.sentences import words
from bench.store import Record

LABELS, SOFT = "copycat(use_probability=false)", "copycat(use_probability=true)"
RANDOM = "knockoff(reward=all, sampling_strategy=random, use_probability=true)"
ADAPTIVE = "knockoff(reward=all, sampling_strategy=adaptive, use_probability=false)"
OWN = "own_labels"
NONE, LABEL_ONLY, ROUNDED, SCREEN = (
    (),
    ("label_only",),
    ("rounded(decimals=1)",),
    ("mahalanobis(action=refuse, fpr=0.05, space=deep)",),
)
DEFENSES = (NONE, LABEL_ONLY, ROUNDED, SCREEN)
BUDGETS = (50, 200, 800)
REPEATS = 5
INPUTS = 300
NEAR = {"pool": "usps", "access": "near", "knowledge": "none", "surrogate": "mlp", "shows": "probabilities"}
INSIDE = NEAR | {"pool": "in-distribution", "access": "in-distribution"}
SHARE = {
    (SOFT, NONE): 0.80,
    (SOFT, LABEL_ONLY): 0.66,
    (SOFT, ROUNDED): 0.60,
    (SOFT, SCREEN): 0.50,
    (LABELS, NONE): 0.70,
    (LABELS, LABEL_ONLY): 0.70,
    (LABELS, ROUNDED): 0.70,
    (LABELS, SCREEN): 0.50,
    (ADAPTIVE, NONE): 0.76,
    (ADAPTIVE, LABEL_ONLY): 0.76,
    (ADAPTIVE, ROUNDED): 0.52,
    (ADAPTIVE, SCREEN): 0.52,
    (OWN, NONE): 0.45,
}
CLAIMS = {
    "keeps_label": True,
    "ties": False,
    "distribution": True,
    "stochastic": False,
    "consistent_noise": False,
    "may_refuse": False,
    "may_flag": False,
}


def hits(share, stream, repeat):
    """Agreement that depends on a shared difficulty of the inputs, as with real surrogates."""
    hard = np.random.default_rng(7).random(INPUTS)
    luck = np.random.default_rng([sum(map(ord, stream)), repeat]).normal(0, 0.06, INPUTS)
    return (hard + luck < share).astype(np.uint8)


def cell(threat, defense, attack, budget, repeat, *, share=None, flags=(), **fields):
    base = SHARE[SOFT if attack == RANDOM else attack, defense] if share is None else share
    known = "soft" if attack == RANDOM else attack
    stream = "soft" if attack == SOFT else known
    gain = 0.08 * np.log(max(budget, 50) / 200) / np.log(4) - 0.1 * (threat["access"] == "near")
    agreement = hits(base + gain, stream, repeat)
    value = float(agreement.mean())
    names = (
        "agreement_deployed",
        "fidelity_where_victim_errs",
        "fidelity_low_margin",
        "accuracy",
        "f1",
        "l1",
        "kl",
    )
    spec = {"victim": "digits/mlp", "victim_seed": 0, "data": "digits", "defense": list(defense), **threat}
    spec |= {"attack": attack, "budget": budget, "repeat": repeat, "seed": 0}
    seconds = {"query_model": 0.01, "query_defense": 0.002, "acquire": 0.02, "train": 0.5, "evaluate": 0.01}
    values = {
        "status": "ok",
        "metrics": {"extraction.fidelity": value} | {f"extraction.{name}": 0.9 * value for name in names},
        "arrays": {"agreement": agreement},
        "info": {
            "queries": {"sent": budget, "answered": budget, "refused": 0, "flagged": 0},
            "seconds": seconds,
            "cpu_seconds": seconds,
            "steps": 1000,
            "shared": attack == RANDOM,
            "memory_mib": 512.0,
            "flags": list(flags),
        },
        "error": None,
    } | fields
    return Record(key=repr(spec), kind="cell", spec=spec, **values)


def failed(record, error):
    return Record(
        record.key, "cell", record.spec, "failed", {}, {}, {"traceback": f"Traceback …\n{error}"}, error
    )


def evaluation(defense, *, kept=1.0, lost=0.0, l1=0.0, refused=0.0, **claims):
    spec = {"victim": "digits/mlp", "victim_seed": 0, "data": "digits", "defense": list(defense)}
    spec |= {"pools": ["noise"], "repeats": 5, "seed": 0}
    metrics = {
        "honest.top1_kept": kept,
        "honest.accuracy": 0.96 - lost,
        "honest.accuracy_lost": lost,
        "honest.accuracy_undefended": 0.96,
        "honest.l1_mean": l1,
        "honest.l1_max": 4 * l1,
        "honest.nll": 0.15 + l1,
        "honest.ece": 0.02,
        "honest.aurc": 0.01,
        "honest.refused": refused,
        "honest.flagged": refused,
        "honest.client_refused": min(1.0, 20 * refused),
        "honest.client_flagged": min(1.0, 20 * refused),
    }
    intervals = {name: [max(0.0, value - 0.01), value + 0.01] for name, value in metrics.items()}
    if claims.get("may_flag"):
        metrics |= {"detection.test": refused, "detection.noise": 0.995, "detection.noise.client": 1.0}
        metrics |= {"detection.noise.queries_until": 1.0, "detection.test.queries_until": None}
        intervals |= {"detection.test": [0.03, 0.07], "detection.noise": [0.99, 1.0]}
    info = {"intervals": intervals, "claims": CLAIMS | claims, "latency_us": {"1": 12.0, "256": 0.4}}
    return Record(f"audit {defense}", "audit", spec, "ok", metrics, {}, info, None)


AUDITS = (
    evaluation(NONE),
    evaluation(LABEL_ONLY, l1=0.08),
    evaluation(ROUNDED, l1=0.03),
    evaluation(SCREEN, kept=0.95, lost=0.045, refused=0.05, may_refuse=True, may_flag=True),
)


def fake_run():
    """Two threat models, four defenses, three budgets, five repeats; one failed cell, one flagged."""
    cells = [
        cell(threat, defense, attack, budget, repeat)
        for threat, defense, attack, budget, repeat in product(
            (INSIDE, NEAR), DEFENSES, (LABELS, SOFT, RANDOM, ADAPTIVE), BUDGETS, range(REPEATS)
        )
    ]
    cells += [cell(INSIDE, NONE, OWN, 0, repeat) for repeat in range(REPEATS)]
    cells[0] = cell(INSIDE, NONE, LABELS, 50, 0, flags=["still_moving"])
    cells[-8] = failed(cells[-8], "ValueError: probabilities contain NaN")
    return [*AUDITS, *cells]


META = {
    "matrix": "fake",
    "matrix_text": 'name = "fake"\n',
    "description": "A run that nobody ran.",
    "command": "moatbench run fake",
    "commit": "0123456789abcdef",
    "dirty": False,
    "versions": {"moatbench": "0.1.0", "torch": "2.13.0"},
    "machine": {
        "cpu": "a CPU",
        "cores": 2,
        "memory": "8 GiB",
        "python": "3.11.7",
        "platform": "Linux x86_64",
    },
    "victims": [
        {
            "victim": "digits/mlp",
            "accuracy": 0.96,
            "expected": 0.95,
            "fingerprint": "f" * 64,
            "sizes": {"train": 700, "calibration": 150, "pool": 500, "test": 447},
            "parameters": 9000,
        }
    ],
    "reference_budget": {"digits": 200},
    "started": 1_700_000_000.0,
    "finished": 1_700_000_100.0,
    "wall_seconds": 100.0,
    "jobs": 2,
    "counts": {"ok": 488, "failed": 1, "not_applicable": 0, "missing": 0, "shared": 120},
}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return write_report(fake_run(), META, tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def text(report):
    return report.read_text(encoding="utf-8")


def section(text, heading):
    """The part of the report under a heading, up to the next of the same or a higher level."""
    level = heading.split(" ")[0]
    return re.split(
        rf"^#{{1,{len(level)}}} ", text.split(f"{heading}", 1)[1], maxsplit=1, flags=re.MULTILINE
    )[0]


def inside(budget=200):
    findings = Findings([*AUDITS, *few(budget)], {"digits": budget})
    (threat,) = findings.threats
    return findings, threat


def few(budget=200, attacks=(LABELS, SOFT, RANDOM, ADAPTIVE), repeats=REPEATS):
    return [
        cell(INSIDE, defense, attack, budget, repeat)
        for defense, attack, repeat in product(DEFENSES, attacks, range(repeats))
    ]


def test_the_verdict_comes_first_and_names_the_strongest_attacker(text):
    assert text.index("## Verdict") < text.index("## T1 in detail")
    verdict = section(text, "### T1 ·")
    undefended = next(line for line in verdict.splitlines() if line.startswith("| **none**"))
    assert undefended.count("copycat = knockoff random on probabilities") == 2
    screened = next(line for line in verdict.splitlines() if line.startswith("| **mahalanobis**"))
    assert "knockoff adaptive on labels" in screened


def test_the_words_of_the_verdict_follow_the_intervals(text):
    verdict = section(text, "### T1 ·")
    assert "the largest gap is that of **mahalanobis" in verdict
    useless = [cell(INSIDE, d, SOFT, 200, r, share=0.8) for d in (NONE, SCREEN) for r in range(REPEATS)]
    findings = Findings([*AUDITS, *useless], {"digits": 200})
    (threat,) = findings.threats
    said = " ".join(words(findings, threat))
    gap = findings.rows[threat][1].standings[200].gap
    assert gap.low <= 0
    assert "no defense takes away an amount that can be told from zero" in said
    assert f"none more than {100 * gap.high:.1f} points" in said


def test_every_threat_model_has_a_verdict_of_its_own(text):
    assert section(text, "### T1 ·") != section(text, "### T2 ·")
    assert "in-distribution data" in text.split("### T1 ·")[1].splitlines()[0]
    assert "usps (near)" in text.split("### T2 ·")[1].splitlines()[0]


def test_a_label_keeping_defense_never_looks_stronger_than_label_only():
    findings, threat = inside()
    best = {row.defense: row.standings[200].best for row in findings.rows[threat]}
    seen = findings.samples[threat, ROUNDED, 200]
    assert max(sample.hits.mean() for sample in seen.values()) < best[LABEL_ONLY].interval.value
    assert best[ROUNDED].interval.value >= best[LABEL_ONLY].interval.value
    assert best[ROUNDED].attacker.endswith("on label_only, replayed")
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
def test_nothing_is_replayed_where_the_label_may_change_or_is_not_known_to_stay(spoilt):
    evaluations = [record for record in (*AUDITS[:2], spoilt) if record]
    findings = Findings([*evaluations, *few()], {"digits": 200})
    (threat,) = findings.threats
    assert not any("replayed" in name for name in findings.candidates(threat, ROUNDED, 200))


def test_copycat_and_random_knockoff_are_one_attacker_where_they_agree_everywhere(text):
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
    assert set(findings.samples[threat, NONE, 200]) == {
        "copycat on probabilities",
        "knockoff random on probabilities",
    }


def test_attackers_near_chance_are_shown_and_flagged_but_not_ranked(tmp_path):
    weak = [cell(INSIDE, NONE, SOFT, 200, repeat, flags=["near_chance"]) for repeat in range(REPEATS)]
    others = [cell(INSIDE, NONE, LABELS, 200, repeat) for repeat in range(REPEATS)]
    defended = [cell(INSIDE, SCREEN, SOFT, 200, repeat) for repeat in range(REPEATS)]
    findings = Findings([*weak, *others, *defended], {"digits": 200})
    (threat,) = findings.threats
    undefended, screened = findings.rows[threat]
    assert undefended.standings[200].best.attacker == "copycat on labels"
    assert screened.standings[200].best is None
    text = write_report([*weak, *others, *defended], META, tmp_path).read_text(encoding="utf-8")
    assert "not ranked" in section(text, "### T1 ·")
    assert "near_chance" in section(text, "## Flags")
    assert re.search(r"none +\| copycat on probabilities +\| +\d+\.\d \[", section(text, "## T1 in detail"))


def test_one_who_sees_probabilities_can_do_all_that_one_who_sees_labels_can():
    labels = INSIDE | {"shows": "labels"}
    cells = [cell(INSIDE, NONE, SOFT, 200, repeat, share=0.5) for repeat in range(REPEATS)]
    cells += [cell(labels, NONE, LABELS, 200, repeat, share=0.7) for repeat in range(REPEATS)]
    findings = Findings(cells, {})
    stronger, weaker = findings.threats
    assert (stronger.shows, weaker.shows) == ("probabilities", "labels")
    assert "copycat on labels (as one who sees labels)" in findings.candidates(stronger, NONE, 200)
    assert set(findings.candidates(weaker, NONE, 200)) == {"copycat on labels"}


def test_failed_cells_are_shown_with_their_error_and_how_to_try_again(text):
    part = section(text, "## Failed cells")
    assert "ValueError: probabilities contain NaN" in part
    assert "moatbench run fake" in part
    assert "not complete" in text.split("## Verdict")[0]


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


def test_the_zero_query_thief_is_a_row_and_no_candidate(text):
    assert "*no query at all*" in section(text, "### T1 ·")
    findings = Findings(fake_run(), {"digits": 200})
    assert 0 not in findings.places[findings.threats[0]][NONE]


def test_every_fidelity_and_gap_has_its_interval(text):
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


def test_detection_and_honest_cost_are_reported_per_defense(text):
    assert re.search(
        r"mahalanobis +\| noise +\| +99\.5 \[99\.0, 100\.0\]", section(text, "## Detection by pool")
    )
    assert "never" in section(text, "## Detection by pool")
    assert "rounded(decimals=1)" in section(text, "## What honest users pay")
    assert "rounded" not in section(text, "## Honest users refused or flagged")


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
    text = write_report([], {}, tmp_path).read_text(encoding="utf-8")
    assert "there is no verdict" in text


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
