"""Models from files and from code: what loads, what they take, and what is refused without running it."""

import pickle
import sys
import zipfile

import numpy as np
import pandas as pd
import pytest
import skops.io
import torch
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from bench.errors import UsageError
from bench.models.model_files import load_model

RNG = np.random.default_rng(0)
TABLE = pd.DataFrame({"age": RNG.integers(18, 90, 60), "home-town": RNG.choice(["Ghent", "Mons"], 60)})
TRUE = np.where(TABLE["age"] > 50, "old", "young")


def doubled(x):
    """Return x twice: code that a skops file refers to by name."""
    return 2 * x


DOUBLED = f"{doubled.__module__}.doubled"


def pipeline():
    columns = [("number", StandardScaler(), ["age"]), ("text", OneHotEncoder(), ["home-town"])]
    return make_pipeline(ColumnTransformer(columns), LogisticRegression()).fit(TABLE, TRUE)


def test_a_pipeline_in_a_skops_file_takes_a_data_frame(tmp_path):
    model = pipeline()
    skops.io.dump(model, tmp_path / "model.skops")
    loaded = load_model("model.skops", folder=tmp_path)
    assert (loaded.form, loaded.takes) == ("scikit-learn", "frame")
    assert loaded.classes == ("old", "young")
    assert loaded.features == ("age", "home-town")
    assert len(loaded.digest) == 64
    assert np.array_equal(loaded.predict(TABLE), model.predict_proba(TABLE))


def test_types_that_are_not_known_to_be_safe_are_listed_and_admitted_one_by_one(tmp_path):
    model = make_pipeline(FunctionTransformer(doubled), LogisticRegression())
    model.fit(RNG.random((20, 3)), np.arange(20) % 2)
    skops.io.dump(model, tmp_path / "odd.skops")
    with pytest.raises(UsageError, match=rf"not known to be safe: {DOUBLED}.*--trust {DOUBLED}"):
        load_model("odd.skops", folder=tmp_path)
    assert load_model("odd.skops", folder=tmp_path, trust=(DOUBLED,)).classes == (0, 1)
    with pytest.raises(UsageError, match=r"--trust \w+\.double: odd\.skops holds no such type; did you mean"):
        load_model("odd.skops", folder=tmp_path, trust=(DOUBLED[:-1],))


def onnx_file(path, model, types, **options):
    convert = pytest.importorskip("skl2onnx")
    path.write_bytes(convert.to_onnx(model, initial_types=types, options=options).SerializeToString())


@pytest.mark.parametrize("zipmap", [True, False])
def test_an_onnx_model_with_an_input_for_each_column_takes_a_data_frame(tmp_path, zipmap):
    types = pytest.importorskip("skl2onnx.common.data_types")
    inputs = [("age", types.Int64TensorType([None, 1])), ("home-town", types.StringTensorType([None, 1]))]
    onnx_file(tmp_path / "model.onnx", pipeline(), inputs, zipmap=zipmap)
    loaded = load_model("model.onnx", folder=tmp_path)
    assert (loaded.form, loaded.takes, loaded.labels_only) == ("onnx", "frame", False)
    assert loaded.features == ("age", "home_town")
    assert np.allclose(loaded.predict(TABLE), pipeline().predict_proba(TABLE), atol=1e-5)
    assert loaded.known_classes() == (("old", "young") if zipmap else None)


def test_an_onnx_model_with_one_input_takes_an_array(tmp_path):
    types = pytest.importorskip("skl2onnx.common.data_types")
    x, y = RNG.random((40, 3)), np.arange(40) % 3
    model = LogisticRegression().fit(x, y)
    onnx_file(tmp_path / "model.onnx", model, [("x", types.FloatTensorType([None, 3]))])
    loaded = load_model("model.onnx", folder=tmp_path)
    assert loaded.takes == "array"
    assert np.allclose(loaded.predict(x), model.predict_proba(x), atol=1e-5)
    assert loaded.known_classes() == (0, 1, 2)


def test_a_missing_extra_is_named_with_its_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    (tmp_path / "model.onnx").write_bytes(b"anything")
    with pytest.raises(UsageError, match=r"need onnxruntime: pip install 'moatbench\[onnx\]'"):
        load_model("model.onnx", folder=tmp_path)


def network():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(6, 3), torch.nn.Softmax(dim=1)).eval()


def exported(path, net):
    shapes = ({0: torch.export.Dim("batch")},)
    torch.export.save(torch.export.export(net, (torch.zeros(4, 2, 3),), dynamic_shapes=shapes), path)


def test_an_exported_program_of_torch_answers_as_the_module(tmp_path):
    net, x = network(), RNG.random((5, 2, 3), dtype=np.float32)
    exported(tmp_path / "net.pt2", net)
    loaded = load_model("net.pt2", folder=tmp_path)
    assert (loaded.form, loaded.takes) == ("torch.export", "array")
    assert np.allclose(loaded.predict(x), net(torch.from_numpy(x)).detach().numpy())


class Trap:
    """Fails the test that unpickles it."""

    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_is_no_exported_program_is_refused_with_how_to_export(tmp_path):
    torch.save(network(), tmp_path / "pickled.pt2")
    torch.jit.save(torch.jit.trace(network(), torch.zeros(1, 2, 3)), tmp_path / "script.pt2")
    (tmp_path / "text.pt2").write_text("no archive")
    for name, message in (("pickled", "pickled module"), ("script", "TorchScript"), ("text", "no archive")):
        with pytest.raises(UsageError, match=rf"{name}.pt2: .*{message}.*torch.export.save"):
            load_model(f"{name}.pt2", folder=tmp_path)


def test_a_pickle_inside_an_exported_program_is_not_loaded(tmp_path):
    exported(tmp_path / "net.pt2", network())
    with (
        zipfile.ZipFile(tmp_path / "net.pt2") as before,
        zipfile.ZipFile(tmp_path / "trap.pt2", "w") as after,
    ):
        for name in before.namelist():
            inputs = name.endswith("sample_inputs/model.pt")
            after.writestr(name, pickle.dumps(Trap()) if inputs else before.read(name))
    with pytest.raises(UsageError, match=r"trap.pt2: it cannot be loaded"):
        load_model("trap.pt2", folder=tmp_path)


@pytest.mark.parametrize("name", ["model.pkl", "model.joblib", "model.pt", "model.pth"])
def test_pickled_files_are_never_loaded(tmp_path, name):
    (tmp_path / name).write_bytes(pickle.dumps(Trap()))
    with pytest.raises(
        UsageError, match=r"never loaded.*convert it with (skops\.io\.dump|torch\.export\.save)"
    ):
        load_model(name, folder=tmp_path)


CODE = """
import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression

x = np.random.default_rng(0).random((20, 3))
fitted = LogisticRegression().fit(x, np.arange(20) % 2)
unfitted = LogisticRegression()
number = 3

def function(x):
    return np.full((len(x), 2), 0.5)

def on_frames(table: pd.DataFrame):
    return np.full(len(table), 0.5)

def make():
    return fitted

def broken():
    return 1 / 0

def ends():
    raise SystemExit(0)

def as_tensor(x):
    import torch
    return torch.zeros(len(x), 2, requires_grad=True)
"""


def test_models_are_found_by_file_and_name(tmp_path):
    (tmp_path / "mine.py").write_text(CODE)
    assert load_model("mine.py:fitted", folder=tmp_path).form == "scikit-learn"
    assert load_model("mine.py:make", folder=tmp_path).classes == (0, 1)
    assert load_model("mine.py:function", folder=tmp_path).form == "function"
    assert load_model("mine.py:on_frames", folder=tmp_path).takes == "frame"
    assert load_model("mine.py:as_tensor", folder=tmp_path).predict(np.zeros((3, 2))).shape == (3, 2)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mine.py:unfitted", "is not fitted; call its fit"),
        ("mine.py:number", "is 3; give a function from inputs to answers, or a fitted model"),
        ("mine.py:nothing", "has no 'nothing'"),
        ("mine.py:broken", "line 21: ZeroDivisionError"),
        ("mine.py:ends", r"line 24: it ends the program by sys.exit\(0\)"),
        ("other.py:model", "no Python file"),
        ("model.skops", "no model file 'model.skops'"),
        ("model", r"give FILE.py:NAME, package.module:NAME, or a .skops, .onnx or .pt2 file"),
    ],
)
def test_a_model_that_is_none_is_refused_in_one_sentence(tmp_path, name, message):
    (tmp_path / "mine.py").write_text(CODE)
    with pytest.raises(UsageError, match=message) as caught:
        load_model(name, folder=tmp_path)
    assert "\n" not in str(caught.value)


def test_a_regression_is_no_classifier(tmp_path):
    skops.io.dump(LinearRegression().fit(RNG.random((9, 2)), np.arange(9)), tmp_path / "line.skops")
    with pytest.raises(UsageError, match="is a LinearRegression, which knows no classes; give a classifier"):
        load_model("line.skops", folder=tmp_path)
