"""Victims are trained once and cached; a cached file is checked before it is used."""

import logging
import pickle
import shutil
from itertools import product

import numpy as np
import pytest
import safetensors.torch
import skops.io
import torch
from cases import slow_unless
from sklearn.base import BaseEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from bench.files import LINE, sealed, unsealed
from bench.models import networks, training, victim_training
from bench.models.determinism import torch_seed
from bench.models.victims import load_victim
from bench.tasks import VictimSpec

KINDS = ("mlp", "cnn", "logistic", "tree")


@pytest.fixture
def victim_of(context):
    return lambda kind: context.victim(VictimSpec("digits", kind, 0))


@pytest.fixture
def kept(victim_of, cache, tmp_path, monkeypatch):
    """Give a copy of the cache to spoil, and the path of a victim's file in it."""

    def path_of(kind):
        victim_of(kind)
        # Another process of the session may be writing one of the others.
        unfinished = shutil.ignore_patterns("*.part")
        shutil.copytree(cache / "victims", tmp_path / "cache" / "victims", ignore=unfinished)
        monkeypatch.setenv("MOATBENCH_CACHE", str(tmp_path / "cache"))
        paths, read = [], victim_training.read_checked
        with monkeypatch.context() as patch:
            patch.setattr(
                victim_training, "read_checked", lambda path, text: paths.append(path) or read(path, text)
            )
            load(kind)
        return paths[0]

    return path_of


def load(kind, root="nowhere"):
    return load_victim(VictimSpec("digits", kind, 0), root)


def seal(path, content):
    """Write content with a checksum that is right."""
    path.write_bytes(sealed(content))


def forbid_training(monkeypatch):
    def never(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr(training, "train", never)
    monkeypatch.setattr(LogisticRegression, "fit", never)
    monkeypatch.setattr("sklearn.tree.DecisionTreeClassifier.fit", never)


def test_training_a_victim_leaves_global_generators_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("MOATBENCH_CACHE", str(tmp_path))
    before = repr(np.random.get_state()), torch.get_rng_state()
    load("mlp")
    load("tree")
    assert before[0] == repr(np.random.get_state())
    assert torch.equal(before[1], torch.get_rng_state())


@pytest.mark.parametrize("kind", slow_unless(lambda kind: kind != "cnn", KINDS))
def test_a_cached_victim_is_not_trained_again(kind, victim_of, kept, monkeypatch):
    kept(kind)
    forbid_training(monkeypatch)
    again = load(kind)
    assert again.fingerprint == victim_of(kind).fingerprint
    x = again.splits.test.x
    assert (again.probabilities(x) == victim_of(kind).probabilities(x)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_unpickled(kind, kept, monkeypatch):
    path = kept(kind)

    def never(*_, **__):
        raise AssertionError("unpickled")

    for place in ("load", "loads", "Unpickler", "_Unpickler"):
        monkeypatch.setattr(pickle, place, never)
    monkeypatch.setattr(torch, "load", never)
    forbid_training(monkeypatch)
    load(kind)
    assert not unsealed(path.read_bytes()).startswith(b"\x80")
    assert {each.suffix for each in path.parent.iterdir()} <= {".safetensors", ".skops"}


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def void(path):
    path.write_bytes(b"")


def wrong_checksum(path):
    content = unsealed(path.read_bytes())
    path.write_bytes(sealed(content + b" ")[:LINE] + content)


def no_checksum(path):
    path.write_bytes(path.read_bytes()[LINE:])


def garbage(path):
    seal(path, b"neither weights nor an archive")


@pytest.mark.parametrize(
    ("kind", "spoil"),
    slow_unless(
        lambda kind, spoil: kind == "tree" or spoil is flip,
        product(["mlp", "tree"], [flip, cut, void, wrong_checksum, no_checksum, garbage]),
    ),
)
def test_a_corrupt_victim_is_reported_and_trained_again(kind, spoil, victim_of, kept, caplog):
    path = kept(kind)
    whole = path.read_bytes()
    spoil(path)
    with caplog.at_level(logging.WARNING):
        again = load(kind)
    assert "training it again" in caplog.text
    assert path.name in caplog.text
    assert again.fingerprint == victim_of(kind).fingerprint
    assert path.suffix == ".skops" or path.read_bytes() == whole
    caplog.clear()
    load(kind)
    assert not caplog.text


def test_weights_of_another_network_are_reported_and_replaced(victim_of, kept, caplog):
    path = kept("mlp")
    with torch_seed(0):
        other = networks.build("logistic", (1, 8, 8), 10)
    seal(path, safetensors.torch.save(training.snapshot(other)))
    again = load("mlp")
    assert "does not fit its network; training it again" in caplog.text
    assert again.fingerprint == victim_of("mlp").fingerprint


class Stranger(BaseEstimator):
    """A class of which skops knows nothing."""


def test_untrusted_types_are_not_loaded(victim_of, kept, caplog, monkeypatch):
    path = kept("tree")
    seal(path, skops.io.dumps(Stranger()))

    def never(*_, **__):
        raise AssertionError("loaded")

    monkeypatch.setattr(skops.io, "loads", never)
    again = load("tree")
    assert "holds types we do not trust (test_victim_training.Stranger); training it again" in caplog.text
    assert again.fingerprint == victim_of("tree").fingerprint


def test_a_model_of_another_class_is_reported_and_replaced(victim_of, kept, caplog):
    path = kept("tree")
    seal(path, skops.io.dumps(KNeighborsClassifier()))
    again = load("tree")
    assert "holds another model; training it again" in caplog.text
    assert again.fingerprint == victim_of("tree").fingerprint


@pytest.mark.parametrize("kind", KINDS)
def test_a_victim_trained_on_another_day_is_the_same_victim(kind, victim_of, tmp_path, monkeypatch):
    usual = victim_of(kind)  # before the schedule changes: other tests have it from the same context
    if kind == "cnn":
        monkeypatch.setattr(victim_training, "victim_schedule", lambda _: training.TrainingSchedule(5))
    prints = []
    for day in ("one", "another"):
        monkeypatch.setenv("MOATBENCH_CACHE", str(tmp_path / day))
        prints.append(load(kind).fingerprint)
    assert prints[0] == prints[1]
    assert (prints[0] == usual.fingerprint) == (kind != "cnn")


def test_victims_of_other_versions_are_trained_anew(kept, monkeypatch):
    path = kept("tree")
    before = len(list(path.parent.glob("*.skops")))
    monkeypatch.setattr(victim_training, "versions", lambda: {"scikit-learn": "another"})
    load("tree")
    assert len(list(path.parent.glob("*.skops"))) == before + 1
