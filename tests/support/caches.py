"""Every cache that keeps files: how a value comes through it, and all that its key is made of."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from images import shrink, write_mnist_like

from attacks.base import TransferSet
from bench import files, keys, sources
from bench.cli import listing_cache
from bench.data import data_files
from bench.data.datasets import DATASETS, Labelled, Splits
from bench.models import surrogates, victim_training
from bench.models.training import TrainingSchedule
from bench.tasks import VictimSpec

SPEC = VictimSpec("digits", "mlp", 0)


@dataclass
class Inputs:
    """What a value depends on, as far as a test passes it."""

    spec: VictimSpec = SPEC
    seed: int = 0
    rows: int = 24
    kind: str = "attacks"
    training: str = "rule"


@dataclass(frozen=True)
class Cache:
    """A cache.

    ``value``: returns the bytes of a value, from the cache or made now. ``folder``: where its files are, in
    the folder of all caches. ``edits``: changes one ingredient each, by name.
    """

    kind: str
    value: Callable[[Inputs], bytes]
    folder: str
    edits: dict[str, Callable] = field(default_factory=dict)

    def kept(self, root: Path) -> list[Path]:
        """Return the files in the cache."""
        return sorted(path for path in (root / self.folder).glob("*") if path.suffix != ".part")


def _images(seed: int, rows: int = 24) -> Labelled:
    rng = np.random.default_rng(seed)
    return Labelled(rng.random((rows, 1, 8, 8), dtype=np.float32), np.arange(rows) % 10)


def _victim(inputs: Inputs) -> bytes:
    part = _images(inputs.seed)
    trained = victim_training.trained_model(inputs.spec, Splits(part, part, part, part, 10))
    return trained.fingerprint.encode() + np.asarray(trained.model(part.x)).tobytes()


def _estimator(inputs: Inputs) -> bytes:
    spec = VictimSpec("digits", "tree", inputs.spec.seed, inputs.spec.splits)
    return _victim(Inputs(spec, inputs.seed))


def _training(inputs: Inputs) -> bytes:
    part = _images(inputs.seed)
    sets = [TransferSet(part.x, np.eye(10, dtype=np.float32)[part.y])]
    folder, spec = files.cache_root() / "trainings", inputs.spec
    (trained,) = surrogates.fit(
        sets, spec.architecture, 10, [spec.seed], folder, inputs.training, unqueried=[part.x[::-1]]
    )
    return trained.probabilities(part.x).tobytes() + trained.probabilities_half(part.x).tobytes()


def _converted(inputs: Inputs) -> bytes:
    split = data_files._OfficialSplit(DATASETS["mnist"], "train", files.cache_root() / "raw")
    part = split.take(np.arange(inputs.rows))
    return part.x.tobytes() + part.y.tobytes() + part.digest.encode()


def _list(inputs: Inputs) -> bytes:
    return listing_cache.table(inputs.kind).encode()


def edit_module(name: str) -> Callable:
    """Return an edit that adds a line of code to one module, as digests of code see it."""

    def edit(monkeypatch, _):
        read, file = sources._read, f"{name.replace('.', os.sep)}.py"
        monkeypatch.setattr(
            sources, "_read", lambda path: read(path) + (b"\nedited = 1\n" if path.endswith(file) else b"")
        )

    return edit


def document_module(name: str) -> Callable:
    """Return an edit that changes comments and docstrings of one module alone."""

    def edit(monkeypatch, _):
        read, file = sources._read, f"{name.replace('.', os.sep)}.py"

        def changed(path):
            text = read(path)
            return text.replace(b'"""', b'"""Edited. ', 1) + b"\n# edited\n" if path.endswith(file) else text

        monkeypatch.setattr(sources, "_read", changed)

    return edit


def _another_version(module: object, library: str) -> Callable:
    def edit(monkeypatch, _):
        installed = module.versions()
        monkeypatch.setattr(module, "versions", lambda: installed | {library: "0.0.1"})

    return edit


def _installed_version(library: str) -> Callable:
    def edit(monkeypatch, _):
        version = importlib.metadata.version
        monkeypatch.setattr(
            importlib.metadata, "version", lambda name: "0.0.1" if name == library else version(name)
        )

    return edit


def _another_python(monkeypatch, _):
    monkeypatch.setattr(keys.platform, "python_version_tuple", lambda: ("3", "99", "0"))


def _set(name: str, value: object) -> Callable:
    return lambda _, inputs: setattr(inputs, name, value)


def _patch(module: object, name: str, value: object) -> Callable:
    return lambda monkeypatch, _: monkeypatch.setattr(module, name, value)


def _touch_raw(_, __):
    for path in (files.cache_root() / "raw").rglob("*-ubyte"):
        path.write_bytes(path.read_bytes()[:-1] + b"\7")


def _touch_raw_and_hide_it(_, __):
    for path in (files.cache_root() / "raw").rglob("*-ubyte"):
        state = path.stat()
        path.write_bytes(path.read_bytes()[:-1] + b"\7")
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def _edit_listed(_, __):
    (listing_cache.HOME / "bench" / "one.py").write_text("x = 2")


_LIBRARIES = ("adversarial-robustness-toolbox", "torch", "torchvision", "numpy", "scipy", "scikit-learn")
_VICTIM_EDITS = {
    "spec": _set("spec", VictimSpec("digits", "mlp", 1)),
    "spec, splits": _set("spec", VictimSpec("digits", "mlp", 0, "official")),
    "data": _set("seed", 1),
    "code": edit_module("bench.models.training"),
    "code, imported by others": edit_module("bench.models.fast.adam"),
    "numerical rules": _patch(victim_training, "NUMERICAL_RULES", "others"),
    **{f"version of {name}": _another_version(victim_training, name) for name in _LIBRARIES},
    "version of Python": _another_python,
}
CACHES = {
    "network": Cache(
        "victim",
        _victim,
        "victims",
        _VICTIM_EDITS
        | {
            "spec, architecture": _set("spec", VictimSpec("digits", "mlp128", 0)),
            "schedule": _patch(victim_training, "victim_schedule", lambda _: TrainingSchedule(4)),
        },
    ),
    "estimator": Cache("victim", _estimator, "victims", _VICTIM_EDITS),
    "training": Cache(
        "training",
        _training,
        "trainings",
        {
            "transfer sets": _set("seed", 1),
            "architecture": _set("spec", VictimSpec("digits", "logistic", 0)),
            "schedule": lambda monkeypatch, _: monkeypatch.setattr(
                "bench.models.training_config.TrainingConfig.schedule", lambda *_: TrainingSchedule(4)
            ),
            "scale": _set("training", "rule(mean=0.5)"),
            "seeds": _set("spec", VictimSpec("digits", "mlp", 1)),
            "method": _set("training", "rule(augment=weak)"),
            "unlabelled": _set("training", "rule(unlabelled=fixmatch)"),
            "device": _patch(surrogates, "device", lambda: "cuda"),
            "code": edit_module("bench.models.surrogates"),
            "code, imported by others": edit_module("bench.models.fast.max_pooling"),
            "numerical rules": _patch(surrogates, "NUMERICAL_RULES", "others"),
            **{f"version of {name}": _another_version(surrogates, name) for name in _LIBRARIES},
            "version of Python": _another_python,
        },
    ),
    "images": Cache(
        "images",
        _converted,
        "images",
        {
            "files": _touch_raw,
            "files, with their old times": _touch_raw_and_hide_it,
            "rows": _set("rows", 23),
            "code": edit_module("bench.data.data_files"),
            "code, imported by others": edit_module("bench.data.file_layouts"),
            "version of numpy": _installed_version("numpy"),
            "version of torchvision": _installed_version("torchvision"),
            "version of Python": _another_python,
        },
    ),
    "list": Cache(
        "list",
        _list,
        "lists",
        {
            "kind": _set("kind", "defenses"),
            "files": _edit_listed,
            "docstrings": _patch(listing_cache, "DOCSTRINGS", not listing_cache.DOCSTRINGS),
            "version of pydantic": _installed_version("pydantic"),
            "version of tabulate": _installed_version("tabulate"),
            "version of Python": _another_python,
        },
    ),
}
"""The caches by name."""


def prepare(root: Path, monkeypatch) -> None:
    """Give all caches an empty folder, small data, and trainings of a few steps."""
    monkeypatch.setenv("MOATBENCH_CACHE", str(root))
    monkeypatch.setattr(files, "_told", set())
    monkeypatch.setattr(victim_training, "victim_schedule", lambda _: TrainingSchedule(3))
    monkeypatch.setattr(
        "bench.models.training_config.TrainingConfig.schedule", lambda *_: TrainingSchedule(3)
    )
    shrink(monkeypatch, "mnist", 40, 12)
    rng = np.random.default_rng(0)
    for stem, rows in (("train", 40), ("t10k", 12)):
        write_mnist_like(root / "raw" / "MNIST" / "raw", stem, rng.integers(0, 256, (rows, 28, 28)))
    home = root / "home"
    for folder in listing_cache.PACKAGES:
        (home / folder).mkdir(parents=True)
        (home / folder / "one.py").write_text("x = 1")
    monkeypatch.setattr(listing_cache, "HOME", home)
    monkeypatch.setattr(listing_cache, "_made", lambda kind: f"{kind}: a table of some length\n" * 9)
    forget_code(monkeypatch)


def forget_code(monkeypatch) -> None:
    """Forget the digests of code that this process keeps, now and after the test."""
    for module in (victim_training, surrogates, data_files):
        monkeypatch.setattr(module, "_code", getattr(module._code, "__wrapped__", module._code))
