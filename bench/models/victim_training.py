"""Training of the shipped victims, and the cache that keeps them between runs.

The cache holds networks as safetensors and scikit-learn models as skops, in checked files.
Nothing in it is unpickled. A corrupt or unsuitable file is reported, and the victim is trained again.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import safetensors.torch
import skops.io
import torch
from art.estimators.classification import SklearnClassifier
from numpy.typing import NDArray
from safetensors import SafetensorError

from bench import keys
from bench.data.datasets import Splits
from bench.encoding import Encoding
from bench.files import cache_root, read_checked, write_checked
from bench.models import networks, training
from bench.models.determinism import NUMERICAL_RULES, on_device, torch_seed, versions
from bench.seeds import derive
from bench.sources import code
from bench.tasks import VictimSpec

log = logging.getLogger(__name__)
Images = NDArray[np.float32]
Predict = Callable[[Images], Any]
Features = Callable[[Images], Sequence[NDArray[np.float32]]]
PerturbModel = Callable[[float, int], Predict]

SKLEARN_ARCHITECTURES = ("logistic", "tree", "forest", "boosting")
"""Architectures that scikit-learn trains; torch trains all others."""
SKOPS_TRUSTED = {
    "sklearn.tree._tree.Tree",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "numpy.dtype",
}
"""Types that a cached scikit-learn victim may contain beyond skops' own defaults."""


@dataclass(frozen=True)
class TrainedModel:
    """A trained model with the fields that a :class:`bench.models.victims.Victim` takes from it.

    Its inputs are those of the victim; models of tables encode them by what the training split holds.

    ``perturb(scale, seed)`` returns a copy of the model with noise on its parameters. ``fingerprint`` is
    empty where the victim's answers have to give one. ``recipe``: how it is trained, as text: no version of
    a package and no digest of code, so that it is the same on every machine.
    """

    model: Predict
    features: Features | None = None
    parameters: int | None = None
    linear: bool | None = None
    tree: bool | None = None
    perturb: PerturbModel | None = None
    fingerprint: str = ""
    recipe: str = ""


def trained_model(spec: VictimSpec, splits: Splits) -> TrainedModel:
    """Return the victim's model: from the cache, or trained now on ``splits.train`` and then cached."""
    if spec.architecture in SKLEARN_ARCHITECTURES:
        return _trained_estimator(spec, splits)
    return _trained_network(spec, splits)


def retrained_model(spec: VictimSpec, splits: Splits, number: int) -> TrainedModel:
    """Return the model that the same recipe gives with other rounding errors, trained now and not cached.

    ``number``: which of them. Everything is as in :func:`trained_model`, but initial weights differ by a
    factor of 1 + 1e-6 z, z normal. Another instruction set adds in another order, which moves sums by some
    1e-7 of themselves in every step of single precision; training enlarges both alike. Models of a library,
    in double precision, get inputs that differ by 1e-12.
    """
    rng = np.random.default_rng(derive(spec.seed, "other rounding", spec.data, spec.architecture, number))
    if spec.architecture in SKLEARN_ARCHITECTURES:
        encoding = _encoding(splits)
        model, x = _untrained_estimator(spec, splits), encoding.flat(splits.train.x)
        fitted = _fitted(model, x * (1 + 1e-12 * rng.normal(size=x.shape)), splits)
        return _of_estimator(spec, fitted, encoding)
    schedule, seed, network = _untrained_network(spec, splits)
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(torch.from_numpy(1 + 1e-6 * rng.normal(size=weight.shape)).to(weight.dtype))
    _train(network, splits, schedule, seed)
    network.eval()
    return _of_network(network, _encoding(splits))


def victim_schedule(n: int) -> training.TrainingSchedule:
    """Return the schedule of a torch victim with ``n`` training inputs: 60 epochs below 5,000, else 12."""
    small = n < 5_000
    passes = 60 if small else 12
    return training.TrainingSchedule(
        training.epochs(n, 64, passes), learning_rate=1e-3 if small else 2e-3, weight_decay=1e-5
    )


def _untrained_network(
    spec: VictimSpec, splits: Splits
) -> tuple[training.TrainingSchedule, int, networks.Network]:
    """Return the schedule and the seed of a victim's training, and its network with initial weights."""
    seed = derive(spec.seed, "victim", spec.data, spec.architecture)
    with torch_seed(seed):
        network = networks.build(spec.architecture, _encoding(splits).shape, splits.classes)
    return victim_schedule(len(splits.train.x)), seed, network


def _train(
    network: networks.Network, splits: Splits, schedule: training.TrainingSchedule, seed: int
) -> training.Weights:
    targets = np.eye(splits.classes, dtype=np.float32)[splits.train.y]
    with torch_seed(seed), on_device("cpu"):
        return training.train(network, _encoding(splits)(splits.train.x), targets, schedule, seed)[1]


def _trained_network(spec: VictimSpec, splits: Splits) -> TrainedModel:
    schedule, seed, network = _untrained_network(spec, splits)
    path = _cache_path(spec, splits, str(schedule), ".safetensors")
    identity = _identity(spec, splits, str(schedule), ".safetensors")
    content = read_checked(path, "training it again")
    if content is not None:
        try:
            network.load_state_dict(safetensors.torch.load(content))
        except (SafetensorError, RuntimeError):
            log.warning("cached victim %s does not fit its network; training it again", path.name)
            content = None
    if content is None:
        log.info("training victim %s (%s)", spec, schedule)
        content = safetensors.torch.save(_train(network, splits, schedule, seed))
        write_checked(path, content)
    network.eval()
    return replace(
        _of_network(network, _encoding(splits)),
        fingerprint=hashlib.sha256(content + identity.encode()).hexdigest(),
        recipe=_recipe(spec, splits, str(schedule)),
    )


def _encoding(splits: Splits) -> Encoding:
    """Return the encoding of a victim's inputs: of tables, fitted on the training split; else none."""
    return Encoding.fit(splits.inputs, splits.train.x)


def _of_network(network: networks.Network, encoding: Encoding) -> TrainedModel:
    """Return a trained network as a victim's model."""

    def perturb(scale: float, seed: int) -> Predict:
        rng, noisy = np.random.default_rng(seed), copy.deepcopy(network)
        with torch.no_grad():
            for weight in noisy.parameters():
                weight.copy_(torch.from_numpy(_with_noise(weight.numpy(), scale, rng)))
        return lambda x: training.softmax(training.logits(noisy, encoding(x)))

    return TrainedModel(
        model=lambda x: training.softmax(training.logits(network, encoding(x))),
        features=lambda x: training.activations(network, encoding(x)),
        parameters=sum(weight.numel() for weight in network.parameters()),
        linear=False,
        tree=False,
        perturb=perturb,
    )


def _trained_estimator(spec: VictimSpec, splits: Splits) -> TrainedModel:
    model, encoding = _untrained_estimator(spec, splits), _encoding(splits)
    schedule = repr(model)
    path = _cache_path(spec, splits, schedule, ".skops")
    cached = _read_sklearn(path, model)
    if cached is None:
        log.info("training victim %s (%s)", spec, model)
        write_checked(path, skops.io.dumps(_fitted(model, encoding.flat(splits.train.x), splits)))
    trained = _of_estimator(spec, model if cached is None else cached, encoding)
    return replace(trained, recipe=_recipe(spec, splits, schedule))


def _untrained_estimator(spec: VictimSpec, splits: Splits) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.tree import DecisionTreeClassifier

    if spec.architecture == "logistic":
        return LogisticRegression(max_iter=300)
    seed = derive(spec.seed, spec.architecture) % 2**31
    if spec.architecture == "forest":
        return RandomForestClassifier(50, min_samples_leaf=5, random_state=seed)
    if spec.architecture == "boosting":
        return HistGradientBoostingClassifier(max_iter=50, random_state=seed)
    if splits.inputs.layout == "table":
        # A model that people sell: deeper trees are worse, and few of their leaves have answers of their own.
        return DecisionTreeClassifier(min_samples_leaf=20, max_leaf_nodes=64, random_state=seed)
    return DecisionTreeClassifier(min_samples_leaf=2, random_state=seed)


def _fitted(model: Any, x: NDArray[np.float64], splits: Splits) -> Any:
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        # A victim stopped at max_iter is a victim like any other; its accuracy is checked.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(x, splits.train.y)


def _of_estimator(spec: VictimSpec, model: Any, encoding: Encoding) -> TrainedModel:
    """Return a fitted model of scikit-learn as a victim's model."""

    def predictor(fitted: Any) -> Predict:
        classifier = SklearnClassifier(fitted)
        return lambda x: classifier.predict(encoding.flat(x))

    def perturb(scale: float, seed: int) -> Predict:
        rng, noisy = np.random.default_rng(seed), copy.deepcopy(model)
        noisy.coef_ = _with_noise(noisy.coef_, scale, rng)
        noisy.intercept_ = _with_noise(noisy.intercept_, scale, rng)
        return predictor(noisy)

    # No fingerprint from the file, which holds times and addresses; the check takes one from the answers.
    linear = spec.architecture == "logistic"
    return TrainedModel(
        predictor(model),
        linear=linear,
        tree=spec.architecture == "tree",
        perturb=perturb if linear else None,
    )


def _with_noise(tensor: NDArray[Any], scale: float, rng: np.random.Generator) -> NDArray[Any]:
    """Return the tensor with normal noise of ``scale`` times its standard deviation."""
    noise = scale * tensor.std() * rng.normal(size=tensor.shape)
    noisy: NDArray[Any] = tensor + noise.astype(tensor.dtype)
    return noisy


def _recipe(spec: VictimSpec, splits: Splits, schedule: str) -> str:
    """Return how a victim is trained, as text: its architecture, data set, splits, seed and schedule."""
    sizes = "/".join(str(len(getattr(splits, part))) for part in ("train", "calibration", "pool", "test"))
    splits_of = f"official splits {sizes}" if spec.splits == "official" else f"splits {sizes}"
    return f"{spec.architecture} on {spec.data}, {splits_of}, seed {spec.seed}; {schedule}"


def _identity(spec: VictimSpec, splits: Splits, schedule: str, suffix: str) -> str:
    """Return the name of a trained network that its fingerprint has contained since the first version."""
    names = ("adversarial-robustness-toolbox", "torch", "numpy", "scikit-learn")
    packages = {name: versions()[name] for name in names}
    key = derive(spec.data, spec.architecture, spec.seed, schedule, splits.train.digest, json.dumps(packages))
    return f"{spec.data}-{spec.architecture}-{key:016x}{suffix}"


def _cache_path(spec: VictimSpec, splits: Splits, schedule: str, suffix: str) -> Path:
    """Return the victim's file; its name depends on everything that the training depends on."""
    ingredients = {
        "spec": spec.fields() | {"architecture": spec.architecture},
        "schedule": schedule,
        "data": splits.train.digest,
        "code": _code(),
        "numerical rules": NUMERICAL_RULES,
        **keys.versions_of({name: version for name, version in versions().items() if name != "moatbench"}),
    }
    key = keys.compose("victim", ingredients)[:32]
    return cache_root() / "victims" / f"{spec.data}-{spec.architecture}-{key}{suffix}"


@cache
def _code() -> str:
    """Return a digest of the code that trains victims; its data are an ingredient of their own."""
    return code(__name__, without=("bench.data",)).digest()


def _read_sklearn(path: Path, expected: Any) -> Any:
    """Return the cached model if there is one, of the class of ``expected`` and of trusted types alone."""
    content = read_checked(path, "training it again")
    if content is None:
        return None
    try:
        unknown = set(skops.io.get_untrusted_types(data=content)) - SKOPS_TRUSTED
        if not unknown:
            model = skops.io.loads(content, trusted=sorted(SKOPS_TRUSTED))
            if type(model) is type(expected):
                return model
        problem = f"types we do not trust ({', '.join(sorted(unknown))})" if unknown else "another model"
    except (BadZipFile, KeyError, ValueError):
        problem = "no model"
    log.warning("cached victim %s holds %s; training it again", path.name, problem)
    return None
