"""moatbench's own server in this process, with accounts, for probes."""

import contextlib
import urllib.parse

import jwt
import numpy as np
from asgi_client import FakePredictor

from bench.serve import keys, second_factor
from bench.serve.admin.app import build_admin
from bench.serve.app import build_app
from bench.serve.controls import Controls
from bench.serve.middleware.failed_keys import Limit
from bench.serve.predictor import Answer
from bench.serve.secret_values import Secret
from bench.serve.state import State

PEPPER, SIGNING = "p" * 43, "signing-key-of-a-test-with-many-characters"


class Model(FakePredictor):
    """Three classes of four numbers, in three digits; numbers of more than three digits are flagged."""

    def __init__(self):
        super().__init__(shape=(4,))
        self.name, self.classes = "m", ("a", "b", "c")

    async def answer(self, query, client, number=None):
        rows = np.asarray(query.rows, dtype=float)
        scores = np.exp(np.stack([np.sin(rows.sum(axis=1)), np.cos(rows[:, 0]), 0 * rows[:, 0]], axis=1))
        answers = (scores / scores.sum(axis=1, keepdims=True)).round(3)
        return Answer(answers, (np.abs(rows * 1000 - np.rint(rows * 1000)) > 1e-6).any(axis=1))


@contextlib.contextmanager
def our_server(folder, clock, **controls):
    """Yield application, administration, and what target file and environment need to ask them."""
    tables = {
        "keys": {"pepper_env": "PEPPER", "failures": 1000},
        "quota": {"inputs": 100_000, "rate": "20/minute"},
        "jwt": {"algorithm": "HS256", "audience": "tests", "key_env": "SIGNING"},
        "admin": {"port": 0},
        **controls,
    }
    found = Controls.model_validate(tables)
    environ = {"PEPPER": PEPPER, "SIGNING": SIGNING}
    with State(folder / "state.sqlite", clock=clock) as state:
        pepper = Secret(PEPPER.encode())
        with state.transaction() as connection:
            now = state.now()
            for name, role in (("ann", "client"), ("cy", "client"), ("ops", "metrics")):
                key = keys.add(connection, pepper, name, role, now=now, by="admin")
                environ[name.upper()] = key
            uri = second_factor.enrol(connection, pepper, "ops", now=now)
        environ["TOTP"] = urllib.parse.parse_qs(urllib.parse.urlsplit(uri).query)["secret"][0]
        claims = {"sub": "ann", "aud": "tests", "exp": int(clock()) + 40_000}
        environ["ANN_TOKEN"] = jwt.encode(claims, SIGNING, algorithm="HS256")
        app = build_app(Model(), found, state, folder=folder, environ=environ)
        yield app, build_admin(state, pepper, found.admin, Limit(1000, 60.0)), environ
