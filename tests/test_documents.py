"""What README, METHOD and CONTRIBUTING name is there, and what they show to copy works."""

import re
from pathlib import Path

import pytest

from bench.plan.matrix import load_matrix
from bench.plugins import attacks, defenses
from bench.runner.local_backend import WorkerSettings, run_group, worker_context

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("README.md", "METHOD.md", "CONTRIBUTING.md")
PATH = re.compile(
    r"(?<![\w/.-])((?:bench|attacks|defenses|tests|reports|examples)/[\w/.-]+\.(?:py|md|toml|json|svg))"
)
OWN = "NAME"
"""What stands for a name of the reader's own."""


def blocks(name, language):
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / name).read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_file_that_a_document_names_is_there(name):
    named = {path for path in PATH.findall((ROOT / name).read_text()) if OWN not in path}
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_module_that_a_document_names_in_short_is_there(name):
    """``models/victims.py`` stands for ``bench/models/victims.py``."""
    packages = {path.name for path in (ROOT / "bench").iterdir() if path.is_dir()}
    text = (ROOT / name).read_text()
    short = {
        path
        for path in re.findall(r"(?<![\w/.-])([a-z]+/[\w/]+\.py)", text)
        if path.partition("/")[0] in packages
    }
    assert [path for path in sorted(short) if not (ROOT / "bench" / path).exists()] == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_link_to_a_place_in_a_document_finds_it(name):
    for target, anchor in re.findall(r"\]\(([\w./-]*)#([\w-]+)\)", (ROOT / name).read_text()):
        text = (ROOT / (target or name)).read_text()
        headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        known = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert anchor in known | set(re.findall(r'<a id="([\w-]+)">', text)), f"{target}#{anchor}"


@pytest.mark.parametrize("place", range(len(blocks("README.md", "toml"))))
def test_readmes_matrices_can_be_read(place, tmp_path):
    text = blocks("README.md", "toml")[place]
    text = text if "name =" in text else f'name = "shown"\n{text}'
    text = re.sub(r"^plugins = .*\n", "", text, flags=re.MULTILINE)
    (tmp_path / "shown.toml").write_text(text)
    assert load_matrix(str(tmp_path / "shown.toml")).tasks(data_root=tmp_path)


@pytest.mark.usefixtures("fresh_workers")
def test_contributings_attack_defense_and_matrix_run(tmp_path):
    attack, defense = blocks("CONTRIBUTING.md", "python")
    (matrix,) = blocks("CONTRIBUTING.md", "toml")
    (tmp_path / "balanced.py").write_text(attack)
    (tmp_path / "buckets.py").write_text(defense)
    (tmp_path / "mine.toml").write_text(matrix)
    found = load_matrix(str(tmp_path / "mine.toml"))
    settings = WorkerSettings(tmp_path, None, tuple(found.plugin_files))
    worker_context(settings)
    assert {"balanced"} <= set(attacks.names())
    assert {"buckets"} <= set(defenses.names())
    tasks = found.tasks(repeats=1)
    records = [record for task in tasks for record in run_group(settings, [(task, str(task))])]
    assert {record.status for record in records} == {"ok"}
