"""Victims that users bring, by file or by dotted path."""

import sys
from textwrap import dedent

import numpy as np
import pytest
from in_process import moatbench

from bench.data.datasets import Labelled, Splits
from bench.errors import UsageError, VictimError
from bench.models.determinism import torch_seed
from bench.models.user_victims import check_splits
from bench.models.victims import load_victim
from bench.plugins import load_file
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

def noisy():
    def perturb(scale, seed):
        return lambda x: np.full((len(x), 3), scale)
    return Victim(model, splits, perturb=perturb)

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

def stated():
    return Victim(model, splits, fingerprint="v1")

def module():
    import torch
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3)), splits

def module_in_victim():
    return Victim(module()[0], splits)

def classifier():
    from sklearn.linear_model import LogisticRegression
    train = splits.train
    return LogisticRegression().fit(train.x.reshape(len(train.x), -1), train.y), splits

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


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("module", "got a torch Module; return a function from images to probabilities"),
        ("module_in_victim", "got a torch Module; return a function from images to probabilities"),
        ("classifier", "got a scikit-learn classifier; return its predict_proba on flattened images"),
    ],
)
def test_a_model_that_takes_no_images_is_told_what_to_return(name, said, here):
    (here / "mine.py").write_text(dedent(THEIRS))
    with pytest.raises(UsageError, match=f"^--victim mine.py:{name}: {said}$"):
        bring(f"mine.py:{name}")


def test_a_stated_fingerprint_does_not_hide_another_model(here):
    texts = [
        THEIRS,
        THEIRS.replace("1 / 3)", "1 / 3) + [[0.1, 0, -0.1]]"),
        THEIRS.replace("default_rng(0)", "default_rng(1)"),
        THEIRS.replace('"v1"', '"v2"'),
    ]
    prints = []
    for text in [*texts, THEIRS]:
        (here / "mine.py").write_text(dedent(text))
        prints.append(bring("mine.py:stated").fingerprint)
    assert len(set(prints)) == len(texts)
    assert prints[0] == prints[-1]


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


FAULTS = {
    "a syntax error": ("def make(:\n", "mine.py, line 1: SyntaxError"),
    "a missing module": (
        "import nothing_like_it\n",
        "mine.py, line 1: ModuleNotFoundError: No module named 'nothing_l",
    ),
    "an end of the program": (
        "import sys\nsys.exit(0)\n",
        r"mine.py, line 2: it ends the program by sys.exit\(0\)",
    ),
    "a factory that raises": ("def make():\n    return 1 / 0\n", "mine.py:make, line 2: ZeroDivisionError"),
    "one that ends the program": (
        "def make():\n    raise SystemExit\n",
        r"mine.py:make, line 2: .*sys.exit\(None\)",
    ),
    "one with arguments": ("def make(a):\n    ...\n", r"mine.py:make: TypeError: make\(\) missing 1"),
    "one that is no function": ("make = 3\n", "make is no function but 3"),
    "a model that raises": (
        THEIRS + "\ndef make():\n    return (lambda x: 1 / 0), splits\n",
        "failed in predict: ZeroDivisionError",
    ),
    "a model that ends the program": (
        THEIRS + "\nimport sys\ndef make():\n    return (lambda x: sys.exit(0)), splits\n",
        "end the program in predict",
    ),
    "features that are no function": (
        THEIRS + "\ndef make():\n    return model, splits, 3\n",
        "features is no function but 3",
    ),
    "a victim without splits": (
        THEIRS + "\ndef make():\n    return Victim(model, None)\n",
        "splits is NoneType; a moatbench.S",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_victim_that_cannot_be_loaded_is_named_with_file_line_and_error(here, fault):
    text, message = FAULTS[fault]
    (here / "mine.py").write_text(dedent(text))
    with pytest.raises((UsageError, VictimError), match=message) as raised:
        bring("mine.py:make")
    assert "mine.py" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_an_error_in_a_module_by_its_dotted_name_is_named_too(here):
    (here / "theirs_broken.py").write_text("import nothing_like_it\n")
    with pytest.raises(UsageError, match=r"theirs_broken.py, line 1: ModuleNotFoundError: .*nothing_like_it"):
        bring("theirs_broken:make")


@pytest.mark.parametrize("fault", ["a syntax error", "a factory that raises", "one that ends the program"])
def test_the_command_ends_with_2_and_one_sentence(here, fault):
    (here / "mine.py").write_text(FAULTS[fault][0])
    code, text = moatbench(here, "run", "smoke", "--victim", "mine.py:make", "--jobs", "1")
    assert code == 2
    assert "mine.py" in text.splitlines()[-1]
    assert "Traceback" not in text


def split(n=20, classes=3, **other):
    rng = np.random.default_rng(0)
    part = {"x": rng.random((n, 1, 4, 4), dtype=np.float32), "y": rng.integers(0, classes, n)} | other
    return Labelled(part["x"], part["y"])


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (np.zeros(3), r"splits.pool is float64 \(3,\); a moatbench.Labelled is allowed"),
        (split(0), r"splits.pool.x is float32 \(0, 1, 4, 4\); a float32 array .* not empty is allowed"),
        (
            split(x=np.zeros((20, 16), np.float32)),
            r"splits.pool.x is float32 \(20, 16\); the shape of the test inputs, \(1, 4, 4\), is allowed",
        ),
        (
            split(x=np.zeros((20, 1, 1, 4, 4), np.float32)),
            r"splits.pool.x is float32 \(20, 1, 1, 4, 4\); .*channels, height, width",
        ),
        (split(x=np.zeros((20, 1, 4, 4))), r"splits.pool.x is float64 \(20, 1, 4, 4\); a float32 array"),
        (split(x=[[1]]), "splits.pool.x is list; a float32 array"),
        (
            split(x=np.full((20, 1, 4, 4), 255, np.float32)),
            r"splits.pool.x is from 255 to 255; \[0, 1\] without NaN",
        ),
        (split(x=np.full((20, 1, 4, 4), np.nan, np.float32)), r"splits.pool.x is from nan to nan; \[0, 1\]"),
        (
            split(x=np.zeros((20, 1, 5, 5), np.float32)),
            r"splits.pool.x .*the shape of the test inputs, \(1, 4, 4\)",
        ),
        (split(y=np.zeros(19, int)), r"splits.pool.y is int64 \(19,\); an integer array \(20,\)"),
        (split(y=np.zeros(20)), r"splits.pool.y is float64 \(20,\); an integer array"),
        (split(y=np.full(20, 3)), r"splits.pool.y is from 3 to 3; \[0, 2\] is allowed"),
        (split(y=np.full(20, -1)), r"splits.pool.y is from -1 to -1; \[0, 2\]"),
    ],
)
def test_splits_that_would_fail_in_a_cell_are_refused_when_they_are_loaded(part, message):
    check_splits(Splits(split(), split(), split(), split(), 3), "mine.py:make")
    with pytest.raises(UsageError, match=f"--victim mine.py:make: {message}"):
        check_splits(Splits(split(), split(), part, split(), 3), "mine.py:make")


@pytest.mark.parametrize("classes", [1, 0, 2.0, "3", True, None])
def test_a_number_of_classes_is_an_integer_of_two_or_more(classes):
    with pytest.raises(UsageError, match=r"splits.classes is .*; an integer of 2 or more is allowed"):
        check_splits(Splits(split(), split(), split(), split(), classes), "mine.py:make")


def test_a_users_perturbed_victim_is_checked_as_the_victim_is(here):
    (here / "mine.py").write_text(dedent(THEIRS))
    victim = bring("mine.py:noisy")
    x = victim.splits.test.x
    assert victim.perturb(1 / 3, 0)(x).shape == (20, 3)
    with pytest.raises(VictimError, match=r"victim mine.py:noisy with noise does not return probabilities"):
        victim.perturb(7, 0)(x)


def test_the_splits_of_a_victim_are_not_those_that_its_module_keeps(here):
    (here / "mine.py").write_text(dedent(THEIRS))
    victim = bring("mine.py:factory")
    theirs = load_file(here / "mine.py").splits
    before = victim.splits.test.x.copy()
    for part in ("train", "calibration", "pool", "test"):
        getattr(theirs, part).x[...] = 0
        getattr(theirs, part).y[...] = 0
    assert (victim.splits.test.x == before).all()
    assert victim.splits.train.y.any()
