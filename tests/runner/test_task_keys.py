"""The keys of tasks: each ingredient changes them, and a run says which stored results no longer match."""

import logging
import sys
from dataclasses import replace

import numpy as np
import pytest
from caches import document_module, edit_module
from cases import slow_unless
from images import shrink, write_mnist_like

from bench import keys
from bench.errors import UsageError
from bench.plan.matrix import load_matrix
from bench.records import PlannedTask
from bench.runner import task_keys as module
from bench.runner.local_backend import WorkerSettings, worker_context
from bench.runner.run import run
from bench.runner.task_keys import outdated, task_keys
from bench.store import Store
from bench.tasks import Cell

MATRIX = """
repeats = 1
plugins = ["mine.py"]
[[block]]
defense = ["none", "rounded(decimals=1)", "mine"]
attack = ["copycat", "membership_threshold(members=20)"]
surrogate = "logistic"
budget = 20
"""
PLUGIN = """
from moatbench import Answers, Defense
import helper_of_mine

class Mine(Defense):
    \"\"\"Leaves everything as it is.\"\"\"
    name = "mine"
    def answer(self, batch):
        return Answers.of(batch.probabilities * 1)
"""


@pytest.fixture
def tasks(matrix_file, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "helper_of_mine", raising=False)
    (tmp_path / "mine.py").write_text(PLUGIN)
    (tmp_path / "helper_of_mine.py").write_text("x = 1")
    return load_matrix(str(matrix_file(MATRIX))).tasks()


def kinds(task):
    """Return what a task uses, in a word each."""
    attack = task.attack.partition("(")[0] if isinstance(task, Cell) else "audit"
    return {attack, *(text.partition("(")[0] for text in task.defense)}


def changed(tasks, before):
    """Return the tasks whose keys are others than before."""
    after = task_keys(tasks, {tasks[0].victim: "a"})
    assert [each.task for each in after] == [each.task for each in before]
    return [one.task for one, other in zip(after, before, strict=True) if one.key != other.key]


@pytest.fixture
def before(tasks):
    return task_keys(tasks, {tasks[0].victim: "a"})


def test_every_task_has_a_key_of_its_own_and_ingredients_that_say_what_is_in_it(tasks, before):
    assert len({each.key for each in before}) == len(tasks)
    for each in before:
        assert keys.INGREDIENTS["result"] - {"kind", "spec"} <= each.ingredients.keys()
        assert all(isinstance(value, str) for value in each.ingredients.values())
        sources = {name for name in each.ingredients if name.startswith(keys.SOURCE)}
        assert len(sources) == len(kinds(each.task) - {"audit"})


@pytest.mark.parametrize(
    ("edited", "touched"),
    [
        ("defenses.rounded", {"rounded"}),
        ("attacks.copycat", {"copycat"}),
        ("attacks.common.art_recorder", {"copycat"}),
        ("bench.runner.extraction", {"copycat", "membership_threshold"}),  # membership extracts surrogates
        ("bench.runner.membership", {"membership_threshold"}),
        ("bench.runner.answer_probes", {"audit"}),
        ("bench.metrics.flags", {"copycat", "membership_threshold"}),
        ("bench.models.fast.adam", {"copycat", "membership_threshold", "audit"}),
        ("bench.runner.local_backend", {"copycat", "membership_threshold", "audit"}),
        ("defenses.base", {"copycat", "membership_threshold", "audit"}),
        ("defenses.top_k", set()),
        ("bench.report.page", set()),
        ("bench.gate.compare", set()),
    ],
)
def test_an_edit_of_what_computes_a_cell_changes_its_key_and_a_docstring_does_not(
    edited, touched, tasks, before, monkeypatch
):
    with monkeypatch.context() as patch:
        document_module(edited)(patch, None)
        assert not changed(tasks, before)
    edit_module(edited)(monkeypatch, None)
    assert changed(tasks, before) == [task for task in tasks if kinds(task) & touched]


def test_an_edit_beside_a_users_plugin_changes_the_keys_of_the_tasks_that_use_it(tasks, before, tmp_path):
    (tmp_path / "helper_of_mine.py").write_text("x = 2")
    assert changed(tasks, before) == [task for task in tasks if "mine" in kinds(task)]


def test_the_victims_answers_and_the_device_change_all_keys(tasks, before):
    old = {each.key for each in before}
    assert not old & {each.key for each in task_keys(tasks, {tasks[0].victim: "b"})}
    assert not old & {each.key for each in task_keys(tasks, {tasks[0].victim: "a"}, "cuda")}


@pytest.mark.parametrize(
    "library",
    slow_unless(
        lambda library: library in {"torch", "numpy"},
        ["adversarial-robustness-toolbox", "torch", "torchvision", "numpy", "scipy", "scikit-learn"],
    ),
)
def test_another_version_changes_all_keys(library, tasks, before, monkeypatch):
    installed = module.versions()
    assert library in installed
    monkeypatch.setattr(module, "versions", lambda: installed | {library: "0.0.1"})
    assert changed(tasks, before) == tasks


def test_another_python_changes_all_keys(tasks, before, monkeypatch):
    monkeypatch.setattr(keys.platform, "python_version_tuple", lambda: ("3", "99", "0"))
    assert changed(tasks, before) == tasks


def test_a_library_that_a_plugin_alone_imports_counts_with_its_version(tasks, tmp_path):
    (tmp_path / "helper_of_mine.py").write_text("def later():\n    import hypothesis\n")
    versions = [
        {name: value for name, value in each.ingredients.items() if name == "version of hypothesis"}
        for each in task_keys(tasks, {tasks[0].victim: "a"})
    ]
    assert [bool(found) for found in versions] == ["mine" in kinds(task) for task in tasks]


def test_an_edited_victim_file_is_another_key_even_if_its_answers_stay(tasks, tmp_path):
    found = []
    for text in ("x = 1\n", "x = 2\n", "x = 2  # the same\n"):
        (tmp_path / "victim.py").write_text(text)
        spec = replace(tasks[0].victim, data=f"{tmp_path / 'victim.py'}:make", architecture="")
        found.append(task_keys([replace(tasks[0], victim=spec)], {spec: "a"})[0].key)
    assert found[0] != found[1] == found[2]


def test_other_files_of_a_data_set_change_the_keys_of_the_tasks_that_read_it(tasks, tmp_path, monkeypatch):
    shrink(monkeypatch, "mnist", 40, 12)
    shrink(monkeypatch, "kmnist", 40, 12)
    cell = next(task for task in tasks if isinstance(task, Cell))
    spec = replace(cell.victim, data="mnist")
    own = replace(cell, victim=spec)
    pools = [replace(own, threat=replace(cell.threat, pool=pool)) for pool in ("kmnist", "blend:kmnist")]
    trained = replace(own, defense=("adaptive_misinformation(tau=0.7, nu=1000.0, auxiliary=kmnist)",))
    planned = [own, *pools, trained, cell]

    def found(kmnist):
        for folder, value in (("MNIST", 0), ("KMNIST", kmnist)):
            for stem, rows in (("train", 40), ("t10k", 12)):
                write_mnist_like(tmp_path / folder / "raw", stem, np.full((rows, 28, 28), value))
        return [each.key for each in task_keys(planned, {spec: "a", cell.victim: "a"}, "cpu", tmp_path)]

    before, after, again = found(0), found(1), found(0)
    assert before == again
    assert [one == other for one, other in zip(before, after, strict=True)] == [
        True,
        False,
        False,
        False,
        True,
    ]


def edited(planned, **ingredients):
    names = {name.replace("_", " "): value for name, value in ingredients.items()}
    return PlannedTask("old", planned.task, {**planned.ingredients, **names})


def test_reasons_are_named_and_counted(before):
    stored = [
        edited(before[0], version_of_numpy="2.0"),
        edited(before[1], version_of_numpy="2.0"),
        edited(before[2], harness="another"),
        PlannedTask("old", before[3].task, {}),
        edited(before[4], device="cuda", victim="another"),
    ]
    numpy = before[0].ingredients["version of numpy"]
    text = outdated(before, stored)
    assert text.startswith("5 stored results no longer match: ")
    assert text.endswith("; they run again")
    for reason in (
        f"numpy 2.0 -> {numpy} (2)",
        "moatbench's own source changed (1)",
        "made by an older moatbench (1)",
        "device cuda -> cpu and the victim changed (1)",
    ):
        assert reason in text


def test_the_source_of_a_plugin_is_named(before):
    rounded = next(each for each in before if kinds(each.task) == {"copycat", "rounded"})
    text = outdated(before, [edited(rounded, source_of_defense_rounded="another")])
    assert text == (
        "1 stored result no longer matches: the source of defense rounded changed (1); it runs again"
    )


def test_the_nearest_of_several_stored_results_gives_the_reason(before):
    one = before[0]
    stored = [edited(one, harness="x", device="cuda"), edited(one, device="cuda")]
    assert "matches: device cuda -> cpu (1)" in outdated([one], stored)


def test_under_another_python_digests_of_code_are_not_blamed(before):
    text = outdated(before[:1], [edited(before[0], version_of_Python="3.1", harness="another")])
    assert "Python 3.1 -> 3." in text
    assert "source" not in text


def test_nothing_is_said_where_all_results_match_or_none_is_of_these_tasks(before):
    assert not outdated([], before)
    assert not outdated(before[:2], [])
    assert not outdated(before[:2], before[2:])


def test_a_run_says_before_it_starts_how_many_results_no_longer_match(
    matrix_file, tmp_path, monkeypatch, caplog
):
    text = MATRIX.replace('"none", ', "").replace(', "membership_threshold(members=20)"', "")
    text = text.replace(', "mine"]', "]").replace('plugins = ["mine.py"]', "")
    tasks = load_matrix(str(matrix_file(text))).tasks()
    setting = WorkerSettings(tmp_path, None)
    worker_context.cache_clear()
    with Store(tmp_path / "one.sqlite", create=True) as store:
        run(tasks, store, setting, jobs=1)
        assert "no longer match" not in caplog.text
        edit_module("defenses.rounded")(monkeypatch, None)
        with caplog.at_level(logging.WARNING):
            run(tasks, store, setting, jobs=1)
        assert "2 stored results no longer match: the source of defense rounded changed (2)" in caplog.text
        caplog.clear()
        run(tasks, store, setting, jobs=1)
        assert "no longer match" not in caplog.text
    worker_context.cache_clear()


@pytest.mark.usefixtures("fresh_workers")
@pytest.mark.parametrize("edited_file", ["mine.py", "victim.py"])
def test_a_worker_says_that_a_file_has_changed_since_the_run_started(edited_file, tasks, tmp_path):
    (tmp_path / "victim.py").write_text("x = 1")
    spec = replace(tasks[0].victim, data=f"{tmp_path / 'victim.py'}:make", architecture="")
    settings = WorkerSettings(tmp_path, None, (tmp_path / "mine.py",))
    settings = settings.as_they_are([replace(tasks[0], victim=spec)])
    worker_context(settings)
    worker_context.cache_clear()
    with (tmp_path / edited_file).open("a") as file:
        file.write("\nx = 2\n")
    with pytest.raises(UsageError, match=rf"{edited_file} has changed since the run started"):
        worker_context(settings)


@pytest.mark.usefixtures("fresh_workers")
def test_a_plugin_file_edited_between_two_runs_of_a_process_is_what_runs(matrix_file, tmp_path):
    text = MATRIX.replace('"none", "rounded(decimals=1)", ', "").replace(
        '["copycat", "membership_threshold(members=20)"]', '"copycat"'
    )
    found = []
    plugin = PLUGIN.replace("import helper_of_mine\n", "")
    for factor in ("* 1", "* 0"):
        (tmp_path / "mine.py").write_text(plugin.replace("* 1", factor))
        matrix = load_matrix(str(matrix_file(text)))
        settings = WorkerSettings(tmp_path, None, tuple(matrix.plugin_files))
        with Store(tmp_path / "one.sqlite", create=True) as store:
            run(matrix.tasks(), store, settings, jobs=1)
            found.append({record.status for record in store.records()})
    assert found == [{"ok"}, {"failed"}]  # rows of zeros are no distributions
