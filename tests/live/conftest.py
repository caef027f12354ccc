"""Real prediction servers on this machine, in environments of their own (``tox -e mlserver,mlflow,live``)."""

import os
import sys
from importlib import util
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "live-target" / "servers.py"
# By its path: a folder of examples on sys.path could hide modules of other tests.
_spec = util.spec_from_file_location("servers_of_the_example", EXAMPLE)
servers = util.module_from_spec(_spec)
sys.modules[_spec.name] = servers
_spec.loader.exec_module(servers)


def _program(name):
    variable = f"MOATBENCH_{name.upper()}"
    program = os.environ.get(variable)
    if program and Path(program).is_file():
        return Path(program)
    reason = f"{variable} names no {name}: tox -e mlserver,mlflow,live"
    if os.environ.get("MOATBENCH_REQUIRE_LIVE"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def mlserver(tmp_path_factory):
    """Return MLServer with a model of digits, until the session ends."""
    program = _program("mlserver")
    with servers.mlserver(program, tmp_path_factory.mktemp("mlserver")) as server:
        yield server


@pytest.fixture(scope="session")
def mlflow(tmp_path_factory):
    """Return MLflow's scoring server with a model of digits that answers labels, until the session ends."""
    program = _program("mlflow")
    with servers.mlflow(program, tmp_path_factory.mktemp("mlflow")) as server:
        yield server


class Digits:
    """Inputs (899, 64) in [0, 1] and digits that neither server's model learned from."""

    def __init__(self):
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        x, y = load_digits(return_X_y=True)
        x = (x / 16).astype("float32")
        _, self.x, _, self.y = train_test_split(x, y, test_size=0.5, random_state=0, stratify=y)


@pytest.fixture(scope="session")
def digits():
    """Return inputs that the models did not learn from."""
    return Digits()
