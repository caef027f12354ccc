"""The splits of a user's victim: which rows are the attacker's, which are tested on, which are left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.data.datasets import Labelled, Splits
from bench.data.user_data import UserData, label_text
from bench.data.user_splits import FEWEST, MOST_ROWS, equal_to_any, split_rows
from bench.errors import UsageError, nearest
from bench.models.own_outputs import Outputs
from bench.models.victim_options import VictimOptions
from bench.seeds import derive

UNKNOWN_TRAINING = (
    "it is unknown what the model was trained on: if these inputs are among it, fidelity may be "
    "optimistic; name the file by train (--train)"
)


def made_splits(
    data: UserData,
    y: NDArray[np.int64],
    others: dict[str, Labelled],
    outputs: Outputs,
    options: VictimOptions,
    seed: int,
) -> tuple[Splits, list[str]]:
    """Return the splits of data with labels ``y`` (n,), and what is to be said of them, a sentence each.

    ``others``: what further files hold, "train", "pool" and "public". Raises UsageError where a split would
    have too few rows.
    """
    x, notes = data.x, []
    keep = np.ones(len(x), dtype=bool)
    shifted = None
    if options.shift:
        inside, text = _group(data, options.shift)
        shifted = Labelled(x[inside], y[inside], labelled=data.y is not None)
        keep &= ~inside
        notes.append(f"{int(inside.sum()):,} rows with {text} are held out as the pool 'shifted'")
    trained = others.get("train")
    if trained is not None:
        again = equal_to_any(x, trained.x) & keep
        keep &= ~again
        notes.append(f"{int(again.sum()):,} rows that the model was trained on are left out")
    else:
        notes.append(UNKNOWN_TRAINING)
    rows = np.flatnonzero(keep)
    if len(rows) < FEWEST * 4:
        raise UsageError(
            f"{len(rows)} rows are left for the assessment; give inputs that the model was not trained on"
        )
    found = split_rows(x[rows], y[rows], seed, trained=trained is not None)
    if found.equal:
        notes.append(
            f"{found.equal:,} rows are equal to an earlier one in all features; equal rows are in one split"
        )
    parts = {
        part: Labelled(
            np.ascontiguousarray(x[rows[where]]),
            y[rows[where]].astype(np.int64),
            labelled=data.y is not None,
        )
        for part in ("train", "calibration", "pool", "test")
        for where in (getattr(found, part),)
    }
    if trained is not None:
        parts["train"] = _few(trained, seed)
    if "pool" in others:
        own_pool = others["pool"]
        apart = ~equal_to_any(own_pool.x, parts["test"].x)
        parts["pool"] = own_pool.rows(apart)
        if (~apart).any():
            notes.append(
                f"{int((~apart).sum()):,} inputs of the pool that are in the test split are left out"
            )
    short = [part for part, each in parts.items() if len(each) < FEWEST]
    if short:
        raise UsageError(
            f"split {short[0]} has {len(parts[short[0]])} rows, and {FEWEST} are needed; "
            "give more rows that differ"
        )
    public = others.get("public")
    if public is not None:
        public, left_out = _outside_test(public, parts["test"], str(options.public))
        notes += left_out
    return (
        Splits(
            **parts,
            classes=len(outputs.classes),
            space=data.space,
            shifted=shifted,
            public=public,
            groups=options.groups,
            notes=(),
        ),
        notes,
    )


def _outside_test(public: Labelled, test: Labelled, file: str) -> tuple[Labelled, list[str]]:
    """Return the inputs of ``file`` without those of the test split, and what is to be said of that."""
    apart = ~equal_to_any(public.x, test.x)
    if apart.sum() < FEWEST:
        raise UsageError(
            f"{file}: {int(apart.sum())} inputs are not in the test split, and {FEWEST} are needed; "
            "give more rows that differ"
        )
    if apart.all():
        return public, []
    note = f"{int((~apart).sum()):,} inputs of {file} that are in the test split are left out"
    return public.rows(apart), [note]


def _few(part: Labelled, seed: int) -> Labelled:
    """Return at most 20,000 rows of what the model was trained on."""
    if len(part) <= 20_000:
        return part
    rows = np.sort(np.random.default_rng(derive("own training rows", seed)).permutation(len(part))[:20_000])
    return part.rows(rows)


def _group(data: UserData, wanted: dict[str, str]) -> tuple[NDArray[np.bool_], str]:
    """Return which rows (n,) have the value of each column, and that as text."""
    inside = np.ones(len(data), dtype=bool)
    for name, value in wanted.items():
        values = column_texts(data, name)
        known = sorted(set(values.tolist()))
        if value not in known:
            raise UsageError(f"shift: column {name!r} has no value {value!r}; {nearest(value, known)}")
        inside &= values == value
    text = " and ".join(f"{name} = {value!r}" for name, value in wanted.items())
    if not inside.any() or inside.all():
        raise UsageError(f"shift: {'every' if inside.any() else 'no'} row has {text}; some are needed")
    return inside, text


def column_texts(data: UserData, name: str) -> NDArray[np.str_]:
    """Return a column (n,) as texts, "" where a value is missing; raises UsageError if there is none."""
    if name not in data.names:
        raise UsageError(
            f"no column {name!r}; {nearest(name, data.names)}" if data.names else "the data are no table"
        )
    place = data.names.index(name)
    series = data.table[place].decode(data.x[:, place])
    return np.array(["" if pd.isna(value) else label_text(value).strip() for value in series], dtype=np.str_)


def selected(data: UserData, features: Sequence[str]) -> UserData:
    """Return the columns that a model expects, in its order; raises UsageError where the data lack one."""
    if not data.table:
        raise UsageError(
            f"the model expects a table with columns ({', '.join(features[:5])}, …), and the data are none"
        )
    if data.named:
        return data.select(features)
    if len(features) != len(data.table):
        raise UsageError(f"the model expects {len(features)} columns, and the data have {len(data.table)}")
    return data


def sampled(data: UserData, seed: int) -> tuple[UserData, int]:
    """Return at most :data:`MOST_ROWS` rows, and how many were left out."""
    if len(data) <= MOST_ROWS:
        return data, 0
    chosen = np.random.default_rng(derive("own rows", seed)).permutation(len(data))[:MOST_ROWS]
    rows = np.zeros(len(data), dtype=bool)
    rows[chosen] = True
    y = None if data.y is None else data.y[rows]
    return replace(data, x=data.x[rows], y=y), int((~rows).sum())
