"""Answers of a model that is random by declaration: the first ones are kept, so that all processes agree."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from bench.files import cache_root, read_checked, write_checked
from bench.models.determinism import CHUNK

Array = NDArray[np.float64]
Again = Callable[[], tuple[Array, NDArray[np.bool_]]]

ASKED_AGAIN = CHUNK
"""First rows that are asked about once more where kept answers are read."""
TIMES, MORE = 2.0, 0.01
"""Kept answers are those of another model if they are further from fresh ones than TIMES the distance of two
askings, plus MORE."""
CHANGED = (
    "the model answers otherwise than when its answers were kept, by more than its randomness: the kept "
    "answers are discarded, and cells that learnt from them run again"
)


def kept_answers(key: str, fresh: Array, again: Again) -> tuple[Array, bool]:
    """Return the answers (n, classes) to keep, and whether kept ones of another model were discarded.

    ``key``: covers the code and the data of the model. ``fresh``: (n, classes), of this process. ``again``:
    asks about the first :data:`ASKED_AGAIN` rows once more; returns the answers (m, classes) to those of
    these rows on which the model does not fail, and which they are, (rows,).
    """
    path = cache_root() / "victims" / f"own-{hashlib.sha256(key.encode()).hexdigest()[:32]}.npy"
    content = read_checked(path, "the model is asked again")
    changed = False
    if content is not None:
        kept = of_bytes(content)
        if kept.shape == fresh.shape:
            changed = _of_another_model(kept, fresh, *again())
            if not changed:
                return kept, False
    write_checked(path, to_bytes(fresh))
    return fresh, changed


def _of_another_model(kept: Array, fresh: Array, again: Array, answered: NDArray[np.bool_]) -> bool:
    """Return whether ``kept`` answers differ from ``fresh`` ones clearly more than two askings differ.

    The key covers no file that a model reads. The three answers to a row of a model that did not change are
    alike random, so both distances have one mean. Twice the distance, and .01 more, is room for their
    randomness over 256 rows, and for last bits where a declared randomness is none.
    """
    rows = np.flatnonzero(answered)
    randomness = distance(fresh[rows], again)
    return distance(fresh[rows], kept[rows]) > TIMES * randomness + MORE


def distance(a: Array, b: Array) -> float:
    """Return the mean total variation between answers (n, classes), in [0, 1]; 0 without any.

    Of two classes it is the mean absolute difference. That would shrink with the number of classes; this,
    half the sum over them, does not.
    """
    return float(np.abs(a - b).sum(axis=1).mean() / 2) if len(a) else 0.0


def digest(answers: Array) -> str:
    """Return a digest of answers (n, classes), to the bit."""
    return hashlib.sha256(np.ascontiguousarray(answers).data).hexdigest()


def to_bytes(answers: Array) -> bytes:
    """Return answers (n, classes) as the content of an npy file."""
    buffer = io.BytesIO()
    np.save(buffer, answers, allow_pickle=False)
    return buffer.getvalue()


def of_bytes(content: bytes) -> Array:
    """Return what :func:`to_bytes` was given."""
    answers: Array = np.load(io.BytesIO(content), allow_pickle=False)
    return answers
