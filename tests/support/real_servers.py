"""Target files of the real servers."""

import json

import numpy as np

from bench.remote.exchange import Inputs

CLASSES = [str(digit) for digit in range(10)]


def oip(server, **fields):
    """The target file of MLServer's model of digits."""
    values = {
        "url": server.url,
        "protocol": "oip",
        "model": "digits",
        "input": "x",
        "output": "predict_proba",
    }
    return values | {"classes": CLASSES} | fields


def mlflow_target(server, **fields):
    """The target file of MLflow's model of digits."""
    values = {"url": server.url, "protocol": "mlflow", "answers": "labels"}
    return values | {"classes": CLASSES} | fields


def write(folder, values):
    """Write a target file; return its path."""
    path = folder / "target.toml"
    path.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items()))
    return path


def inputs(x):
    """Inputs that are sent as they are."""
    return Inputs(x, np.asarray(x))
