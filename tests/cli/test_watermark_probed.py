"""From the answers of a server with a watermark to the probe of it: the commands, over sockets."""

import contextlib
import json

import pytest
from in_process import moatbench
from served import served

from bench.models.served_victim import ServedVictim
from bench.models.watermarks import has_watermark, use_key
from bench.serve import keys
from bench.serve.app import build_app
from bench.serve.controls import Controls
from bench.serve.noise_seed import noise_seed
from bench.serve.secret_values import Secret
from bench.serve.state import State, state_file
from bench.serve.watermark import watermark_key
from tests.support.asgi_client import JSON, exchange

PEPPER = "p" * 43
CONTROLS = Controls.model_validate({"keys": {"pepper_env": "PEPPER"}, "quota": {"rate": "unlimited"}})
TARGET = """\
url = "http://127.0.0.1:{port}"
protocol = "oip"
model = "digits"
output = "probabilities"
shape = [64]
classes = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
accounts = [{{name = "owner", key_env = "OWNER"}}]
"""


@pytest.fixture
def server(context, digits_spec):
    """Open the server of a folder with some defenses; yields the application and keys of two accounts."""

    @contextlib.contextmanager
    def opening(folder, *defenses):
        stack, victim = context.stack(digits_spec, defenses, 0), context.victim(digits_spec)
        with State(state_file(folder)) as state, contextlib.ExitStack() as ends:
            if has_watermark(stack):
                use_key(stack, watermark_key(state))
            predictor = ServedVictim(
                victim, stack, name="digits", version="1", shows="probabilities", seed=noise_seed(state)
            )
            ends.callback(predictor.close)
            with state.transaction() as connection:
                pepper, now = Secret(PEPPER.encode()), state.now()
                made = [
                    keys.add(connection, pepper, name, "client", now=now, by="admin")
                    for name in ("mallory", "owner")
                ]
            yield build_app(predictor, CONTROLS, state, environ={"PEPPER": PEPPER}), *made

    return opening


def probe(folder, app, key, monkeypatch, *words):
    """Return exit code, what was printed, and what the probe of watermarks found, over a socket."""
    monkeypatch.setenv("OWNER", key)
    with served(app) as port:
        (folder / "t.toml").write_text(TARGET.format(port=port))
        code, said = moatbench(
            folder, "target", "controls", "t.toml", "--only", "watermark", "--out", str(port), *words
        )
    (found,) = json.loads((folder / str(port) / "controls.json").read_text())["probes"]
    return code, said, found


def test_the_probe_finds_the_watermark_of_a_server_that_has_one_and_misses_it_on_one_without(
    server, digits_victim, tmp_path, monkeypatch
):
    rows = digits_victim.splits.pool.x[:120].reshape(120, 64).astype(float).tolist()
    with server(tmp_path / "marked", "dawn(rate=0.3)") as (app, mallory, owner):
        headers = (*JSON, ("authorization", f"Bearer {mallory}"))
        assert exchange(app, "POST", "/predict", {"inputs": rows}, headers)[0] == 200
        code, said = moatbench(
            tmp_path, "watermark", "export", "mallory", "--state", "marked", "--out", "triggers.json"
        )
        assert code == 0, said
        number = len(json.loads((tmp_path / "triggers.json").read_text())["triggers"])
        assert number > 20
        code, said, found = probe(tmp_path, app, owner, monkeypatch, "--triggers", "triggers.json")
    assert code == 0, said
    assert (found["result"], found["inputs"]) == ("holds", number)
    # The server gives the owner the same wrong classes that it gave the client.
    assert f"Of {number} triggers, {number} were not answered with the model's own class" in said
    assert f"and {number} of these with the wrong class" in said
    with server(tmp_path / "plain") as (app, _, owner):
        code, said, found = probe(tmp_path, app, owner, monkeypatch, "--triggers", "triggers.json")
        assert code == 1, said
        assert found["result"] == "does not hold"
        assert f"Of {number} triggers, 0 were not answered with the model's own class" in said
        code, said, found = probe(tmp_path, app, owner, monkeypatch)
    assert (code, found["result"], found["inputs"]) == (3, "cannot be tested", 0)
    assert "with the triggers of --triggers FILE" in said
    assert "no probe of this run could test anything" in said
