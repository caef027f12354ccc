"""Purchases of MLflow's scoring server, which answers labels."""

import socket

import numpy as np
import pytest
from real_servers import inputs, mlflow_target, write

from bench.errors import StoppedError, UsageError
from bench.remote.buying import start_buyer


def test_mlflow_listens_on_this_machine_alone(mlflow):
    with pytest.raises(OSError):  # noqa: PT011  # refused, or no way there, by the system
        socket.create_connection(("127.0.0.2", mlflow.ports[0]), timeout=5).close()


def test_labels_of_mlflow_are_bought_as_one_row_per_class(mlflow, digits, tmp_path):
    buyer = start_buyer(write(tmp_path, mlflow_target(mlflow)), tmp_path / "ledger.sqlite")
    try:
        answers = buyer.ask(inputs(digits.x[:200]), session="attack", purpose="attack")
        facts = buyer.facts()
    finally:
        buyer.close()
    assert set(np.unique(answers)) == {0.0, 1.0}
    assert (answers.sum(axis=1) == 1).all()
    assert (answers.argmax(axis=1) == digits.y[:200]).mean() > 0.9
    assert facts.purposes["attack"].paid == 200
    assert facts.moved == 0


def test_labels_where_probabilities_were_said_stop_after_the_first_request(mlflow, digits, tmp_path):
    file = write(tmp_path, mlflow_target(mlflow, answers="probabilities"))
    buyer = start_buyer(file, tmp_path / "ledger.sqlite")
    try:
        with pytest.raises((UsageError, StoppedError)):
            buyer.ask(inputs(digits.x[:500]), session="attack", purpose="attack")
        assert sum(each.paid for each in buyer.facts().purposes.values()) <= 64
    finally:
        buyer.close()


def test_the_wrong_width_is_refused_at_once_without_paths_of_the_server(mlflow, digits, tmp_path):
    buyer = start_buyer(write(tmp_path, mlflow_target(mlflow)), tmp_path / "ledger.sqlite")
    try:
        with pytest.raises((UsageError, StoppedError)) as raised:
            buyer.ask(inputs(digits.x[:500, :63]), session="attack", purpose="attack")
    finally:
        buyer.close()
    assert ".py" not in str(raised.value)
    assert "site-packages" not in str(raised.value)
