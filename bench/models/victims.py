"""Victims: models under attack with their data splits, trained once and cached, or brought by the user."""

from __future__ import annotations

import copy
import hashlib
import importlib
import importlib.util
import json
import logging
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
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

from bench.data.datasets import Labelled, Splits, info, load_splits
from bench.errors import UsageError, VictimError
from bench.files import cache_root, write_atomically
from bench.models import networks, training
from bench.models.determinism import CHUNK, in_chunks, on, single_thread, torch_seed, versions
from bench.models.prediction_cache import Lookup
from bench.plugins import load_file
from bench.seeds import derive
from bench.tasks import VictimSpec

log = logging.getLogger(__name__)
Images = NDArray[np.float32]
Array = NDArray[np.float64]
Predict = Callable[[Images], Any]
Features = Callable[[Images], Sequence[NDArray[np.float32]]]

REMEMBERED = 64 * 2**20
"""Bytes of a victim's answers to remember, and of its features."""
SKOPS_TRUSTED = {"sklearn.tree._tree.Tree", "numpy.dtype"}
"""Types that a cached scikit-learn victim may contain beyond skops' own defaults."""
OURS = {"bench", "attacks", "defenses", "moatbench"}

EXPECTED = {
    ("digits", "mlp"): 0.94,
    ("digits", "cnn"): 0.95,
    ("digits", "logistic"): 0.93,
    ("digits", "tree"): 0.75,
    ("mnist", "mlp"): 0.97,
    ("mnist", "lenet"): 0.985,
    ("mnist", "cnn"): 0.992,
    ("fashion-mnist", "mlp"): 0.87,
    ("fashion-mnist", "mlp128"): 0.87,
    ("fashion-mnist", "lenet"): 0.87,
    ("fashion-mnist", "cnn"): 0.90,
}
"""Test accuracy that a well-trained victim reaches, in [0, 1]; below it, something went wrong."""
EXPECTED_OFFICIAL = {
    ("digits", "logistic"): 0.965,
    ("mnist", "lenet"): 0.99,
    ("fashion-mnist", "mlp128"): 0.88,
}
"""The same for victims trained on the whole official training split."""


@dataclass
class Victim:
    """A model that returns probabilities, with its splits.

    ``model``: callable from (n, channels, height, width) float32 to (n, classes) probabilities, or
    any ART classifier. ``features``: optional; returns activations at several depths, each (n, d)
    float32, shallow to deep, the logits last. ``linear``: whether its log-odds are linear in the
    input; None where nobody knows. ``perturb(scale, seed)``: optional; returns the probabilities of a
    copy with normal noise on its parameters, of ``scale`` times each tensor's own standard deviation.
    Raises VictimError from :meth:`check` if the model's answers are not probabilities.
    """

    model: Any
    splits: Splits
    features: Features | None = None
    name: str = "victim"
    expected: float | None = None
    parameters: int | None = None
    linear: bool | None = None
    perturb: Callable[[float, int], Callable[[Images], Array]] | None = None
    fingerprint: str = ""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one input."""
        channels, height, width = self.splits.test.x.shape[1:]
        return channels, height, width

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.splits.classes

    def probabilities(self, x: Images) -> Array:
        """Return (n, classes) float64 probabilities; an input that was asked about lately is looked up."""
        return np.asarray(self._answers(x)[0], dtype=np.float64) if len(x) else np.empty((0, self.classes))

    def activations(self, x: Images) -> Sequence[NDArray[np.float32]]:
        """Return what ``features`` does; rows of a short batch that were read lately are looked up."""
        return self._depths(x) if 0 < len(x) < CHUNK else self._read(x)

    def expect(self, x: Images) -> None:
        """Say that rows of ``x`` (n, …) will be asked about, one by one perhaps; asks nothing yet."""
        self._answers.expect(x)
        self._depths.expect(x)

    @cached_property
    def _answers(self) -> Lookup:
        return Lookup(lambda x: (self._evaluate(x),), REMEMBERED)

    @cached_property
    def _depths(self) -> Lookup:
        return Lookup(self._read, REMEMBERED)

    def _read(self, x: Images) -> Sequence[NDArray[np.float32]]:
        if self.features is None:
            raise VictimError(f"victim {self.name} offers no features")
        return self.features(x)

    def _evaluate(self, x: Images) -> Array:
        def call(rows: Images) -> tuple[NDArray[Any], ...]:
            answer = self.model.predict(rows) if hasattr(self.model, "predict") else self.model(rows)
            return (np.asarray(answer),)

        answers = in_chunks(call, x)[0]
        problem = self._problem(answers, len(x))
        if problem:
            raise VictimError(f"victim {self.name} does not return probabilities: {problem}")
        return answers.astype(np.float64)

    def _problem(self, answers: NDArray[Any], n: int) -> str:
        if answers.shape != (n, self.classes):
            return f"expected shape ({n}, {self.classes}), got {answers.shape}"
        if not np.isfinite(answers).all():
            return f"{int((~np.isfinite(answers)).any(axis=1).sum())} of {n} answers hold NaN or infinity"
        sums = answers.sum(axis=1, dtype=np.float64)
        worst = int(np.abs(sums - 1).argmax())
        if answers.min() < -1e-6 or abs(sums[worst] - 1) > 1e-3:
            return (
                f"smallest entry {answers.min():.4g}, largest {answers.max():.4g}, a row sums to "
                f"{sums[worst]:.4g}; these look like logits, return softmax of them"
            )
        return ""

    def check(self) -> None:
        """Ask for the test split once, so that a bad model is refused before any cell runs."""
        splits = self.splits
        for name in ("train", "calibration", "pool", "test"):
            part: Labelled = getattr(splits, name)
            if part.x.ndim != 4 or part.x.shape[1:] != splits.test.x.shape[1:] or len(part.x) != len(part.y):
                raise VictimError(
                    f"victim {self.name}: split {name} must be (n, channels, height, width) with n labels, "
                    f"got {part.x.shape} and {part.y.shape}"
                )
        answers = self.probabilities(splits.test.x)
        if not self.fingerprint:
            h = hashlib.sha256(answers.tobytes())
            for name in ("train", "calibration", "pool", "test"):
                part = getattr(splits, name)
                h.update(np.ascontiguousarray(part.x).data)
                h.update(np.ascontiguousarray(part.y).data)
            self.fingerprint = h.hexdigest()

    def accuracy(self) -> float:
        """Return the share of test inputs whose top-1 is the true label."""
        test = self.splits.test
        return float((self.probabilities(test.x).argmax(axis=1) == test.y).mean())


def load_victim(spec: VictimSpec, data_root: Path) -> Victim:
    """Return the victim: brought by the user, from the cache, or trained now (and then cached).

    Raises VictimError, UsageError or MissingDataError, each one sentence.
    """
    with single_thread():
        if spec.is_reference:
            victim = _load_reference(spec.data)
        else:
            official = spec.splits == "official"
            splits = load_splits(spec.data, spec.seed, data_root, official=official)
            keep = _keep_sklearn if spec.architecture in ("logistic", "tree") else _keep_torch
            victim = keep(spec, splits)
            victim.name = str(spec)
            expected = EXPECTED_OFFICIAL if official else EXPECTED
            victim.expected = expected.get((spec.data, spec.architecture))
        victim.check()
    return victim


def victim_recipe(n: int) -> training.TrainingSchedule:
    """Return how a torch victim is trained: enough epochs to be a model worth stealing."""
    small = n < 5_000
    passes = 60 if small else 12
    return training.TrainingSchedule(
        training.epochs(n, 64, passes), learning_rate=1e-3 if small else 2e-3, weight_decay=1e-5
    )


def _cache_path(spec: VictimSpec, splits: Splits, recipe: str, suffix: str) -> Path:
    kept = {name: value for name, value in versions().items() if name != "moatbench"}
    key = derive(spec.data, spec.architecture, spec.seed, recipe, splits.train.digest, json.dumps(kept))
    return cache_root() / "victims" / f"{spec.data}-{spec.architecture}-{key:016x}{suffix}"


def _write(path: Path, content: bytes) -> str:
    """Write file and checksum so that a reader never sees half of either; return the checksum."""
    digest = hashlib.sha256(content).hexdigest()
    write_atomically(path, content)
    write_atomically(path.with_suffix(path.suffix + ".sha256"), digest)
    return digest


def _read(path: Path) -> bytes | None:
    """Return the cached bytes, or None where there are none or their checksum is wrong."""
    if not path.exists():
        return None
    content = path.read_bytes()
    checksum = path.with_suffix(path.suffix + ".sha256")
    if checksum.exists() and checksum.read_bytes().strip() == hashlib.sha256(content).hexdigest().encode():
        return content
    log.warning("cached victim %s is corrupt; training it again", path.name)
    return None


def _keep_torch(spec: VictimSpec, splits: Splits) -> Victim:
    shape = info(spec.data).shape
    recipe = victim_recipe(len(splits.train.x))
    path = _cache_path(spec, splits, str(recipe), ".safetensors")
    seed = derive(spec.seed, "victim", spec.data, spec.architecture)
    with torch_seed(seed):
        network = networks.build(spec.architecture, shape, splits.classes)
    content = _read(path)
    if content is not None:
        try:
            network.load_state_dict(safetensors.torch.load(content))
        except (SafetensorError, RuntimeError):
            log.warning("cached victim %s does not fit its network; training it again", path.name)
            content = None
    if content is None:
        log.info("training victim %s (%s)", spec, recipe)
        targets = np.eye(splits.classes, dtype=np.float32)[splits.train.y]
        with torch_seed(seed), on("cpu"):
            _, weights = training.train(network, splits.train.x, targets, recipe, seed)
        content = safetensors.torch.save(weights)
        _write(path, content)
    network.eval()

    def perturb(scale: float, seed: int) -> Callable[[Images], Array]:
        rng, noisy = np.random.default_rng(seed), copy.deepcopy(network)
        with torch.no_grad():
            for weight in noisy.parameters():
                weight.copy_(torch.from_numpy(_with_noise(weight.numpy(), scale, rng)))
        return Victim(
            model=lambda x: training.softmax(training.logits(noisy, x)),
            splits=splits,
            name=f"{spec} with noise",
        ).probabilities

    return Victim(
        model=lambda x: training.softmax(training.logits(network, x)),
        splits=splits,
        features=lambda x: training.activations(network, x),
        parameters=sum(weight.numel() for weight in network.parameters()),
        linear=False,
        perturb=perturb,
        fingerprint=hashlib.sha256(content + path.name.encode()).hexdigest(),
    )


def _with_noise(tensor: NDArray[Any], scale: float, rng: np.random.Generator) -> NDArray[Any]:
    """Return the tensor with normal noise of ``scale`` times its standard deviation."""
    noise = scale * tensor.std() * rng.normal(size=tensor.shape)
    noisy: NDArray[Any] = tensor + noise.astype(tensor.dtype)
    return noisy


def _read_sklearn(path: Path, wanted: Any) -> Any:
    """Return the cached model if there is one, of the class of ``wanted`` and of trusted types alone."""
    content = _read(path)
    if content is None:
        return None
    try:
        unknown = set(skops.io.get_untrusted_types(data=content)) - SKOPS_TRUSTED
        if not unknown:
            model = skops.io.loads(content, trusted=sorted(SKOPS_TRUSTED))
            if type(model) is type(wanted):
                return model
        problem = f"types we do not trust ({', '.join(sorted(unknown))})" if unknown else "another model"
    except (BadZipFile, KeyError, ValueError):
        problem = "no model"
    log.warning("cached victim %s holds %s; training it again", path.name, problem)
    return None


def _keep_sklearn(spec: VictimSpec, splits: Splits) -> Victim:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.tree import DecisionTreeClassifier

    if spec.architecture == "logistic":
        model: Any = LogisticRegression(max_iter=300)
    else:
        model = DecisionTreeClassifier(min_samples_leaf=2, random_state=derive(spec.seed, "tree") % 2**31)
    path = _cache_path(spec, splits, repr(model), ".skops")
    kept = _read_sklearn(path, model)
    if kept is None:
        log.info("training victim %s (%s)", spec, model)
        with warnings.catch_warnings():
            # A victim stopped at max_iter is a victim like any other; its accuracy is checked.
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(splits.train.x.reshape(len(splits.train.x), -1).astype(np.float64), splits.train.y)
        _write(path, skops.io.dumps(model))
    model = model if kept is None else kept

    def served(fitted: Any) -> Predict:
        classifier = SklearnClassifier(fitted)
        return lambda x: classifier.predict(x.reshape(len(x), -1).astype(np.float64))

    def perturb(scale: float, seed: int) -> Callable[[Images], Array]:
        rng, noisy = np.random.default_rng(seed), copy.deepcopy(model)
        noisy.coef_ = _with_noise(noisy.coef_, scale, rng)
        noisy.intercept_ = _with_noise(noisy.intercept_, scale, rng)
        return Victim(served(noisy), splits, name=f"{spec} with noise").probabilities

    # No fingerprint from the file, which holds times and addresses; the check takes one from the answers.
    linear = spec.architecture == "logistic"
    return Victim(served(model), splits, linear=linear, perturb=perturb if linear else None)


def _load_reference(reference: str) -> Victim:
    """Call the factory behind ``file.py:factory`` or ``package.module:factory``."""
    place, _, name = reference.rpartition(":")
    module = load_file(Path(place)) if place.endswith(".py") else _import_dotted(place, name)
    if not hasattr(module, name):
        raise UsageError(f"--victim {reference}: {place} has no {name!r}")
    made = getattr(module, name)()
    victim = made if isinstance(made, Victim) else _from_tuple(made, reference)
    victim.name = reference
    return victim


def _import_dotted(place: str, name: str) -> Any:
    top = place.partition(".")[0]
    here = Path.cwd()
    if top in OURS and ((here / top).is_dir() or (here / f"{top}.py").is_file()):
        theirs = place.replace(".", "/") + ".py"
        if not Path(importlib.import_module(top).__file__ or "").resolve().is_relative_to(here.resolve()):
            raise UsageError(
                f"--victim {place}:{name}: module {top!r} is moatbench's own and hides yours; "
                f"name the file: --victim {theirs}:{name}"
            )
    if str(here) not in sys.path:
        sys.path.append(str(here))
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"--victim {place}:{name}: no module {error.name!r}; name the file: FILE.py:{name}"
        ) from error


def _from_tuple(made: Any, reference: str) -> Victim:
    usage = (
        f"--victim {reference}: the factory must return (model, splits), (model, splits, features) or a "
        f"moatbench.Victim, with splits a moatbench.Splits; got {type(made).__name__}"
    )
    if not isinstance(made, tuple) or len(made) not in (2, 3) or not isinstance(made[1], Splits):
        raise UsageError(usage)
    if not callable(made[0]) and not hasattr(made[0], "predict"):
        raise UsageError(usage)
    return Victim(*made)
