"""Random seeds, each derived from names, so that random streams are independent of each other.

Streams (see METHOD.md): query order, training, the attack's own choices, and defense noise. No seed
depends on the budget, so the queries of a smaller budget are the first ones of a larger budget.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np


def derive(*parts: object) -> int:
    """Return a seed in [0, 2**63) that depends on every part and on their order.

    Parts are strings, numbers, booleans or None; they are hashed by their JSON text with SHA-256.
    """
    text = json.dumps(parts, ensure_ascii=True, separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def random_state(seed: int) -> np.random.RandomState:
    """Return NumPy's legacy generator, which ART uses, so that results can be compared with ART's."""
    return np.random.RandomState(seed % 2**32)


@contextmanager
def legacy_numpy(seed: int) -> Iterator[None]:
    """Seed NumPy's global generator, which ART uses, inside the block, and restore its state afterwards."""
    before = np.random.get_state()
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        np.random.set_state(before)
