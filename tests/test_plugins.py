import importlib
import linecache
import sys
from types import SimpleNamespace

import pytest

from bench.errors import UsageError
from bench.plugins import Registry, attacks, defenses, load_file

PLUGIN = '''
from typing import Annotated
from pydantic import Field
from moatbench import Answers, Defense

class Halve(Defense):
    """Halve the confidence."""
    name = "halve"
    def __init__(self, *, factor: Annotated[float, Field(gt=0, le=1)] = 0.5) -> None:
        self.factor = factor
    def answer(self, batch):
        return Answers.of(batch.probabilities * self.factor)
'''


@pytest.mark.parametrize("registry", [attacks, defenses], ids=["attacks", "defenses"])
def test_every_plugin_builds_bare_and_its_text_builds_it_again(registry):
    assert registry.names()
    for name in registry.names():
        text = registry.canonical(name)
        assert registry.canonical(text) == text
        assert len(registry.source_digest(text)) == 64


def test_an_unknown_name_brings_the_nearest():
    with pytest.raises(UsageError, match="unknown attack 'copykat'; did you mean 'copycat'"):
        attacks.build("copykat")


def test_parameters_that_contradict_each_other_are_rejected():
    with pytest.raises(UsageError, match="learns from labels only"):
        attacks.build("knockoff(sampling_strategy=adaptive, use_probability=true)")


def test_a_file_adds_its_plugins(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(PLUGIN)
    registry = Registry("defense", "defenses", "defenses.base:Defense")
    registry.add_file(path)
    assert "halve" in registry.names()
    assert registry.canonical("halve") == "halve(factor=0.5)"


def test_an_edited_plugin_has_another_source(tmp_path):
    digests = []
    for folder, text in (("one", PLUGIN), ("two", PLUGIN.replace("= 0.5", "= 0.4"))):
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / "mine.py"
        path.write_text(text)
        registry = Registry("defense", "defenses", "defenses.base:Defense")
        registry.add_file(path)
        digests.append(registry.source_digest("halve"))
    assert digests[0] != digests[1]


def write_package(folder, files):
    """Write modules by path under ``folder``; every folder in between becomes a package."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        for parent in path.relative_to(folder).parents[:-1]:
            (folder / parent / "__init__.py").touch()


@pytest.fixture
def digest_of_fresh_import(tmp_path, monkeypatch):
    """Return a function that writes a package "theirs", imports it anew and digests its plugin "halve"."""
    monkeypatch.syspath_prepend(tmp_path)

    def digest(files):
        write_package(tmp_path / "theirs", files)
        (tmp_path / "theirs" / "__init__.py").touch()
        for name in [name for name in sys.modules if name.startswith("theirs")]:
            monkeypatch.delitem(sys.modules, name)
        importlib.invalidate_caches()
        linecache.clearcache()
        registry = Registry("defense", "theirs", "defenses.base:Defense")
        assert registry.names() == ["halve"]
        return registry.source_digest("halve")

    return digest


@pytest.mark.parametrize(
    ("how", "place"),
    [
        ("from theirs.sums import half", "sums.py"),
        ("from theirs import sums", "sums.py"),
        ("import theirs.sums", "sums.py"),
        ("from .sums import half", "sums.py"),
        ("from . import sums", "sums.py"),
        ("from theirs.inverse import sums", "inverse/sums.py"),
        ("from theirs.inverse.sums import half", "inverse/sums.py"),
        ("from theirs import inverse", "inverse/sums.py"),
        ("import theirs.inverse.deep.sums", "inverse/deep/sums.py"),
        ("from theirs.inverse import deep", "inverse/deep/sums.py"),
    ],
)
def test_a_plugins_digest_covers_what_it_imports_from_its_own_package(how, place, digest_of_fresh_import):
    plugin = {"mine.py": f"{how}\n{PLUGIN}"}
    digests = [digest_of_fresh_import(plugin | {place: f"half = {value}\n"}) for value in (0.5, 0.4, 0.4)]
    assert digests[0] != digests[1] == digests[2]


def test_a_plugins_digest_covers_what_its_own_modules_import(digest_of_fresh_import):
    files = {
        "mine.py": f"from theirs.sums import half\n{PLUGIN}",
        "sums.py": "from theirs.deep import half\n",
    }
    digests = [digest_of_fresh_import(files | {"deep.py": f"half = {value}\n"}) for value in (0.5, 0.4)]
    assert digests[0] != digests[1]


def test_a_plugins_digest_ignores_modules_that_it_does_not_import(digest_of_fresh_import):
    files = {"mine.py": PLUGIN}
    digests = [digest_of_fresh_import(files | {"other/sums.py": f"half = {value}\n"}) for value in (0.5, 0.4)]
    assert digests[0] == digests[1]


@pytest.mark.parametrize("place", ["mine.py", "kind/mine.py", "kind/__init__.py", "kind/deep/mine.py"])
def test_plugins_are_found_in_sub_packages_and_helpers_there_are_none(place, digest_of_fresh_import):
    assert digest_of_fresh_import({place: PLUGIN, "kind/helper.py": "half = 0.5\n", "helper.py": ""})


def test_a_module_that_cannot_be_imported_is_no_silent_loss(digest_of_fresh_import):
    with pytest.raises(ImportError, match="nothing_like_it"):
        digest_of_fresh_import({"mine.py": PLUGIN, "kind/__init__.py": "import nothing_like_it\n"})


def test_a_digest_imports_nothing_of_a_package_that_a_plugin_only_uses(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    files = {
        "plugins.py": f"from mine.core import factor\n\n{PLUGIN}",
        "core/__init__.py": "factor = 0.5\n",
        "core/__main__.py": "raise SystemExit('this is a program')\n",
        "core/optional.py": "import nothing_like_it\n",
    }
    write_package(tmp_path / "mine", files)
    (tmp_path / "mine" / "__init__.py").touch()
    importlib.invalidate_caches()
    module = importlib.import_module("mine.plugins")

    def installed(group):
        halve = SimpleNamespace(name="halve", value="theirs:Halve", load=lambda: module.Halve)
        return [halve] if group == "moatbench.defenses" else []

    monkeypatch.setattr("importlib.metadata.entry_points", installed)
    registry = Registry("defense", "defenses", "defenses.base:Defense")
    assert len(registry.source_digest("halve")) == 64
    assert "mine.core.optional" not in sys.modules
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        monkeypatch.delitem(sys.modules, name)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UsageError, match="no Python file"):
        attacks.add_file(tmp_path / "nothing.py")


def test_a_broken_file_leaves_no_half_made_module(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("raise KeyError('x')")
    for _ in range(2):
        with pytest.raises(UsageError, match=r"broken.py, line 1: KeyError: 'x'"):
            attacks.add_file(path)


def test_an_entry_point_adds_a_plugin(tmp_path, monkeypatch):
    path = tmp_path / "theirs.py"
    path.write_text(PLUGIN)
    module = load_file(path)

    def installed(group):
        halve = SimpleNamespace(name="halve", value="theirs:Halve", load=lambda: module.Halve)
        return [halve] if group == "moatbench.defenses" else []

    monkeypatch.setattr("importlib.metadata.entry_points", installed)
    registry = Registry("defense", "defenses", "defenses.base:Defense")
    assert registry.canonical("halve(factor=0.25)") == "halve(factor=0.25)"
    assert "halve" not in Registry("attack", "attacks", "attacks.base:Attack").names()


def test_a_registrys_builder_is_asked_before_the_class(tmp_path, monkeypatch):
    path = tmp_path / "mine.py"
    path.write_text(PLUGIN)
    asked = []

    def builder(kind, cls, values):
        asked.append((kind, cls.name, values))
        return cls(factor=1.0) if values.get("whole") else None

    monkeypatch.setattr("bench.analysis.display_names.builder", builder, raising=False)
    registry = Registry(
        "defense", "defenses", "defenses.base:Defense", "bench.analysis.display_names:builder"
    )
    registry.add_file(path)
    assert repr(registry.build("halve(whole=true)")) == "halve(factor=1.0)"
    assert repr(registry.build("halve")) == "halve(factor=0.5)"
    assert asked == [("defense", "halve", {"whole": True}), ("defense", "halve", {})]
    with pytest.raises(UsageError, match="no parameter 'half'"):
        registry.build("halve(half=true)")
