"""Models that users bring: functions, scikit-learn's estimators, ART classifiers, files without pickle."""

from __future__ import annotations

import hashlib
import inspect
import warnings
from collections.abc import Callable, Collection, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bench.errors import UsageError, nearest, one_line, shown, user_code
from bench.files import user_path
from bench.models.user_victims import named_object

Takes = Literal["array", "frame"]
KINDS = "FILE.py:NAME, package.module:NAME, or a .skops, .onnx or .pt2 file"
"""How a model is named."""
SAFE_TYPES = frozenset(
    {
        "numpy.dtype",
        "sklearn._loss.link.Interval",
        "sklearn._loss.link.LogitLink",
        "sklearn._loss.link.MultinomialLogit",
        "sklearn._loss.loss.HalfBinomialLoss",
        "sklearn._loss.loss.HalfMultinomialLoss",
        "sklearn.calibration._CalibratedClassifier",
        "sklearn.calibration._SigmoidCalibration",
        "sklearn.compose._column_transformer.make_column_selector",
        "sklearn.ensemble._hist_gradient_boosting.binning._BinMapper",
        "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
        "sklearn.gaussian_process._gpc._BinaryGaussianProcessClassifierLaplace",
        "sklearn.gaussian_process.kernels.ConstantKernel",
        "sklearn.gaussian_process.kernels.Product",
        "sklearn.gaussian_process.kernels.RBF",
        "sklearn.metrics._dist_metrics.EuclideanDistance64",
        "sklearn.neighbors._ball_tree.BallTree",
        "sklearn.neighbors._kd_tree.KDTree",
        "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
        "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
        "sklearn.preprocessing._label.LabelBinarizer",
        "sklearn.tree._tree.Tree",
        "sklearn.utils._bunch.Bunch",
    }
)
"""Types of scikit-learn's classifiers that skops does not list as safe; none runs code of the file's."""
CONVERT = {
    ".pkl": "skops.io.dump(model, 'model.skops')",
    ".pickle": "skops.io.dump(model, 'model.skops')",
    ".joblib": "skops.io.dump(model, 'model.skops')",
    ".pt": "torch.export.save(torch.export.export(model, (example,)), 'model.pt2')",
    ".pth": "torch.export.save(torch.export.export(model, (example,)), 'model.pt2')",
    ".h5": "tf2onnx, to 'model.onnx'",
    ".keras": "tf2onnx, to 'model.onnx'",
}
"""What to convert a file with that is not loaded, by its suffix."""
ENCRYPTED = ".enc"
"""Suffix of an encrypted model."""
DECRYPTED: ContextVar[Callable[[str, Path], tuple[str, bytes]] | None] = ContextVar("decrypted", default=None)
"""From name and path of an encrypted model to its suffix and bytes; None where none is expected."""


@dataclass(frozen=True)
class LoadedModel:
    """A model as it was loaded.

    ``predict``: from inputs, n rows, to whatever the model returns, as an array. ``takes``: what it wants: an
    array, or a data frame. ``decides``: whether that is known; of a function it may not be. ``form``:
    "function", "scikit-learn", "onnx", "torch.export" or "art". ``digest``: SHA-256 of its file, "" where
    it has none. ``classes``: the labels of its outputs, in their order; None if unknown. ``features``: names
    of the columns it expects; None if unknown. ``labels_only``: whether it returns no
    probabilities. ``found_classes``: returns the labels that answers have named so far.
    """

    predict: Callable[[Any], NDArray[Any]]
    takes: Takes = "array"
    form: str = "function"
    digest: str = ""
    classes: tuple[Any, ...] | None = None
    features: tuple[str, ...] | None = None
    labels_only: bool = False
    decides: bool = True
    found_classes: Callable[[], tuple[Any, ...] | None] | None = None

    def known_classes(self) -> tuple[Any, ...] | None:
        """Return ``classes``, or those that the answers so far have shown; None if unknown."""
        return self.found_classes() if self.classes is None and self.found_classes else self.classes


def load_model(text: str, *, folder: Path = Path(), trust: Collection[str] = ()) -> LoadedModel:
    """Return the model that ``text`` names, see :data:`KINDS`; paths are relative to ``folder``.

    ``trust``: types that a skops file may hold beyond those known to be safe. Raises UsageError, one sentence
    that says what to do.
    """
    path = folder / user_path(text)
    suffix = path.suffix.lower()
    if suffix in (".skops", ".onnx", ".pt2"):
        if not path.is_file():
            beside = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
            raise UsageError(
                f"no model file {shown(text)}" + (f"; {nearest(path.name, beside)}" if beside else "")
            )
        return load_content(text, suffix, path.read_bytes(), trust)
    if suffix == ENCRYPTED:
        if (opener := DECRYPTED.get()) is None:
            raise UsageError(
                f"{text}: an encrypted model can be served, by moatbench serve, with its name, version and "
                "key in the table [model] of --controls"
            )
        return load_content(text, *opener(text, path), trust)
    if suffix in CONVERT and ":" not in path.name:
        raise UsageError(
            f"{text}: such a file is never loaded, since loading it can run any code; convert it with "
            f"{CONVERT[suffix]}"
        )
    if ":" not in text:
        raise UsageError(f"model {shown(text)}: give {KINDS}")
    thing = named_object(text, folder, "model")
    if inspect.isfunction(thing) and not inspect.signature(thing).parameters:
        with user_code(f"model {text}"):
            thing = thing()  # it makes the model
    return model_of(thing, f"model {text}")


def load_content(text: str, suffix: str, content: bytes, trust: Collection[str] = ()) -> LoadedModel:
    """Return the model in the bytes of a file that ends in ``suffix``; see :func:`load_model`."""
    if not content:
        raise UsageError(f"{text}: the file is empty")
    if suffix == ".onnx":
        from bench.models.onnx_models import load_onnx

        return load_onnx(text, content)
    if suffix == ".pt2":
        from bench.models.exported_models import load_exported

        return load_exported(text, content)
    return _skops(text, content, trust)


def model_of(thing: Any, name: str) -> LoadedModel:
    """Return a model that is in memory: a function, an estimator of scikit-learn, or an ART classifier."""
    from art.estimators.estimator import BaseEstimator as ArtEstimator
    from sklearn.base import BaseEstimator

    if isinstance(thing, LoadedModel):
        return thing
    if inspect.isclass(thing):
        raise UsageError(f"{name} is a class; give a fitted model")
    if isinstance(thing, ArtEstimator):
        return LoadedModel(lambda x: np.asarray(thing.predict(x)), form="art")
    if isinstance(thing, BaseEstimator):
        return _estimator(thing, name)
    if _is_torch_module(thing):
        return LoadedModel(_torch_call(thing.eval()), form="function")
    if hasattr(thing, "predict_proba") or hasattr(thing, "predict"):
        return _estimator(thing, name, form="function")
    if not callable(thing):
        raise UsageError(
            f"{name} is {shown(thing)}; give a function from inputs to answers, or a fitted model"
        )
    takes, decides = _annotated(thing)
    return LoadedModel(lambda x: _as_array(thing(x)), takes, decides=decides)


def _estimator(estimator: Any, name: str, form: str = "scikit-learn") -> LoadedModel:
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    if form == "scikit-learn":
        if not hasattr(estimator, "predict"):
            raise UsageError(
                f"{name} is a {type(estimator).__name__}, which predicts nothing; give a classifier"
            )
        try:
            check_is_fitted(estimator)
        except NotFittedError as error:
            raise UsageError(f"{name} is not fitted; call its fit(…) before it is saved") from error
    classes = getattr(estimator, "classes_", None)
    if isinstance(classes, list):
        raise UsageError(f"{name} has several outputs; a classifier with one label an input is needed")
    has_probabilities = hasattr(estimator, "predict_proba")
    if form == "scikit-learn" and classes is None:
        raise UsageError(f"{name} is a {type(estimator).__name__}, which knows no classes; give a classifier")
    names = getattr(estimator, "feature_names_in_", None)
    features = None if names is None else tuple(map(str, names))
    answer = estimator.predict_proba if has_probabilities else estimator.predict
    return LoadedModel(
        lambda x: _as_array(answer(x)),
        "array" if features is None else "frame",
        form,
        classes=None if classes is None else tuple(np.asarray(classes).tolist()),
        features=features,
        labels_only=not has_probabilities,
        decides=features is not None or form == "scikit-learn",
    )


def _annotated(function: Any) -> tuple[Takes, bool]:
    """Return what a function takes, by the annotation of its first parameter, and whether that says it."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return "array", False
    kind = str(parameters[0].annotation) if parameters else ""
    if "DataFrame" in kind:
        return "frame", True
    return "array", "ndarray" in kind or "NDArray" in kind


def _as_array(answer: Any) -> NDArray[Any]:
    if hasattr(answer, "detach"):  # a tensor
        answer = answer.detach().cpu()
    if isinstance(answer, Sequence) and answer and isinstance(answer[0], dict):
        return np.array([list(each.values()) for each in answer])
    return np.asarray(answer)


def _is_torch_module(thing: Any) -> bool:
    from torch.nn import Module

    return isinstance(thing, Module)


def _torch_call(module: Any) -> Callable[[Any], NDArray[Any]]:
    def predict(x: Any) -> NDArray[Any]:
        import torch

        with torch.no_grad():
            return _as_array(module(torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))))

    return predict


def _skops(text: str, content: bytes, trust: Collection[str]) -> LoadedModel:
    import skops.io

    try:
        untrusted = set(skops.io.get_untrusted_types(data=content))
    except Exception as error:  # whatever a damaged archive raises
        raise UsageError(f"{text}: it is no skops file: {one_line(error)}") from error
    unknown = untrusted - SAFE_TYPES
    if odd := [each for each in trust if each not in unknown]:
        held = nearest(odd[0], unknown) if unknown else "none of its types needs to be trusted"
        raise UsageError(f"--trust {odd[0]}: {text} holds no such type; {held}")
    if left := sorted(unknown - set(trust)):
        options = " ".join(f"--trust {each}" for each in left[:8])
        raise UsageError(
            f"{text}: it holds types that are not known to be safe: {', '.join(left[:8])}; "
            f"if its maker is trusted, admit them with {options}"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # of another version of scikit-learn: below, as an error if it fails
            estimator = skops.io.loads(content, trusted=sorted(untrusted))
    except Exception as error:
        raise UsageError(
            f"{text}: it cannot be loaded: {one_line(error)}; "
            "save it with the installed versions of scikit-learn and skops"
        ) from error
    model = _estimator(estimator, text)
    return LoadedModel(**{**vars(model), "digest": hashlib.sha256(content).hexdigest()})
