"""The victim of an attack: a model with its data splits, trained here or brought by the user."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from bench.data.data_files import load_splits
from bench.data.datasets import OFFICIAL, Labelled, Splits, info
from bench.errors import VictimError
from bench.inputs import LAYOUTS, InputSpace
from bench.metrics.balance import FEWEST, labels_left_out
from bench.models import user_victims, victim_training
from bench.models.determinism import CHUNK, in_chunks, single_thread, torch_seed
from bench.models.own_references import OwnVictims
from bench.models.plugin_guard import PluginCall, generator, guarded_import
from bench.models.prediction_cache import PredictionCache
from bench.models.promises import SAME
from bench.models.shared_answers import SharedAnswers
from bench.models.victim_training import Features
from bench.tasks import OWN, VictimSpec

Images = NDArray[np.float32]
Array = NDArray[np.float64]
Perturb = Callable[[float, int], Callable[[Images], Array]]

OF_BATCH = 1e-3
"""Difference of answers from which they depend on the batch. In single precision, last bits may."""
SKETCH_STEP = 1e-4
"""Step of the projections of answers that a fingerprint holds."""
ANOTHER_MODEL = (
    "victim {} is another model in each process: its answers differ where it is made twice; "
    "seed its training, load it from a file, or use --jobs 1"
)
REMEMBERED = 64 * 2**20
"""Bytes of a victim's answers to cache, and of its features."""


@runtime_checkable
class SharesAnswers(Protocol):
    """A model that tells other processes what it was asked when it was loaded."""

    def share(self, shared: SharedAnswers) -> None:
        """Write that down."""


@dataclass
class Victim:
    """A model that returns probabilities, with its splits.

    ``model``: callable from inputs (n, …) float32 to (n, classes) probabilities, or any ART classifier.
    ``features``: optional; returns activations at several depths, each (n, d) float32, shallow to deep,
    the logits last. ``linear``: whether its log-odds are linear in the input; None if unknown.
    ``perturb(scale, seed)``: optional; returns a function from inputs to the probabilities of a perturbed
    victim: one with normal noise on its parameters, of ``scale`` times each tensor's own standard deviation.
    ``fingerprint``: optional; a text that changes where the model does. The fingerprint of a user's victim
    covers its answers and its splits as well. ``recipe``: how a shipped victim is trained, as text; empty for
    a user's. ``notes``: what was recognised of a user's model and data, or is to be known of the splits, a
    sentence each. ``class_names``: in
    their order; empty if unknown. ``tree``: whether it is one decision tree; None if unknown.
    ``origin``: digests of the files that a user's comes from, which its fingerprint covers as well.
    ``deterministic``: False for a user's whose answers are random by declaration. ``shared``: the answers
    that the processes of a run have got from a user's, or None. Raises VictimError from :meth:`check` if the
    model's answers are not probabilities.
    """

    model: Any
    splits: Splits
    features: Features | None = None
    name: str = "victim"
    expected: float | None = None
    parameters: int | None = None
    linear: bool | None = None
    perturb: Perturb | None = None
    fingerprint: str = ""
    notes: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    tree: bool | None = None
    recipe: str = field(default="", init=False)
    origin: str = field(default="", init=False)
    deterministic: bool = field(default=True, init=False)
    shared: SharedAnswers | None = field(default=None, init=False, repr=False, compare=False)
    _widths: tuple[int, ...] | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def inputs(self) -> InputSpace:
        """What inputs may be."""
        return self.splits.inputs

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return self.splits.inputs.shape

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.splits.classes

    def probabilities(self, x: Images) -> Array:
        """Return (n, classes) float64 probabilities; answers to recent inputs come from a cache."""
        return np.asarray(self._answers(x)[0], dtype=np.float64) if len(x) else np.empty((0, self.classes))

    def activations(self, x: Images) -> Sequence[NDArray[np.float32]]:
        """Return the output of ``features``; below 256 rows, recent inputs come from a cache."""
        return self._depths(x) if 0 < len(x) < CHUNK else self._read(x)

    def reader(self, *, cached: bool = True) -> Features | None:
        """Return ``features`` as a function that gives no access to the victim, or None if there are none.

        ``cached``: by :meth:`activations`, else read anew each time.
        """
        if self.features is None:
            return None
        read = self.activations if cached else self._read

        def features(x: Images) -> Sequence[NDArray[np.float32]]:
            return read(x)

        return features

    def remember(self, x: Images, answers: Array) -> None:
        """Keep ``answers`` (n, classes) of the model to inputs (n, …), so that it is not asked again."""
        problem = self._problem(answers, len(x))
        if problem:
            raise VictimError(f"victim {self.name} does not return probabilities: {problem}")
        self._answers.remember(x, (answers,))

    def expect(self, x: Images) -> None:
        """Announce that rows of ``x`` (n, …) will be queried, perhaps one by one; evaluates nothing yet."""
        self._answers.expect(x)
        self._depths.expect(x)

    @cached_property
    def _answers(self) -> PredictionCache:
        return PredictionCache(lambda x: (self._shared_or_evaluated(x),), REMEMBERED)

    @cached_property
    def _depths(self) -> PredictionCache:
        return PredictionCache(self._read, REMEMBERED)

    @cached_property
    def _bits(self) -> np.random.BitGenerator:
        return generator("victim", 0)

    def _call(self, hook: str, *, full: bool = False) -> PluginCall:
        return PluginCall(f"victim {self.name}", hook, self._bits, full=full, error=VictimError)

    def _read(self, x: Images) -> Sequence[NDArray[np.float32]]:
        """Return copies of the features (n, d) at each depth, checked."""
        if self.features is None:
            raise VictimError(f"victim {self.name} offers no features")
        with self._call("features"):
            given = [np.array(depth) for depth in self.features(np.array(x, dtype=np.float32))]
        problem = self._features_problem(given, len(x))
        if problem:
            raise VictimError(f"victim {self.name} does not return features: {problem}")
        return given

    def _features_problem(self, given: list[NDArray[Any]], n: int) -> str:
        for depth in given:
            if depth.ndim != 2 or len(depth) != n or not np.issubdtype(depth.dtype, np.floating):
                got = f"{depth.dtype} {depth.shape}"
                return f"expected a floating-point array of shape ({n}, d) at each depth, got {got}"
            if not np.isfinite(depth).all():
                return f"{int((~np.isfinite(depth)).any(axis=1).sum())} of {n} rows hold NaN or infinity"
        widths = tuple(depth.shape[1] for depth in given)
        if self._widths is None:
            self._widths = widths
        if widths != self._widths or not widths:
            return f"expected depths of {self._widths} features, as before, got {widths}"
        return ""

    def _shared_or_evaluated(self, x: Images) -> Array:
        return self._evaluate(x) if self.shared is None else self.shared.answers(x, self._evaluate)

    def share(self, path: Path) -> None:
        """Write what the model has answered so far to a file for :func:`load_victim` in other processes."""
        shared = SharedAnswers(path)
        if isinstance(self.model, SharesAnswers):
            self.model.share(shared)
        for name in (*user_victims.PARTS, *user_victims.MORE):
            if (part := getattr(self.splits, name)) is not None:
                shared.add(part.x, self.probabilities(part.x))

    def _evaluate(self, x: Images) -> Array:
        def call(rows: Images) -> tuple[NDArray[Any], ...]:
            with self._call("predict"):
                answer = self.model.predict(rows) if hasattr(self.model, "predict") else self.model(rows)
                return (np.asarray(answer),)

        # Zeros may be no input of another space, and a model may refuse them.
        answers = in_chunks(call, x, None if self.inputs.unit else x[:1])[0]
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
            logits = answers.min() < -1e-6 or answers.max() > 1 + 1e-6
            advice = "these look like logits, return softmax of them" if logits else "rows must sum to 1"
            return (
                f"smallest entry {answers.min():.4g}, largest {answers.max():.4g}, a row sums to "
                f"{sums[worst]:.4g}; {advice}"
            )
        return ""

    def check(self) -> None:
        """Evaluate the test split once, so that an invalid model is rejected before any cell runs.

        Sets ``fingerprint`` where it is empty. Raises VictimError for splits of other shapes, for answers
        that are not probabilities, and for answers to the first test inputs that are not the ``shared`` ones.
        """
        splits = self.splits
        for name in user_victims.PARTS:
            part: Labelled = getattr(splits, name)
            if part.x.ndim - 1 not in LAYOUTS or len(part.x) != len(part.y):
                raise VictimError(
                    f"victim {self.name}: split {name} must be (n, channels, height, width), (n, steps, "
                    f"features) or (n, columns) with n labels, got {part.x.shape} and {part.y.shape}"
                )
            if problem := splits.inputs.problem(part.x):
                raise VictimError(f"victim {self.name}: split {name} {problem}")
        with self._call("predict", full=True):
            answers = self.probabilities(splits.test.x)
            few = splits.test.x[:CHUNK]
            first = [answers[: len(few)]]
            # Torch's generator is put back after each call, so that dropout would drop the same again.
            with torch_seed(1):
                self._check_again("answers", first, [self._evaluate(few.copy())])
            if (half := len(few) // 2) and self.shared is None:
                self._check_alone(first[0][:half], self._evaluate(few[:half].copy()))
            if self.features is not None:
                with torch_seed(1):
                    again = self._read(few)
                self._check_again("features", self._read(few), again)
        if not self.fingerprint:
            h = hashlib.sha256(self.origin.encode())
            for name in (*user_victims.PARTS, *user_victims.MORE):
                part = getattr(splits, name)
                if part is None:
                    continue
                h.update(np.ascontiguousarray(part.x).data)
                h.update(np.ascontiguousarray(part.y).data)
                if not self.deterministic:
                    continue
                with self._call("predict", full=True):
                    h.update(answer_sketch(self.probabilities(part.x)).tobytes())
            self.fingerprint = h.hexdigest()

    def _check_again(self, what: str, first: Sequence[NDArray[Any]], second: Sequence[NDArray[Any]]) -> None:
        """Raise VictimError if the same inputs got other outputs the second time."""
        apart = max(
            (float(np.abs(a - b).max()) for a, b in zip(first, second, strict=True) if a.size), default=0
        )
        largest = max((float(np.abs(a).max()) for a in first if a.size), default=0)
        if apart <= SAME * max(1, largest):
            return
        if self.shared is not None:
            raise VictimError(ANOTHER_MODEL.format(self.name))
        raise VictimError(
            f"victim {self.name} is not deterministic: asked twice about the same inputs, its {what} "
            f"differ by up to {apart:.2g}; switch off dropout and other randomness"
            + (", or declare deterministic = false in [victims.NAME]" if self.origin else "")
        )

    def _check_alone(self, among: Array, alone: Array) -> None:
        """Raise VictimError if answers (n, classes) are others when the rest of the batch is another."""
        apart = float(np.abs(among - alone).max())
        if apart > OF_BATCH:
            raise VictimError(
                f"victim {self.name} answers an input otherwise when the rest of its batch is another: by up "
                f"to {apart:.2g}; batch normalisation has to be in evaluation mode (eval())"
            )

    def accuracy(self) -> float:
        """Return the share of test inputs whose top-1 is the true label."""
        test = self.splits.test
        return float((self.probabilities(test.x).argmax(axis=1) == test.y).mean())


def answer_sketch(answers: Array) -> NDArray[np.int64]:
    """Return two random projections of answers (n, classes), in steps of 1e-4.

    Another answer to any one of the inputs changes them, unless by less than about 1e-4 √n; the last bits,
    which depend on the processor, practically never do.
    """
    rng = np.random.default_rng(len(answers))
    weights = rng.standard_normal((2, *answers.shape)) / np.sqrt(max(1, len(answers)))
    sketch: NDArray[np.int64] = np.rint(np.einsum("pnk,nk->p", weights, answers) / SKETCH_STEP).astype(
        np.int64
    )
    return sketch


def left_out_note(labels: NDArray[Any], names: Sequence[str], who: str) -> str:
    """Return a sentence on the labels (n,) of test inputs that balanced fidelity leaves out, or "".

    ``names``: of the classes. ``who``: gives the labels, as the sentence calls it.
    """
    rare = labels_left_out(labels)
    if not len(rare):
        return ""
    left_out = " and ".join(repr(names[label]) for label in rare)
    few = f"{who} gives fewer than {FEWEST} of {len(labels):,} test inputs such a label"
    return f"balanced fidelity leaves out {left_out}: {few}"


def load_victim(
    spec: VictimSpec, data_root: Path, own: OwnVictims | None = None, shared: SharedAnswers | None = None
) -> Victim:
    """Return the victim: brought by the user, from the cache, or trained now (and then cached).

    ``own``: what a matrix says of the user's own victims, and where their files are. ``shared``: what another
    process of the run has written with :meth:`Victim.share`; then the user's model is asked only about what
    is not there, and about a few inputs to prove that it is the same.
    Raises VictimError, UsageError or MissingDataError, each with a message of one sentence.
    """
    with single_thread():
        described = own or OwnVictims()
        if spec.data.startswith(OWN):
            from bench.models.own_victims import own_victim  # it builds on this module

            options = described.options(spec)
            with guarded_import(f"victim {spec}"):
                victim = own_victim(
                    options, name=str(spec), seed=spec.seed, folder=described.folder, shared=shared
                )
            victim.shared = shared
            victim.check()
        elif spec.is_reference:
            with guarded_import(f"victim {spec.data}"):
                returned = user_victims.call_factory(spec.data, described.folder)
            if isinstance(returned, Victim):
                victim = returned
            else:
                victim = Victim(*user_victims.model_and_splits(returned, spec.data))
            user_victims.check_model(victim.model, spec.data)
            user_victims.check_splits(victim.splits, spec.data)
            stated = str(victim.fingerprint)
            victim = _brought_victim(victim, spec.data)
            victim.shared = shared
            victim.check()
            if stated:
                # Together with the content: a text that its owner forgot to change hides no other model.
                victim.fingerprint = hashlib.sha256(f"{victim.fingerprint} {stated}".encode()).hexdigest()
        else:
            splits = load_splits(spec.data, spec.seed, data_root, spec.splits)
            victim = _own_victim(spec, splits, victim_training.trained_model(spec, splits))
            dataset = info(spec.data)
            expected = dataset.expected_official if spec.splits == OFFICIAL else dataset.expected
            # What is expected holds for at least as many training images as the data set's own splits have.
            if spec.splits == OFFICIAL or len(splits.train.x) >= dataset.sizes[0]:
                victim.expected = expected.get(spec.architecture)
            victim.check()
    return victim


def _brought_victim(victim: Victim, name: str) -> Victim:
    """Return a user's victim under ``name``, with a copy of its splits."""
    given = victim.splits
    copies: dict[str, Any] = {
        part: replace(getattr(given, part), x=getattr(given, part).x.copy(), y=getattr(given, part).y.copy())
        for part in user_victims.PARTS
    }
    more: Any = copies
    own = replace(given, **more)
    perturb = victim.perturb
    checked = None if perturb is None else _checked_perturb(perturb, own, f"{name} with noise")
    return replace(victim, splits=own, name=name, perturb=checked, fingerprint="")


def retrained_victim(spec: VictimSpec, splits: Splits, number: int) -> Victim:
    """Return what the recipe of a shipped victim gives with other rounding errors; ``number``: which one."""
    with single_thread():
        return _own_victim(spec, splits, victim_training.retrained_model(spec, splits, number))


def _own_victim(spec: VictimSpec, splits: Splits, trained: victim_training.TrainedModel) -> Victim:
    """Return a victim that moatbench trains, before its answers are checked."""
    perturb = trained.perturb
    victim = Victim(
        model=trained.model,
        splits=splits,
        features=trained.features,
        name=str(spec),
        parameters=trained.parameters,
        linear=trained.linear,
        tree=trained.tree,
        perturb=None if perturb is None else _checked_perturb(perturb, splits, f"{spec} with noise"),
        fingerprint=trained.fingerprint,
        notes=splits.notes,
    )
    victim.recipe = trained.recipe
    return victim


def _checked_perturb(perturb: victim_training.PerturbModel, splits: Splits, name: str) -> Perturb:
    """Return ``perturb`` with answers evaluated in chunks, cached and checked as those of any victim."""

    def perturbed(scale: float, seed: int) -> Callable[[Images], Array]:
        victim = Victim(perturb(scale, seed), splits, name=name)

        def probabilities(x: Images) -> Array:  # unlike the method, it gives no access to the splits
            return victim.probabilities(x)

        return probabilities

    return perturbed
