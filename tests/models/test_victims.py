"""Victims: trained once and kept, checked before they are used, or brought by the user."""

import hashlib
import logging
import pickle
import shutil
import sys
from dataclasses import replace
from textwrap import dedent

import numpy as np
import pytest
import safetensors.torch
import skops.io
import torch
from sklearn.base import BaseEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from bench.data.datasets import Labelled, Splits
from bench.errors import MissingDataError, UsageError, VictimError
from bench.files import cache_root
from bench.models import networks, training, victims
from bench.models.determinism import torch_seed
from bench.models.victims import EXPECTED, EXPECTED_OFFICIAL, Victim, load_victim
from bench.tasks import VictimSpec

KINDS = ("mlp", "cnn", "logistic", "tree")
TORCH = ("mlp", "cnn")


@pytest.fixture
def victim_of(context):
    return lambda kind: context.victim(VictimSpec("digits", kind, 0))


@pytest.fixture
def kept(victim_of, cache, tmp_path, monkeypatch):
    """Give a copy of the cache to spoil, and the path of a victim's file in it."""

    def path_of(kind):
        victim_of(kind)
        shutil.copytree(cache / "victims", tmp_path / "cache" / "victims")
        monkeypatch.setenv("MOATBENCH_CACHE", str(tmp_path / "cache"))
        paths, read = [], victims._read
        with monkeypatch.context() as patch:
            patch.setattr(victims, "_read", lambda path: paths.append(path) or read(path))
            load(kind)
        return paths[0]

    return path_of


def load(kind, root="nowhere"):
    return load_victim(VictimSpec("digits", kind, 0), root)


def checksum_of(path):
    return path.with_suffix(path.suffix + ".sha256")


def seal(path, content):
    """Write content with a checksum that is right."""
    path.write_bytes(content)
    checksum_of(path).write_text(hashlib.sha256(content).hexdigest())


def forbid_training(monkeypatch):
    def never(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr(training, "train", never)
    monkeypatch.setattr(LogisticRegression, "fit", never)
    monkeypatch.setattr("sklearn.tree.DecisionTreeClassifier.fit", never)


# --- victims of ours


@pytest.mark.parametrize("kind", KINDS)
def test_a_victim_reaches_what_is_expected_of_it(kind, victim_of):
    victim = victim_of(kind)
    assert victim.accuracy() >= victim.expected == EXPECTED["digits", kind]


@pytest.mark.parametrize("kind", KINDS)
def test_a_victim_returns_probabilities(kind, victim_of):
    victim = victim_of(kind)
    answers = victim.probabilities(victim.splits.test.x)
    assert answers.shape == (447, 10)
    assert answers.dtype == np.float64
    assert (answers >= 0).all()
    assert np.allclose(answers.sum(axis=1), 1, atol=1e-9)
    assert victim.probabilities(victim.splits.test.x[:0]).shape == (0, 10)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_alone_is_answered_as_in_a_batch_to_the_last_bit(kind, victim_of):
    victim = victim_of(kind)
    x = victim.splits.test.x
    whole = replace(victim).probabilities(x)
    fresh = replace(victim)
    assert (np.concatenate([fresh.probabilities(row[None]) for row in x[::40]]) == whole[::40]).all()
    assert (replace(victim).probabilities(x[::-1])[::-1] == whole).all()


def test_each_distinct_input_is_evaluated_once(victim_of):
    victim, seen = victim_of("mlp"), []

    def model(x):
        seen.append(np.flatnonzero(x.any(axis=(1, 2, 3))).size)
        return victim.model(x)

    watched = replace(victim, model=model)
    x = victim.splits.test.x[:20]
    twice = watched.probabilities(np.concatenate([x, x]))
    assert (twice[:20] == twice[20:]).all()
    watched.probabilities(x)
    assert seen == [20]


@pytest.mark.parametrize("kind", TORCH)
def test_torch_victims_offer_features_and_count_parameters(kind, victim_of):
    victim = victim_of(kind)
    depths = victim.features(victim.splits.test.x[:7])
    assert {len(depth) for depth in depths} == {7}
    assert {depth.ndim for depth in depths} == {2}
    assert np.allclose(training.softmax(depths[-1]), victim.probabilities(victim.splits.test.x[:7]))
    assert victim.parameters > 1_000


def test_scikit_learns_victims_offer_none(victim_of):
    assert victim_of("tree").features is None
    assert victim_of("logistic").features is None


def test_victims_of_another_seed_or_architecture_are_other_victims(victim_of, context):
    prints = {victim_of(kind).fingerprint for kind in KINDS}
    prints.add(context.victim(VictimSpec("digits", "tree", 1)).fingerprint)
    assert len(prints) == len(KINDS) + 1


def test_training_a_victim_leaves_global_generators_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("MOATBENCH_CACHE", str(tmp_path))
    before = repr(np.random.get_state()), torch.get_rng_state()
    load("mlp")
    load("tree")
    assert before[0] == repr(np.random.get_state())
    assert torch.equal(before[1], torch.get_rng_state())


def test_a_missing_data_set_names_the_command_that_fetches_it(tmp_path):
    with pytest.raises(MissingDataError, match="moatbench data fetch mnist"):
        load_victim(VictimSpec("mnist", "mlp", 0), tmp_path)


# --- architectures


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("logistic", (1, 8, 8)),
        ("mlp", (3, 16, 16)),
        ("cnn", (1, 8, 8)),
        ("cnn", (3, 32, 32)),
        ("lenet", (1, 28, 28)),
        ("lenet", (3, 20, 24)),
        ("resnet18", (1, 8, 8)),
        ("resnet18", (3, 16, 16)),
    ],
)
def test_a_network_fits_its_images(name, shape):
    with torch_seed(0):
        network = networks.build(name, shape, 7).eval()
    x = np.random.default_rng(0).random((3, *shape), dtype=np.float32)
    logits = training.logits(network, x)
    assert logits.shape == (3, 7)
    assert logits.dtype == np.float32
    depths = training.activations(network, x)
    assert len(depths) == len(network.blocks)
    assert (depths[-1] == logits).all()


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 16), (3, 19, 19)])
def test_lenet_says_that_images_are_too_small(shape):
    with pytest.raises(UsageError, match=r"lenet needs inputs of 20×20 or more, got .*; use mlp or cnn"):
        networks.build("lenet", shape, 10)


def test_a_lenet_victim_on_digits_is_refused():
    with pytest.raises(UsageError, match="lenet needs inputs"):
        load("lenet")


# --- the cache


@pytest.mark.parametrize("kind", KINDS)
def test_a_kept_victim_is_not_trained_again(kind, victim_of, kept, monkeypatch):
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
    assert not path.read_bytes().startswith(b"\x80")
    assert {each.suffix for each in path.parent.iterdir()} <= {".safetensors", ".skops", ".sha256"}


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def void(path):
    path.write_bytes(b"")


def wrong_checksum(path):
    checksum_of(path).write_text("0" * 64)


def no_checksum(path):
    checksum_of(path).unlink()


def spoilt_checksum(path):
    checksum_of(path).write_bytes(b"\xff" * 64)


def garbage(path):
    seal(path, b"neither weights nor an archive")


@pytest.mark.parametrize("spoil", [flip, cut, void, wrong_checksum, no_checksum, spoilt_checksum, garbage])
@pytest.mark.parametrize("kind", ["mlp", "tree"])
def test_a_corrupt_victim_is_told_and_trained_again(kind, spoil, victim_of, kept, caplog):
    path = kept(kind)
    whole = path.read_bytes()
    spoil(path)
    with caplog.at_level(logging.WARNING, logger="bench.models.victims"):
        again = load(kind)
    assert "training it again" in caplog.text
    assert path.name in caplog.text
    assert again.fingerprint == victim_of(kind).fingerprint
    assert path.suffix == ".skops" or path.read_bytes() == whole
    caplog.clear()
    load(kind)
    assert not caplog.text


def test_weights_of_another_network_are_told_and_replaced(victim_of, kept, caplog):
    path = kept("mlp")
    with torch_seed(0):
        other = networks.build("logistic", (1, 8, 8), 10)
    seal(path, safetensors.torch.save(training.snapshot(other)))
    again = load("mlp")
    assert "does not fit its network; training it again" in caplog.text
    assert again.fingerprint == victim_of("mlp").fingerprint


class Stranger(BaseEstimator):
    """A class of which skops knows nothing."""


def test_types_that_nobody_vouched_for_are_not_loaded(victim_of, kept, caplog, monkeypatch):
    path = kept("tree")
    seal(path, skops.io.dumps(Stranger()))

    def never(*_, **__):
        raise AssertionError("loaded")

    monkeypatch.setattr(skops.io, "loads", never)
    again = load("tree")
    assert "holds types we do not trust (test_victims.Stranger); training it again" in caplog.text
    assert again.fingerprint == victim_of("tree").fingerprint


def test_a_model_of_another_class_is_told_and_replaced(victim_of, kept, caplog):
    path = kept("tree")
    seal(path, skops.io.dumps(KNeighborsClassifier()))
    again = load("tree")
    assert "holds another model; training it again" in caplog.text
    assert again.fingerprint == victim_of("tree").fingerprint


@pytest.mark.parametrize("kind", KINDS)
def test_a_victim_trained_on_another_day_is_the_same_victim(kind, victim_of, tmp_path, monkeypatch):
    if kind == "cnn":
        monkeypatch.setattr(victims, "victim_recipe", lambda _: training.TrainingSchedule(5))
    prints = []
    for day in ("one", "another"):
        monkeypatch.setenv("MOATBENCH_CACHE", str(tmp_path / day))
        prints.append(load(kind).fingerprint)
    assert prints[0] == prints[1]
    assert (prints[0] == victim_of(kind).fingerprint) == (kind != "cnn")


def test_victims_of_other_versions_are_trained_anew(kept, monkeypatch):
    path = kept("tree")
    before = len(list(path.parent.glob("*.skops")))
    monkeypatch.setattr(victims, "versions", lambda: {"scikit-learn": "another"})
    load("tree")
    assert len(list(path.parent.glob("*.skops"))) == before + 1


# --- the check of a victim's answers


def splits(width=3, n=30, shape=(1, 4, 4)):
    rng = np.random.default_rng(0)

    def part():
        return Labelled(rng.random((n, *shape), dtype=np.float32), rng.integers(0, width, n))

    return Splits(part(), part(), part(), part(), width)


def brought(model, **changes):
    return Victim(model=model, splits=replace(splits(), **changes), name="theirs")


def uniform(x):
    return np.full((len(x), 3), 1 / 3, dtype=np.float32)


def test_probabilities_pass_the_check():
    victim = brought(uniform)
    victim.check()
    assert len(victim.fingerprint) == 64


def nan(x):
    answers = uniform(x)
    answers[0, 1] = np.nan
    return answers


@pytest.mark.parametrize(
    ("model", "seen"),
    [
        (
            lambda x: uniform(x) * 10 - 4,
            r"smallest entry -0.6667, largest -0.6667, .*; these look like logits",
        ),
        (lambda x: uniform(x) * 2, r"smallest entry 0.6667, .* a row sums to 2; .* return softmax of them"),
        (
            lambda x: np.tile([1.5, -0.5, 0.0], (len(x), 1)),
            "smallest entry -0.5, largest 1.5, a row sums to 1;",
        ),
        (nan, "1 of 30 answers hold NaN or infinity"),
        (lambda x: uniform(x) / 0, "30 of 30 answers hold NaN or infinity"),
        (lambda x: uniform(x)[:, :2], r"expected shape \(30, 3\), got \(30, 2\)"),
        (lambda x: uniform(x)[:, 0], r"expected shape \(30, 3\), got \(30,\)"),
        (lambda x: uniform(x)[:1], r"expected shape \(30, 3\), got \(1, 3\)"),
    ],
)
def test_other_answers_are_refused_with_what_was_seen(model, seen):
    victim = brought(model)
    with (
        np.errstate(divide="ignore"),
        pytest.raises(VictimError, match=f"victim theirs does not return probabilities: {seen}"),
    ):
        victim.check()


@pytest.mark.parametrize(
    ("part", "wrong"),
    [
        ("pool", Labelled(np.zeros((5, 16), np.float32), np.zeros(5, np.int64))),
        ("train", Labelled(np.zeros((5, 1, 5, 5), np.float32), np.zeros(5, np.int64))),
        ("calibration", Labelled(np.zeros((5, 1, 4, 4), np.float32), np.zeros(4, np.int64))),
        ("test", Labelled(np.zeros((5, 16), np.float32), np.zeros(5, np.int64))),
    ],
)
def test_splits_that_do_not_fit_are_refused_by_name(part, wrong):
    with pytest.raises(VictimError, match=r"split .* must be .*channels, height, width"):
        brought(uniform, **{part: wrong}).check()


def test_a_fingerprint_depends_on_answers_and_on_every_split():
    other = splits(n=31)
    made = [
        brought(uniform),
        brought(lambda x: np.eye(3)[np.zeros(len(x), int)]),
        *(
            brought(uniform, **{name: getattr(other, name)})
            for name in ("train", "calibration", "pool", "test")
        ),
    ]
    for victim in made:
        victim.check()
    assert len({victim.fingerprint for victim in made}) == len(made)


# --- bring your own

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


def test_a_brought_victim_that_returns_logits_is_refused(here):
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


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("MOATBENCH_CACHE", str(tmp_path))
    assert cache_root() == tmp_path
    monkeypatch.delenv("MOATBENCH_CACHE")
    assert cache_root().name == "moatbench"


def test_a_victim_on_official_splits_is_another_one_and_says_so(context):
    spec = VictimSpec("digits", "logistic", 0, "official")
    victim = context.victim(spec)
    assert str(spec) == victim.name == "digits/logistic (official splits)"
    assert len(victim.splits.train.x) == 1_437
    assert victim.accuracy() >= victim.expected == EXPECTED_OFFICIAL["digits", "logistic"]
    assert victim.fingerprint != context.victim(VictimSpec("digits", "logistic")).fingerprint


def test_what_is_linear_says_so(victim_of):
    said = {kind: victim_of(kind).linear for kind in KINDS}
    assert said == {kind: kind == "logistic" for kind in KINDS}
