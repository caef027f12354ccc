"""A server restored from a backup answers as the one that was backed up, and goes on with its counters."""

import contextlib
import json

import pytest
from asgi_client import JSON, exchange

from bench.models.served_victim import ServedVictim
from bench.models.watermarks import use_key
from bench.serve import backup, keys, manifests, signatures
from bench.serve.app import build_app
from bench.serve.controls import Controls
from bench.serve.noise_seed import noise_seed
from bench.serve.secret_values import Secret
from bench.serve.state import State, state_file
from bench.serve.watermark import watermark_key

PEPPER = "p" * 43
CAP = 60
CONTROLS = Controls.model_validate({"keys": {"pepper_env": "PEPPER"}, "quota": {"inputs": CAP}})
DEFENSES = ("dawn(rate=0.4)", "gaussian_noise(scale=0.05)")


@pytest.fixture
def opened(context, digits_spec):
    """Open the server of a folder, as moatbench serve does; yields the application and its state."""

    @contextlib.contextmanager
    def opening(folder):
        stack, victim = context.stack(digits_spec, DEFENSES, 0), context.victim(digits_spec)
        with State(state_file(folder)) as state, contextlib.ExitStack() as ends:
            use_key(stack, watermark_key(state))
            predictor = ServedVictim(
                victim, stack, name="digits", version="1", shows="probabilities", seed=noise_seed(state)
            )
            ends.callback(predictor.close)
            yield build_app(predictor, CONTROLS, state, environ={"PEPPER": PEPPER}), state

    return opening


def new_account(state):
    with state.transaction() as connection:
        now = state.now()
        return keys.add(connection, Secret(PEPPER.encode()), "ann", "client", now=now, by="admin")


def asked(app, key, rows):
    """Return status and answer to requests of ten inputs each, on both routes in turn."""
    headers = (*JSON, ("authorization", f"Bearer {key}"))
    found = []
    for turn, start in enumerate(range(0, len(rows), 10)):
        part = rows[start : start + 10]
        flat = [value for row in part for value in row]
        tensor = {"name": "x", "shape": [len(part), 64], "datatype": "FP32", "data": flat}
        path, body = (
            ("/v2/models/digits/infer", {"inputs": [tensor]}) if turn % 2 else ("/predict", {"inputs": part})
        )
        status, _, answer = exchange(app, "POST", path, body, headers)
        found.append((status, json.dumps(answer)))
    return found


def test_a_restored_server_gives_fifty_equal_answers_and_goes_on_counting(opened, digits_victim, tmp_path):
    rows = digits_victim.splits.test.x[:57].reshape(57, 64).astype(float).tolist()
    before, inputs = rows[:7], rows[7:]
    old, new, other = (tmp_path / name for name in ("old", "new", "other"))
    with opened(old) as (app, state):
        key = new_account(state)
        assert [status for status, _ in asked(app, key, before)] == [200]
        backup.make(old, tmp_path / "backup", {}, pepper=Secret(PEPPER.encode()))
        expected = asked(app, key, inputs)
        marks = state.rows("select account, digest, label from watermark order by digest")
        assert [status for status, _ in asked(app, key, inputs[:10])] == [429]
    public = signatures.new_key_pair(tmp_path / "backup.key")
    signed = manifests.signed(
        manifests.read(tmp_path / "backup", "backup"), signatures.read_private_key(tmp_path / "backup.key")
    )
    manifests.write(tmp_path / "backup", signed)
    backup.restore(
        tmp_path / "backup", signatures.read_public_key(public), new, pepper=Secret(PEPPER.encode())
    )
    with opened(new) as (app, state):
        assert asked(app, key, inputs) == expected
        assert state.rows("select spent from counters") == [(57,)]
        assert state.rows("select account, digest, label from watermark order by digest") == marks
        assert [status for status, _ in asked(app, key, inputs[:10])] == [429]
    assert {status for status, _ in expected} == {200}
    assert len(marks) > 5
    with opened(other) as (app, state):  # a server that was not restored answers otherwise
        own = new_account(state)
        asked(app, own, before)
        again = asked(app, own, inputs)
        assert not {answer for _, answer in again} & {answer for _, answer in expected}
    assert {status for status, _ in again} == {200}
