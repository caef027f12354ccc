"""Auxiliary data: inputs from another distribution, on which a defender learns what unusual queries are like.

They are made from the victim's training split, or come from another data set. What an attacker queries with
must be something else, or a defense would be measured on what it was trained on.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.data import query_pools
from bench.data.datasets import DATASETS, Splits
from bench.data.made_inputs import drawn, marginals, permuted
from bench.errors import NotApplicable, UsageError, nearest
from bench.inputs import InputSpace, Layout
from bench.seeds import derive

Inputs = NDArray[np.float32]

MOST = 10_000
"""Largest number of auxiliary inputs; there are no more than training inputs either."""
DEFAULTS: Mapping[Layout, str] = {"images": "permuted", "sequences": "marginals", "table": "marginals"}
"""What "default" means."""
_MADE = ("noise", "gaussian-noise", "sparse-noise", "synthetic", "glyphs", "permuted", "marginals")
AUXILIARY = (*_MADE, *DATASETS)
"""Every kind of auxiliary data; each is made as the pool of that name is, from the training split.

Uniform, normal and sparse noise, drawn strokes, drawn digits, the training split under one permutation of its
pixels, values of it that are drawn each for itself, and any data set but the victim's."""


def resolved(name: str, layout: Layout) -> str:
    """Return the kind that ``name`` means for such inputs; raises UsageError with the nearest names."""
    found = DEFAULTS[layout] if name == "default" else name
    if found not in AUXILIARY:
        raise UsageError(f"unknown auxiliary data {name!r}; {nearest(name, ('default', *AUXILIARY))}")
    return found


def unavailable(name: str, victim_data: str, layout: Layout) -> str:
    """Return why a victim has no auxiliary data of this kind, or an empty string."""
    kind = resolved(name, layout)
    if kind == victim_data:
        return f"it is what {victim_data} was trained on; give another data set"
    return query_pools.unavailable(kind, victim_data, layout, {})


def shared_with(name: str, pool_name: str, layout: Layout) -> bool:
    """Return whether auxiliary data are what an attacker with this pool queries with, or part of it."""
    kind = resolved(name, layout)
    return kind in (pool_name, query_pools.data_set(pool_name))


def load(name: str, *, victim_data: str, splits: Splits, seed: int, root: Path) -> Inputs:
    """Return auxiliary inputs (n, …) for a victim; they depend on the arguments and the data in ``root``.

    As many as there are training inputs, at most 10,000. Raises UsageError for an unknown kind,
    MissingDataError if its data set is not in ``root``, NotApplicable for one that this victim cannot have.
    """
    inputs = splits.inputs
    if reason := unavailable(name, victim_data, inputs.layout):
        raise NotApplicable(f"auxiliary data {name!r}: {reason}")
    kind = resolved(name, inputs.layout)
    if kind in DATASETS:
        pool = query_pools.load(kind, victim_data=victim_data, splits=splits, seed=seed, root=root)
        rng = np.random.default_rng(derive("auxiliary", kind, victim_data, seed))
        return pool.x[rng.permutation(len(pool.x))[: _number(splits.train.x)]]
    return made(kind, splits.train.x, inputs, derive("auxiliary", kind, victim_data, seed))


def made(name: str, own: Inputs, inputs: InputSpace, seed: int) -> Inputs:
    """Return auxiliary inputs (n, …) made from inputs ``own`` (m, …), or from none, by a seed of their own.

    A kind that is another data set is replaced by the default one.
    """
    kind = resolved(name, inputs.layout)
    kind = DEFAULTS[inputs.layout] if kind in DATASETS else kind
    rng = np.random.default_rng(seed)
    number = _number(own)
    if kind == "permuted":
        return permuted(own[rng.permutation(len(own))[:number]], rng)
    if kind == "marginals":
        return marginals(own, number, rng)
    return drawn(kind, number, inputs, rng)[0]


def _number(own: Inputs) -> int:
    return min(len(own), MOST)
