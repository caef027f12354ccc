"""The time that defenses add to a query, that surrogates take, and that a cell takes beyond that.

Run by ``tox -e latency``, one at a time; plain test runs skip it. Compare only runs of one machine.
"""

import numpy as np
import pytest

from attacks.base import TransferSet
from bench.models import surrogates
from bench.models.determinism import single_thread
from bench.plugins import attacks, defenses
from bench.runner.cells import run_cells
from bench.tasks import Cell

DEFENSES = [
    "none",
    "label_only",
    "top_k(k=3)",
    "rounded(decimals=1)",
    "high_confidence(cutoff=0.9)",
    "gaussian_noise(scale=0.2)",
    "reverse_sigmoid(beta=1.0, gamma=0.5)",
    "mahalanobis(action=refuse)",
]
SURROGATES = {"mlp": (1, 28, 28), "lenet": (1, 28, 28), "logistic": (1, 8, 8)}


@pytest.fixture(autouse=True)
def one_thread():
    with single_thread():
        yield


@pytest.mark.parametrize("batch", [1, 256])
@pytest.mark.parametrize("text", DEFENSES)
@pytest.mark.benchmark(group="answering a batch of queries")
def test_answering(benchmark, text, batch, context, digits_spec, digits_victim):
    stack = () if text == "none" else (defenses.canonical(text),)
    rows = digits_victim.splits.test.x[np.arange(batch) % len(digits_victim.splits.test)]

    def fresh():
        return (context.api(digits_spec, stack, 0, 0),), {}

    benchmark.extra_info["queries"] = batch
    told = benchmark.pedantic(lambda api: api.predict(rows), setup=fresh, rounds=30, warmup_rounds=3)
    assert told.shape == (batch, 10)


def transfer_set(shape, n=1000):
    rng = np.random.default_rng(0)
    x = rng.random((n, *shape), dtype=np.float32)
    return TransferSet(x, rng.dirichlet(np.ones(10), size=n).astype(np.float32))


@pytest.mark.parametrize("architecture", SURROGATES)
@pytest.mark.benchmark(group="training a surrogate, a tenth of the default's steps")
def test_fitting(benchmark, architecture):
    what = transfer_set(SURROGATES[architecture])
    (copy,) = benchmark.pedantic(
        lambda: surrogates.fit([what], architecture, 10, [0], step_fraction=0.1), rounds=5, warmup_rounds=1
    )
    assert not copy.shared


@pytest.mark.parametrize("architecture", SURROGATES)
@pytest.mark.benchmark(group="querying a surrogate, 1,000 inputs")
def test_predicting(benchmark, architecture):
    what = transfer_set(SURROGATES[architecture])
    (copy,) = surrogates.fit([what], architecture, 10, [0], step_fraction=0.001)
    told = benchmark(copy.probabilities, what.x)
    assert told.shape == (1000, 10)


@pytest.mark.benchmark(group="a cell beyond queries, training and evaluation")
def test_overhead(benchmark, context, digits_spec, threat):
    cell = Cell(digits_spec, (), threat, attacks.canonical("copycat"), 10, 0, 1, 0, "rule(epochs=1)")
    (outcome,) = benchmark.pedantic(lambda: run_cells(cell.group(), context), rounds=10, warmup_rounds=1)
    assert outcome.metrics["extraction.fidelity"] is not None
