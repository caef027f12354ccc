"""Whatever JSON a target answers with: answers that are whole, or one error that says it was billed."""

import json

import httpx2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from live_targets import inputs, target

from bench.remote.client import open_exchange
from bench.remote.exchange import AttemptError

LEAVES = (
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.5, 0.25, 1.0, 1e308, 1e999, -0.5])
)
LEAVES |= st.sampled_from(["a", "b", "c", "p", "NaN", ""])
KEYS = st.sampled_from(
    ["outputs", "predictions", "answers", "name", "shape", "data", "id", "error", "a", "b", "c"]
)
ANY = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=20,
)
EXAMPLES = 8
"""Of each protocol and kind; 150 found no fault either, in 40 seconds."""
VALUES = {
    "probabilities": {},
    "labels": {"answers": "labels"},
    "partial": {"partial": True},
    "log": {"scale": "log"},
    "one": {"classes": ["a", "b"], "positive": "a"},
}


@pytest.mark.parametrize("protocol", ["oip", "json"])
@pytest.mark.parametrize("kind", VALUES)
def test_answers_are_whole_or_one_error(tmp_path, protocol, kind):
    content = [b""]
    exchange = open_exchange(
        target(tmp_path, protocol, **VALUES[kind]),
        folder=tmp_path,
        allowed_host=None,
        environ={},
        transport=httpx2.MockTransport(lambda _: httpx2.Response(200, content=content[0])),
    )

    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None)
    @given(rows=ANY, shape=ANY, extra=ANY)
    def check(rows, shape, extra):
        tensor = {"name": "p", "shape": shape, "data": rows}
        for document in (
            extra,
            {"outputs": [tensor], "id": extra, "model_name": extra},
            {"outputs": [{**tensor, "shape": [2, 3]}]},
            {"outputs": rows, "predictions": rows, "answers": rows, "deployedModelId": extra},
        ):
            content[0] = json.dumps(document).encode()
            check_one(exchange, 2 if kind == "one" else 3)

    check()
    exchange.close()


def check_one(exchange, classes):
    """Fail unless a request brings whole answers, or one error that was billed."""
    error = None
    try:
        reply = exchange.attempt(inputs(2), account="", idempotency="once")
    except AttemptError as caught:
        error = caught
    if error is not None:
        assert (error.billed, error.action) == ("yes", "stop"), str(error)
        assert "\n" not in str(error)
        assert len(str(error)) < 600
    else:
        assert reply.answers.shape == (2, classes)
        assert np.isfinite(reply.answers).all()
        assert reply.answers.min() >= 0
        assert reply.answers.max() <= 1
