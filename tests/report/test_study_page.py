import json
import re
import tomllib
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from made_study import META, load, made
from matplotlib.figure import Figure

from bench.analysis.findings import Findings
from bench.analysis.membership_results import inferences
from bench.analysis.study_results import Value, evaluate
from bench.metrics.intervals import Interval
from bench.plan import matrix
from bench.plan.shipped_matrices import shipped
from bench.plan.study import PublishedValue
from bench.plan.study_validation import validated
from bench.records import PlannedTask, Record, task_of
from bench.report import membership
from bench.report.figures import study as study_figures
from bench.report.page import write_report
from bench.report.store_report import write_store_report as write_from
from bench.report.study_page import filled
from bench.run_facts import Meta
from bench.store import Store
from bench.tasks import Cell


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Study, records and meta of the made run."""
    made_matrix, tasks = load(tmp_path_factory.mktemp("run"))
    study = validated(made_matrix, tasks)
    return (
        study,
        [made(task) for task in tasks],
        META.with_values(study=study.model_dump(), matrix_text=made_matrix.text),
    )


@pytest.fixture(scope="module")
def page(run, tmp_path_factory):
    _, records, meta = run
    return write_report(records, meta, tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def text(page):
    """The page with all values."""
    return replication_of(page)


def replication_of(page):
    return (page.parent / "replication.md").read_text(encoding="utf-8")


def all_of(page):
    """All pages of a report, one after another."""
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted(page.parent.glob("*.md")))


@pytest.fixture
def undrawn(monkeypatch):
    """Leave the figures out, which take most of a page's time."""
    for kind in ("beside", "confusion", "roc"):
        monkeypatch.setattr(study_figures, kind, lambda *_, **__: None)


def test_a_confirmation_run_changes_no_row(run):
    study, records, _ = run
    cells = [record.task for record in records if isinstance(record.task, Cell)]
    again = [replace(task, confirmation=True, repeats=20, seed=1) for task in cells if not task.repeat]
    (*fresh, unfinished) = [each for task in again for each in task.group()]
    before, after = (
        evaluate(study, more, without)
        for more, without in ((records, ()), ([*records, *map(made, fresh)], [unfinished]))
    )
    assert [str(value) for value in after.values()] == [str(value) for value in before.values()]


def section(text, heading):
    return re.split(r"^## ", text.split(f"## {heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def line(text, label):
    """The cells of the first table row that begins with a label."""
    found = next(line for line in text.splitlines() if line.startswith(f"| {label}"))
    return [cell.strip() for cell in found.strip("|").split("|")]


def test_the_first_page_has_conclusion_values_and_a_figure(page):
    first = page.read_text(encoding="utf-8")
    assert first.startswith("# A made study\n")
    assert (
        first.index("**Conclusion.** Published 89.66 %")
        < first.index("| MSE on log-softmax, no")
        < first.index("![")
    )
    assert "(replication.md)" in first
    assert len(first.splitlines()) <= 80
    assert "⚑" not in first


@pytest.mark.usefixtures("undrawn")
def test_the_first_page_has_every_row_with_a_published_value_or_in_the_conclusion(run, tmp_path):
    _, records, meta = run
    study = json.loads(json.dumps(meta.study))
    controls = [
        {name: value for name, value in row.items() if name != "published"}
        | {"id": f"control-{place}", "label": f"control {place}"}
        for place in range(30)
        for row in study["table"][0]["row"][1:2]
    ]
    study["table"].insert(0, {**study["table"][0], "heading": "Controls", "row": controls})
    study["verdict"] += "; control 17 gives {control-17} %"
    first = write_report(records, meta.with_values(study=study), tmp_path).read_text(encoding="utf-8")
    labels = [row["label"] for table in study["table"] for row in table["row"] if "published" in row]
    assert labels
    assert all(f"| {label}" in first for label in labels)
    assert re.findall(r"\| (control \d+)", first) == ["control 17"]


@pytest.mark.usefixtures("undrawn")
def test_long_tables_are_cut_on_the_first_page(run, tmp_path):
    _, records, meta = run
    study = json.loads(json.dumps(meta.study))
    row = study["table"][0]["row"][1]
    study["table"][0]["row"] += [
        row | {"id": f"more-{place}", "label": f"more {place}"} for place in range(60)
    ]
    first = write_report(records, meta.with_values(study=study), tmp_path).read_text(encoding="utf-8")
    assert len(first.splitlines()) <= 80
    assert re.search(r"\d+ more values are in \[replication.md\]", first)
    assert "| more 59" in (tmp_path / "replication.md").read_text(encoding="utf-8")


def test_all_values_are_on_a_page_of_their_own_and_how_it_was_made_on_another(page, text):
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert headings[:3] == ["Extraction", "Membership", "What the defense costs"]
    assert headings[3:5] == ["What the published number meant", "Choices"]
    assert text.index("**Conclusion.**") < text.index("Source: nobody, 2026") < text.index("## Extraction")
    assert "[[study.table.row]]" in (page.parent / "provenance.md").read_text(encoding="utf-8")
    assert "- optimiser: not named, so Adam" in section(text, "Choices")
    assert (page.parent / "membership.md").is_file()


def test_a_study_without_a_page_is_one_page_of_the_usual_report(run, text, tmp_path):
    _, records, meta = run
    inside = write_report(records, meta.with_values(study=meta.study | {"page": False}), tmp_path)
    assert "which defense against model extraction?" in inside.read_text(encoding="utf-8")
    own = replication_of(inside)
    assert "## A made study" in own
    label = "MSE on log-softmax, no defense"
    assert line(own, label) == line(section(text, "Extraction"), label)
    # The replication and the page on membership inference draw figures of their own.
    every = re.findall(r"\((figures/[^)]+\.svg)\)", all_of(inside))
    assert {f"figures/{each.name}" for each in (tmp_path / "figures").iterdir()} == set(every)
    assert len(every) == len(set(every))
    assert {"figures/roc-1.svg", "figures/roc-study-2.svg", "figures/published-1.svg"} <= set(every)


def test_a_row_shows_published_measured_difference_and_repeats(run, text):
    study, records, _ = run
    value = evaluate(study, records)["mse-none"]
    cells = line(section(text, "Extraction"), "MSE on log-softmax, no defense")
    assert cells[1] == "89.66 %"
    measured = 100 * value.interval.value
    assert cells[2].startswith(f"**{measured:.1f} % ({100 * value.interval.low:.1f}–")
    assert cells[3] == f"{measured - 89.66:+.1f} pp"
    assert cells[4] == "5; overlap"
    assert line(text, "the rule, no defense")[1::2] == ["–", "–"]


def test_a_table_without_published_numbers_has_no_column_for_them(text):
    assert "published" not in section(text, "What the defense costs").split("**How to read")[0]
    assert line(text, "honest accuracy behind the stack")[1:] == [
        "**95.1 % (93.1–96.1)**",
        "defense evaluation",
    ]


def test_the_alternative_that_was_used_is_named_in_its_row(text):
    assert (
        "<br>*usps, since emnist-digits is not on this machine*" in line(text, "non-members from another")[0]
    )


def test_slots_are_filled_with_measured_and_published_numbers(run, text):
    study, records, _ = run
    values = evaluate(study, records)
    expected = (
        f"left 67.44 % there and {values['mse-labels'].short} here; {values['drop'].short} of the theft."
    )
    assert expected in section(text, "What the published number meant")
    assert f"here {values['mse-none'].text}, by" in text
    assert filled("{mse-none.prediction} %", values) == f"{values['mse-none'].prediction} %"


@pytest.mark.usefixtures("undrawn")
def test_overlap_is_a_note_where_a_cell_has_it(run, page, tmp_path):
    noted = (page.parent / "warnings.md").read_text(encoding="utf-8")
    assert "F11 · overlap" in noted
    assert "Quote the results on disjoint splits." in noted
    _, records, meta = run
    clean = [replace(r, info=r.info.with_values(flags=[])) for r in records]
    assert "overlap" not in replication_of(write_report(clean, meta, tmp_path)).split("## What the")[0]


@pytest.mark.usefixtures("undrawn")
def test_flags_of_some_repeats_are_counted(run, tmp_path):
    _, records, meta = run
    moving = [
        replace(r, info=r.info.with_values(flags=["still_moving"] * (r.spec.get("repeat") in (0, 3))))
        for r in records
    ]
    page = replication_of(write_report(moving, meta, tmp_path))
    assert line(page, "MSE on log-softmax, no defense")[-1] == "5; still_moving (2 of 5)"


@pytest.mark.usefixtures("undrawn")
def test_what_is_missing_or_failed_is_shown_in_its_row(run, tmp_path):
    _, records, meta = run

    def broken(record):
        return record.kind == "cell" and "mse" in record.spec["training"]

    gone = [
        Record(r.key, r.task, "failed", error="ValueError: <nan> | no") if broken(r) else r
        for r in records
        if not (r.kind == "audit" and len(r.spec["defense"]) == 2)
    ]
    first = write_report(gone, meta, tmp_path)
    page = replication_of(first)
    assert "failed: ValueError: &lt;nan&gt; \\" in line(page, "MSE on log-softmax, no defense")[2]
    assert line(page, "honest accuracy behind the stack")[1:] == ["not run", "–"]
    assert "here (failed), by" in page
    assert "**This run is not complete**" in first.read_text(encoding="utf-8")
    failures = (tmp_path / "provenance.md").read_text(encoding="utf-8")
    assert "ValueError" in section(failures, "Failed cells")


@pytest.mark.usefixtures("undrawn")
def test_one_repeat_is_said_to_have_no_interval(run, tmp_path):
    _, records, meta = run
    page = write_report([r for r in records if not r.spec.get("repeat")], meta, tmp_path)
    assert line(replication_of(page), "the rule, no defense")[-1] == "1 of 5 (no interval)"


@pytest.mark.usefixtures("undrawn")
def test_a_store_of_a_study_gives_the_page_of_the_study(run, tmp_path):
    _, records, meta = run
    with Store(tmp_path / "store.sqlite", create=True) as store:
        waited = [r for r in records if r.spec.get("pool") == "usps"]
        planned = [PlannedTask(r.key, r.task) for r in records]
        for r in waited:
            other = task_of(r.kind, r.spec | {"pool": "emnist-digits"})
            planned.append(PlannedTask(f"emnist {r.key}", other))
        store.set_plan(planned)
        store.set_meta(Meta(study=meta.study, matrix="made"))
        for record in records:
            store.put(record)
    page = write_from(tmp_path / "store.sqlite", tmp_path / "out")
    first = page.read_text(encoding="utf-8")
    assert first.startswith("# A made study\n")
    # What is planned is waited for: usps does not take its place.
    assert line(replication_of(page), "non-members from another data set")[2] == "not run"
    assert "cells: 10 missing" in first


@pytest.mark.usefixtures("undrawn")
def test_the_comment_holds_what_an_index_needs_and_cannot_end_itself(run, page, tmp_path):
    first = page.read_text(encoding="utf-8")
    told = json.loads(re.search(r"^<!-- study: (.*) -->$", first, re.MULTILINE)[1])
    assert told["title"] == "A made study"
    assert told["headline"]["published"] == "89.66 %"
    assert told["headline"]["measured"].startswith("87.")
    assert told["headline"]["competent_label"] == "the rule, no defense"
    _, records, meta = run
    sly = meta.with_values(study=meta.study | {"verdict": "a --> b\n-- c"})
    page = write_report(records, sly, tmp_path).read_text(encoding="utf-8")
    comment = re.search(r"^<!-- study: (.*) -->$", page, re.MULTILINE)[1]
    assert "--" not in comment
    assert json.loads(comment)["verdict"] == "a --> b -- c"


# --- figures


def test_every_linked_figure_is_there_and_every_figure_is_linked(page):
    linked = set(re.findall(r"!\[[^]]*\]\(([^)]+)\)", all_of(page)))
    there = {f"figures/{path.name}" for path in (page.parent / "figures").iterdir()}
    assert linked == there
    assert there == {f"figures/{name}.svg" for name in ("published-1", "published-2", "confusion-1", "roc-2")}


def test_the_same_records_give_the_same_bytes_also_over_an_ordinary_report(run, tmp_path):
    _, records, meta = run
    plain = meta.with_values(study=None)
    write_report(records, plain, tmp_path / "b")
    assert (tmp_path / "b/figures/roc-1.svg").exists()
    for name in ("a", "b"):
        write_report(records, meta, tmp_path / name)
    files = [
        {p.name: p.read_bytes() for p in (tmp_path / name).rglob("*.*") if p.is_file()} for name in ("a", "b")
    ]
    assert files[0] == files[1]
    write_report(records, plain, tmp_path / "b")
    assert not (tmp_path / "b/figures/published-1.svg").exists()


def test_figures_carry_no_date_and_no_opaque_ground(page):
    for path in (page.parent / "figures").iterdir():
        svg = path.read_text(encoding="utf-8")
        assert "<dc:date>" not in svg
        assert "fill: #ffffff" not in svg


def written(figure: Figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_a_confusion_matrix_is_summed_over_repeats_and_its_mistakes_stand_in_it(run, page):
    study, records, _ = run
    own = evaluate(study, records)["mse-none"].records
    counts = np.sum([record.info.confusion for record in own], axis=0)
    figure = study_figures.confusion({"one": counts})
    assert Counter(written(figure)) == Counter(str(count) for count in counts.ravel() if count)
    svg = (page.parent / "figures/confusion-1.svg").read_text(encoding="utf-8")
    assert f">{counts[0, 0]}<" in svg
    truth, copy = np.argwhere(counts * (1 - np.eye(10)) == (counts * (1 - np.eye(10))).max())[0]
    (label,) = (t for t in figure.axes[0].texts if t.get_position() == (copy, truth))
    assert label.get_text() == str(counts[truth, copy])
    assert figure.axes[0].get_ylabel() == "truth"


def test_published_and_measured_stand_where_the_numbers_are():
    row = PublishedValue(id="a", label="a copy", published=89.66, metric="x")
    drawn = study_figures.beside([Value(row, "ok", Interval(0.887, 0.88, 0.893))])
    lines = drawn.axes[0].lines
    assert [list(each.get_xdata()) for each in lines if each.get_marker() == "D"] == [[89.66]]
    assert [list(each.get_xdata()) for each in lines if each.get_marker() == "o"] == [[pytest.approx(88.7)]]
    assert any(list(each.get_xdata()) == pytest.approx([88.0, 89.3]) for each in lines)
    assert (
        study_figures.beside([Value(row.model_copy(update={"published": None}), "ok", Interval(1, 1, 1))])
        is None
    )


def test_without_published_numbers_what_was_measured_is_drawn_alone():
    row = PublishedValue(id="a", label="a copy", metric="x")
    drawn = study_figures.beside([Value(row, "ok", Interval(0.887, 0.88, 0.893))], without_published=True)
    assert [list(each.get_xdata()) for each in drawn.axes[0].lines if each.get_marker() == "D"] == []
    assert [text.get_text() for text in drawn.legends[0].get_texts()] == ["measured here, 95 % interval"]
    assert study_figures.beside([Value(row, "not run")], without_published=True) is None


def test_a_study_without_published_numbers_shows_its_figure_on_the_first_page(run, tmp_path):
    study, records, meta = run
    bare = study.model_dump()
    for table in bare["table"]:
        table["row"] = [{**row, "published": None} for row in table["row"]]
    bare["headline"] = None
    write_report(records, meta.with_values(study=bare), tmp_path)
    first = (tmp_path / "report.md").read_text()
    assert "](figures/measured-1.svg)" in first
    assert "diamonds" not in first
    assert (tmp_path / "figures" / "measured-1.svg").is_file()
    assert not (tmp_path / "figures" / "published-1.svg").exists()


def test_units_have_axes_of_their_own():
    units = [("%", 90.0), ("s", 111.2), ("", 0.91)]
    rows = [
        PublishedValue(id=f"r{place}", label=unit, published=p, unit=unit)
        for place, (unit, p) in enumerate(units)
    ]
    figure = study_figures.beside([Value(row, "not run") for row in rows])
    assert [axes.get_xlabel() for axes in figure.axes] == ["%", "seconds", "value"]


def test_roc_axes_are_logarithmic_with_guessing_as_their_diagonal():
    figure = study_figures.roc({"some": [(0.001, 0.0), (0.01, 0.05), (1.0, 1.0)], "none": [(0.001, 0.0)]})
    (axes,) = figure.axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    guessing, some = axes.lines
    assert list(guessing.get_xdata()) == list(guessing.get_ydata())
    assert list(some.get_ydata()) == [0.05, 1.0]
    assert study_figures.roc({}) is None


# --- membership inference in ordinary reports


@pytest.fixture(scope="module")
def ordinary(run, tmp_path_factory):
    _, records, meta = run
    plain = meta.with_values(study=None)
    return write_report(records, plain, tmp_path_factory.mktemp("ordinary"))


@pytest.fixture(scope="module")
def inference(ordinary):
    """The page on membership inference of an ordinary report."""
    return (ordinary.parent / "membership.md").read_text(encoding="utf-8")


@pytest.mark.usefixtures("undrawn")
def test_membership_is_no_part_of_the_first_page_on_extraction(ordinary, run, tmp_path):
    first = ordinary.read_text(encoding="utf-8")
    assert "[membership inference](membership.md)" in first
    assert "membership" not in first.replace("[membership inference](membership.md)", "")
    _, records, _ = run
    only = [record for record in records if "membership" in str(record.spec.get("attack"))]
    page = write_report(only, META, tmp_path).read_text(encoding="utf-8")
    assert "which defense" not in page
    assert "No cell has a result yet" not in page
    assert "**this attack finds nothing**" in page
    assert not (tmp_path / "attacks.md").exists()


def test_an_attack_no_better_than_guessing_finds_nothing_and_nothing_more_is_said(inference):
    part = inference
    same = next(x for x in part.splitlines() if "from the same data" in x)
    assert "**this attack finds nothing** (AUC 0.500, 95 % CI 0." in same
    assert "leak" not in part


def test_what_needs_no_victim_is_not_called_membership(run, inference):
    part = inference
    other = next(x for x in part.splitlines() if "from usps" in x)
    assert "better than guessing" in other
    assert "a classifier that never queries the victim (AUC 0.980" in other
    assert "need not be membership" in other
    _, records, _ = run
    for metrics, expected in (
        ({"membership.without_victim_auc": 0.5}, "better than guessing"),
        ({"membership.auc": 0.3}, "worse than guessing"),
    ):
        own = [r for r in records if r.spec.get("pool") == "usps"]
        own = [replace(r, metrics=r.metrics | metrics) for r in own]
        said = "\n".join(membership.sentences(inferences(Findings(own, {}))))
        assert expected in said
        assert "never queries" not in said
    single = inferences(Findings([r for r in own if r.spec["repeat"] == 0], {}))
    assert "one repeat gives no confidence interval" in membership.sentences(single)[0]


def test_the_membership_table_shows_achieved_rates_and_what_stands_beside(inference):
    cells = line(inference, "mnist/lenet | the victim | usps")
    assert cells[3:6] == ["`none`", "membership_black_box", "5"]
    assert cells[6].startswith("70.0 (")
    assert cells[8].startswith("0.740 (")
    assert cells[9].endswith("(0.98)")
    assert cells[10] == "–"
    assert cells[11].startswith("1.0 (")
    assert cells[13].startswith("0.980 (")
    assert "(figures/roc-1.svg)" in inference


def test_an_extracted_target_is_named_and_curves_are_the_mean_of_the_repeats(run):
    _, records, _ = run
    own = [r for r in records if "threshold" in str(r.spec.get("attack")) and r.spec["pool"] == "usps"]
    stolen = [
        replace(r, task=replace(r.task, attack=r.task.attack.replace("=victim", "=surrogate"))) for r in own
    ]
    flat = own[0].info.with_values(roc=[[x, 0.0] for x, _ in own[0].info.roc])
    own[0] = replace(own[0], info=flat)
    found = inferences(Findings([*own, *stolen], {}))
    assert [one.target for one in found] == ["mlp extracted with 4,000 queries", "the victim"]
    x, y = found[1].curve()[20]
    assert y == pytest.approx(0.8 * own[1].info.roc[20][1])
    assert x == own[1].info.roc[20][0]
    names = membership.labels(found)
    assert len(set(names)) == 2
    assert all("non-members" not in name for name in names)


def test_many_curves_are_drawn_in_several_figures(run, tmp_path):
    _, records, _ = run
    first = next(r for r in records if r.spec.get("pool") == "usps")
    many = [
        replace(first, task=replace(first.task, budget=budget, threat=replace(first.task.threat, pool=pool)))
        for budget in (1, 2, 3, 4, 5)
        for pool in ("usps", "kmnist")
    ]
    found = inferences(Findings(many, {}))
    shown = membership.curves(found, tmp_path / "figures", "roc-1")
    assert [re.search(r"\((figures/.*svg)\)", part)[1] for part in shown] == [
        "figures/roc-1-1.svg",
        "figures/roc-1-2.svg",
    ]
    assert [part.count("kmnist (near)") for part in shown] == [5, 0]
    assert [part.count("usps (near)") for part in shown] == [0, 5]


# --- the shipped studies


STUDIES = [name for name, file in shipped().items() if "study" in tomllib.loads(file.read_text())]


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("here", [True, False])
def test_the_rows_of_a_shipped_study_find_their_cells_with_and_without_optional_data(name, here, monkeypatch):
    monkeypatch.setattr(matrix, "_here", lambda *_: here)
    loaded = matrix.load_matrix(name)
    assert validated(loaded, loaded.tasks()).rows
