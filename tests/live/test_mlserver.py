"""Purchases of MLServer, held against its own counters; kills of the process that buys."""

import os
import signal
import socket
import sqlite3
import threading
import time
from contextlib import closing

import numpy as np
import pytest
from real_servers import inputs, oip, write

from bench.errors import StoppedError, UsageError
from bench.remote.buying import start_buyer


def bought(buyer, x, **fields):
    return buyer.ask(inputs(x), **({"session": "attack", "purpose": "attack"} | fields))


def totals(facts):
    """Inputs paid, and those of them without an answer."""
    every = facts.purposes.values()
    return sum(each.paid for each in every), sum(each.unknown for each in every)


def test_mlserver_listens_on_this_machine_alone(mlserver):
    for port in mlserver.ports:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
        with pytest.raises(OSError):  # noqa: PT011  # refused, or no way there, by the system
            socket.create_connection(("127.0.0.2", port), timeout=5).close()


def test_every_request_that_the_ledger_has_is_one_that_mlserver_counts(mlserver, digits, tmp_path):
    before = mlserver.billed()
    buyer = start_buyer(write(tmp_path, oip(mlserver)), tmp_path / "ledger.sqlite")
    try:
        answers = bought(buyer, digits.x[:200])
        again = bought(buyer, digits.x[:200], session="other", purpose="other")
        facts = buyer.facts()
    finally:
        buyer.close()
    assert answers.shape == (200, 10)
    np.testing.assert_allclose(answers.sum(axis=1), 1, atol=1e-5)
    assert (answers.argmax(axis=1) == digits.y[:200]).mean() > 0.9
    np.testing.assert_array_equal(answers, again)
    assert facts.purposes["attack"].paid == facts.purposes["other"].sent == 200
    assert facts.purposes["other"].paid == 0
    assert mlserver.billed() - before == facts.requests
    assert "digits" in facts.identity
    assert facts.digits >= 8


def test_labels_and_probabilities_of_one_model_agree(mlserver, digits, tmp_path):
    answers = []
    for output, kind in (("predict", "labels"), ("predict_proba", "probabilities")):
        folder = tmp_path / kind
        folder.mkdir()
        file = write(folder, oip(mlserver, output=output, answers=kind))
        buyer = start_buyer(file, folder / "ledger.sqlite")
        try:
            answers.append(bought(buyer, digits.x[:50]))
        finally:
            buyer.close()
    assert set(np.unique(answers[0])) == {0.0, 1.0}
    np.testing.assert_array_equal(answers[0].argmax(axis=1), answers[1].argmax(axis=1))


@pytest.mark.parametrize(
    ("fields", "said"),
    [({"model": "nope"}, "not found"), ({"output": "nope"}, "nope"), ({"output": "predict"}, "one number")],
)
def test_a_wrong_target_file_is_one_sentence_after_one_request(mlserver, digits, tmp_path, fields, said):
    buyer = start_buyer(write(tmp_path, oip(mlserver, **fields)), tmp_path / "ledger.sqlite")
    try:
        with pytest.raises((UsageError, StoppedError)) as raised:
            bought(buyer, digits.x[:500])
        facts = buyer.facts()
    finally:
        buyer.close()
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)
    assert totals(facts)[0] <= 64


def test_an_input_that_mlserver_cannot_answer_is_found_and_the_others_are_answered(mlserver, tmp_path):
    # MLServer answers 500 to a whole request with one value that is no number it can read, and then closes.
    x = np.random.default_rng(0).random((40, 64), dtype=np.float32)
    x[17, 3] = np.float32(3e38)
    file = write(tmp_path, oip(mlserver, batch=20))
    buyer = start_buyer(file, tmp_path / "ledger.sqlite")
    try:
        answers = bought(buyer, x)
    finally:
        buyer.close()
    assert np.isfinite(np.delete(answers, 17, axis=0)).all()


def kill_at(process, ledger, inputs):
    """Kill a process once so many inputs are booked in its ledger."""
    while True:
        try:
            with closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as opened:
                booked = opened.execute("select inputs from totals").fetchone()[0]
        except sqlite3.Error:  # it is being made
            booked = 0
        if booked >= inputs:
            os.kill(process, signal.SIGKILL)
            return
        time.sleep(0.002)


def test_five_kills_of_the_buying_process_pay_nothing_twice_and_lose_no_answer(mlserver, digits, tmp_path):
    file, ledger = write(tmp_path, oip(mlserver, batch=2)), tmp_path / "ledger.sqlite"
    x = digits.x[:600]
    before = mlserver.billed()
    for inputs_booked in (40, 150, 260, 370, 480):
        buyer = start_buyer(file, ledger, canary=False)
        killer = threading.Thread(target=kill_at, args=(buyer.pid, ledger, inputs_booked), daemon=True)
        killer.start()
        try:
            with pytest.raises(StoppedError):
                bought(buyer, x)
        finally:
            killer.join(60)
            buyer.close()
    buyer = start_buyer(file, ledger, canary=False)
    try:
        answers = bought(buyer, x)
        facts = buyer.facts()
        again = bought(buyer, x, session="again", purpose="again")
        assert buyer.facts().requests == facts.requests
    finally:
        buyer.close()
    assert np.isfinite(answers).all()
    np.testing.assert_array_equal(answers, again)
    paid, unknown = totals(facts)
    assert paid - unknown == len(x)
    # At most what was being sent at each kill: two inputs on each of four connections.
    assert unknown <= 5 * 4 * 2
    assert len(x) / 2 <= mlserver.billed() - before <= paid / 2
