"""Probes over a real uvicorn: what an application in the same process cannot show."""

import asyncio
import contextlib
import socket
import tempfile
import threading
import time
from pathlib import Path

import pytest
from naive_servers import Server
from probing import KEYS, a_target
from served import naive_workers, served

from bench.remote.probing.line import Request, SocketLine
from bench.remote.probing.opening import opened
from bench.remote.probing.registry import chosen
from bench.remote.probing.run import planned_inputs, run_probes
from bench.remote.target import Account
from tests.support.load_server import prepared, running


def probed(names, port, environ=KEYS, **fields):
    """Return the findings of probes of a server on this machine; they do not really wait for windows."""
    target = a_target(url=f"http://127.0.0.1:{port}", **{"stated_rate": "20/minute", **fields})
    with (
        tempfile.TemporaryDirectory() as folder,
        opened(
            target,
            Path(folder) / "l.sqlite",
            folder=Path(folder),
            allowed_host=None,
            environ=environ,
            sleep=lambda _: None,
        ) as found,
    ):
        probes = chosen(names.split(","))
        most = planned_inputs(probes, found.context)
        return run_probes(probes, found.context, found.ledger, most=most).findings


@contextlib.contextmanager
def fresh(*faults, **settings):
    """Yield the port of a server whose accounts are not used yet, but for the first request of a run."""
    app = Server(*faults, clock=time.time, **{"limit": 21, "window": 60.0, **settings})
    with served(app, proxy_headers="proxy" in faults) as port:
        yield port, app


@pytest.mark.slow
@pytest.mark.parametrize(("faults", "result"), [((), "holds"), (("proxy", "address"), "does not hold")])
def test_an_address_that_is_only_claimed(faults, result):
    """uvicorn believes X-Forwarded-For from this machine, unless it is told not to."""
    with fresh(*faults, limit=21) as (port, _):
        (finding,) = probed("spoofed-address", port, stated_rate="20/minute")
    assert finding.verdict.result == result, finding.verdict


@pytest.mark.parametrize(("faults", "result"), [((), "holds"), (("connections",), "does not hold")])
def test_requests_in_one_write(faults, result):
    with fresh(*faults) as (port, app):
        (finding,) = probed("pipelining", port, stated_rate="20/minute")
    assert finding.verdict.result == result, finding.verdict
    assert "written at once on one connection" in finding.verdict.evidence[0]
    assert app.answered >= 20


@pytest.mark.parametrize(("faults", "result"), [((), "holds"), (("gives back",), "does not hold")])
def test_connections_that_are_reset_once_the_answer_is_there(faults, result):
    with fresh(*faults) as (port, app):
        (finding,) = probed("resets", port)
    assert finding.verdict.result == result, finding.verdict
    assert app.answered >= 20


NAIVE = {
    "resets": (("gives back",), {"limit": 21}, {}),
    "spoofed-address": (("address",), {"limit": 21}, {}),
    "pipelining": (("connections",), {"limit": 21}, {}),
    "race": (("race",), {"limit": 1000, "quota": 100}, {"stated_rate": "1000/minute", "quota": 100}),
}
"""The fault that a probe has to find, what the server is set to, and what the target file says."""


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("probe", NAIVE)
def test_a_naive_server_is_found_out_whatever_the_number_of_its_processes(probe, number):
    faults, settings, stated = NAIVE[probe]
    if probe in {"resets", "spoofed-address"}:  # each process counts alone, and one of them has to refuse
        settings = {"limit": 21 if number == 1 else 11}
    with naive_workers(number, *faults, window=60.0, **settings) as port:
        (finding,) = probed(probe, port, **stated)
    assert finding.verdict.result == "does not hold", finding.verdict


@pytest.mark.slow
@pytest.mark.parametrize(("number", "result"), [(1, "holds"), (2, "does not hold")])
def test_processes_that_count_alone(number, result):
    with naive_workers(number, limit=20, window=60.0) as port:
        (finding,) = probed("workers", port, stated_rate="20/minute")
    assert finding.verdict.result == result, finding.verdict


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2])
def test_our_own_server_holds_whatever_the_number_of_its_processes(number, tmp_path):
    names = ("spoofed-address", "workers", "pipelining", "resets", "race", "other-doors", "smuggled-rows")
    # Each probe has an account of its own, as none waits until a limit is free again.
    keys = prepared(tmp_path, names, '[quota]\ninputs = 10_000\nrate = "20/minute"\n')
    own = {"model": "fake", "output": "probabilities", "input": None, "shape": (2,), "classes": ("no", "yes")}
    results = {}
    with running(tmp_path, number) as (_, port):
        for name in names:
            account = Account(name=name, key_env="KEY")
            (finding,) = probed(name, port, {"KEY": keys[name]}, accounts=(account,), **own)
            results[name] = finding.verdict.result
    assert results == dict.fromkeys(names, "holds"), results


def test_metrics_on_another_port_are_read_though_the_head_of_the_answer_comes_first():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]

        def answer():
            connection, _ = listening.accept()
            with connection:
                connection.recv(100)
                connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
                time.sleep(0.2)  # so that the two come one after the other
                connection.sendall(b"# TYPE a counter\n")

        thread = threading.Thread(target=answer)
        thread.start()
        line = SocketLine(("127.0.0.1",), "127.0.0.1", port - 2)
        assert b"# TYPE" in line.other_port(2, b"GET /metrics HTTP/1.0\r\n\r\n", seconds=5)
        thread.join(5)


def test_a_connection_is_reset_once_the_document_is_whole_though_the_body_has_not_ended():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        ended = []

        def answer():
            connection, _ = listening.accept()
            with connection:
                connection.settimeout(10)
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                connection.sendall(b'5\r\n{"a":\r\n')
                connection.sendall(b"3\r\n 1}\r\n")
                try:
                    ended.append(connection.recv(1000))
                except OSError as error:
                    ended.append(type(error))

        thread = threading.Thread(target=answer)
        thread.start()
        line = SocketLine(("127.0.0.1",), "127.0.0.1", listening.getsockname()[1])
        (reply,) = line.send([Request("POST", "/", body=b"{}")], seconds=5, reset=True)
        thread.join(10)
    assert (reply.status, reply.body) == (200, b'{"a": 1}')
    assert ended == [ConnectionResetError]


def test_what_a_slow_answer_costs_is_the_time_of_one_request():
    app = Server(clock=time.time, limit=1000)

    async def slow(scope, receive, send):
        if app.answered:
            await asyncio.sleep(5)
        await app(scope, receive, send)

    with served(slow) as port:
        start = time.monotonic()
        findings = probed("noise", port, timeout=0.3)
        assert time.monotonic() - start < 20
    assert findings[0].verdict.result == "cannot be tested"
