"""Victims that users bring, by file or by dotted path."""

import sys
from textwrap import dedent

import numpy as np
import pytest

from bench.errors import UsageError, VictimError
from bench.models.determinism import torch_seed
from bench.models.victims import load_victim
from bench.tasks import VictimSpec

THEIRS = """
import numpy as np
from moatbench import Labelled, Splits, Victim

rng = np.random.default_rng(0)

def part(n=20):
    return Labelled(rng.random((n, 1, 4, 4), dtype=np.float32), rng.integers(0, 3, n))

splits = Splits(part(), part(), part(), part(), 3)

def model(x):
    return np.full((len(x), 3), 1 / 3)

def features(x):
    return [x.reshape(len(x), -1), model(x).astype(np.float32)]

def factory():
    return model, splits

def with_features():
    return model, splits, features

def whole():
    return Victim(model, splits, expected=0.25)

def art():
    import torch
    from art.estimators.classification import PyTorchClassifier
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3), torch.nn.Softmax(dim=1))
    return PyTorchClassifier(net, torch.nn.CrossEntropyLoss(), (1, 4, 4), 3), splits

def nothing():
    return None

def only_model():
    return model

def swapped():
    return splits, model

def a_number():
    return 3, splits

def four():
    return model, splits, features, 1

def logits():
    return (lambda x: np.full((len(x), 3), 5.0)), splits
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Stand in a folder of the user's; what is imported from it is forgotten after."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if str(folder) in str(getattr(sys.modules[name], "__file__", None)) or name.startswith("theirs"):
            del sys.modules[name]


def bring(reference, tmp_path="nowhere"):
    return load_victim(VictimSpec(reference, "", 0), tmp_path)


def test_a_file_brings_a_victim(here):
    (here / "mine.py").write_text(dedent(THEIRS))
    for place in ("mine.py", str(here / "mine.py")):
        victim = bring(f"{place}:factory")
        assert victim.name == f"{place}:factory"
        assert victim.features is None
        assert victim.shape == (1, 4, 4)
        assert victim.classes == 3
        assert len(victim.fingerprint) == 64
    assert str(VictimSpec("mine.py:factory", "", 0)) == "mine.py:factory"


def test_a_factory_can_bring_features_or_a_whole_victim(here):
    (here / "mine.py").write_text(dedent(THEIRS))
    victim = bring("mine.py:with_features")
    assert [depth.shape for depth in victim.features(victim.splits.test.x)] == [(20, 16), (20, 3)]
    assert bring("mine.py:whole").expected == 0.25
    assert bring("mine.py:whole").name == "mine.py:whole"


def test_a_factory_can_bring_an_art_classifier(here):
    (here / "mine.py").write_text(dedent(THEIRS))
    with torch_seed(0):
        victim = bring("mine.py:art")
    answers = victim.probabilities(victim.splits.pool.x)
    assert answers.shape == (20, 3)
    assert np.allclose(answers.sum(axis=1), 1)


def test_a_dotted_path_is_found_in_the_working_directory(here):
    (here / "theirs_package").mkdir()
    (here / "theirs_package" / "__init__.py").touch()
    (here / "theirs_package" / "models.py").write_text(dedent(THEIRS))
    (here / "theirs_alone.py").write_text(dedent(THEIRS))
    assert bring("theirs_package.models:factory").classes == 3
    assert bring("theirs_alone:factory").classes == 3
    assert sys.path[-1] == str(here)
    assert sys.path.count(str(here)) == 1


def test_the_working_directory_hides_no_installed_module(here):
    (here / "json.py").write_text("raise AssertionError('imported')")
    with pytest.raises(UsageError, match="json has no 'factory'"):
        bring("json:factory")


@pytest.mark.parametrize("reference", ["mine.py:factry", "theirs_flat:factry"])
def test_a_missing_factory_is_named(reference, here):
    for name in ("mine.py", "theirs_flat.py"):
        (here / name).write_text(dedent(THEIRS))
    with pytest.raises(UsageError, match=f"--victim {reference}: .* has no 'factry'"):
        bring(reference)


@pytest.mark.usefixtures("here")
def test_a_missing_file_or_module_is_named():
    with pytest.raises(UsageError, match=r"no Python file .*nothing.py"):
        bring("nothing.py:factory")
    with pytest.raises(UsageError, match=r"no module 'theirs_missing'; name the file: FILE.py:factory"):
        bring("theirs_missing.inner:factory")


@pytest.mark.parametrize("name", ["nothing", "only_model", "swapped", "a_number", "four"])
def test_what_a_factory_must_return_is_said(name, here):
    (here / "mine.py").write_text(dedent(THEIRS))
    with pytest.raises(
        UsageError, match=rf"--victim mine.py:{name}: the factory must return \(model, splits\)"
    ):
        bring(f"mine.py:{name}")


def test_a_users_victim_that_returns_logits_is_rejected(here):
    (here / "mine.py").write_text(dedent(THEIRS))
    with pytest.raises(
        VictimError, match=r"mine.py:logits does not return probabilities: .* look like logits"
    ):
        bring("mine.py:logits")


@pytest.mark.parametrize("ours", ["attacks", "defenses", "bench"])
def test_a_folder_that_ours_hides_is_an_error_that_names_the_file(ours, here):
    (here / ours).mkdir()
    (here / ours / "mine.py").write_text(dedent(THEIRS))
    with pytest.raises(UsageError, match=rf"hides yours; name the file: --victim {ours}/mine.py:factory"):
        bring(f"{ours}.mine:factory")
    assert bring(f"{ours}/mine.py:factory").classes == 3


def test_a_module_that_ours_hides_is_an_error_too(here):
    (here / "moatbench.py").write_text(dedent(THEIRS))
    with pytest.raises(UsageError, match=r"hides yours; name the file: --victim moatbench.py:factory"):
        bring("moatbench:factory")


def test_our_own_modules_can_be_named_where_nothing_is_hidden(here):
    assert not list(here.iterdir())
    with pytest.raises(UsageError, match=r"bench.models.victims has no 'factory'"):
        bring("bench.models.victims:factory")
