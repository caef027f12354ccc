"""Every extraction attack ends with numbers where answers never vary, are tied, all zero or next to it."""

from itertools import product

import numpy as np
import pytest
from attacked_api import SEEDS, FakeApi
from cases import slow_unless

from attacks.base import Extraction, Known, Pool, Target
from bench.models.interim_surrogates import InterimSurrogates
from bench.plugins import attacks

CLASSES = 3
EXTRACTING = [name for name in attacks.names() if issubclass(attacks.get(name), Extraction)]
EVERY = [
    *EXTRACTING,
    "copycat(use_probability=true)",
    "evade(blend=None, clients=None)",
    "knockoff(sampling_strategy=adaptive, reward=all)",
]
ANSWERS = {
    "mixed": lambda n: np.array([[1, 0, 0], [0, 0, 0], [1 / 3] * 3, [0.5, 0.5, 0]])[np.arange(n) % 4],
    "one label": lambda n: np.eye(CLASSES)[np.zeros(n, dtype=int)],
    "uniform": lambda n: np.full((n, CLASSES), 1 / CLASSES),
    "zero": lambda n: np.zeros((n, CLASSES)),
    "next to zero": lambda n: np.full((n, CLASSES), 1e-300),
}


def pool_of(*, varied):
    rng = np.random.default_rng(0)
    x = rng.random((300, 1, 8, 8), dtype=np.float32) if varied else np.full((300, 1, 8, 8), 0.5, np.float32)
    y = rng.integers(0, CLASSES, 300) if varied else np.zeros(300, dtype=np.int64)
    return Pool("pool", x, y, "in-distribution", same_classes=True, reference=x[:150])


@pytest.mark.parametrize("text", EVERY)
@pytest.mark.parametrize(
    ("kind", "varied"),
    slow_unless(lambda kind, varied: kind == "mixed" and varied, product(ANSWERS, (True, False))),
)
def test_a_transfer_set_and_its_facts_are_finite(text, kind, varied):
    attack, pool = attacks.build(text), pool_of(varied=varied)
    api = FakeApi((210 if text == "auto" else 24) if attack.queries else 0, CLASSES)
    api.probabilities = lambda x: ANSWERS[kind](len(x)).astype(np.float64)
    if "none" not in attack.knowledge:
        api.known = (Known("high_confidence" if text == "recover" else "mahalanobis"),)
    if reason := attack.applicable(pool, Target(CLASSES, linear=True)):
        pytest.skip(reason)
    found = attack.acquire(api, pool, InterimSurrogates("logistic", (1, 8, 8), CLASSES, 3), SEEDS)
    assert np.isfinite(found.x).all()
    assert np.isfinite(found.y).all()
    assert all(value is None or np.isfinite(value) for value in found.facts.values()), found.facts
