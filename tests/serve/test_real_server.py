import asyncio
import contextlib
import datetime as dt
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bench.errors import UsageError
from bench.serve import uvicorn_server, workers
from bench.serve.state import State, state_file
from bench.serve.tls import checked_context
from tests.support.certificates import make_certificate
from tests.support.processes import children as children_of
from tests.support.served import wait_for

SCRIPT = Path(__file__).parents[1] / "support" / "small_server.py"
BODY = json.dumps({"inputs": [[0.25, 1.0]]})
HEADERS = {"Content-Type": "application/json"}


SMALL_DISK = ("sh", "-c", 'ulimit -f 600; exec "$@"', "sh")
"""Lets no file grow beyond some 300 kB."""


@contextlib.contextmanager
def started(folder, workers=1, *more, before=()):
    """Yield a server's process and its port."""
    command = [*before, sys.executable, str(SCRIPT), str(folder), str(workers), *map(str, more)]
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, sys.path))}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ
    )
    try:
        line = process.stdout.readline()
        assert ":" in line, (line, process.communicate(timeout=60))
        yield process, int(line.rpartition(":")[2])
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=60)


def ask(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", "/predict", BODY, HEADERS)
    answer = connection.getresponse()
    status, text = answer.status, answer.read()
    connection.close()
    return status, json.loads(text)


def connected(port, source="127.0.0.1"):
    return socket.create_connection(("127.0.0.1", port), timeout=60, source_address=(source, 0))


def raw(port, *parts, source="127.0.0.1"):
    """Send bytes on a connection of their own; return everything until the server ends it."""
    with connected(port, source) as connection:
        for part in parts:
            connection.sendall(part)
        found = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := connection.recv(65536):
                found += piece
        return found


def test_clients_that_never_end_a_request_and_lines_that_are_no_http_are_ended(tmp_path):
    with started(tmp_path) as (process, port):
        assert ask(port) == (200, {"predictions": [[0.75, 0.25]]})
        head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        endless = (
            (),  # no request at all
            (b"POST /predict HTTP/1.1\r\nHost: x\r\nX-",),  # headers that never end
            (head + b"Content-Length: 100\r\n\r\n{",),
            (head + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n{\r\n"),
        )
        with ThreadPoolExecutor(len(endless)) as pool:  # each waits for the same deadline
            nothing, headers, late, chunked = pool.map(lambda parts: raw(port, *parts), endless)
        assert nothing == headers == b""
        assert late.startswith(b"HTTP/1.1 408")
        assert late.endswith(b'{"error":"the body took too long"}')
        assert chunked.startswith(b"HTTP/1.1 408")
        long = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 20_000 + b"\r\n\r\n"
        assert raw(port, long).startswith(b"HTTP/1.1 431")
        both = head + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        assert not raw(port, both).startswith(b"HTTP/1.1 200")
        answer = raw(port, b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b"server:" not in answer.lower()
        marked = raw(port, head.replace(b"/predict", b"/predict?") + b"Connection: close\r\n\r\n")
        assert marked.startswith(b"HTTP/1.1 404")  # a "?" with nothing behind it is another spelling too
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
        assert process.returncode == 130


def test_two_requests_in_one_write_get_two_answers_and_connections_are_limited_by_address_too(
    tmp_path,
):
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    request = head + f"Content-Length: {len(BODY)}\r\n\r\n{BODY}".encode()
    with started(tmp_path) as (process, port):
        last = request.replace(b"Host: x", b"Host: x\r\nConnection: close")
        assert raw(port, request + last).count(b'{"predictions":[[0.75,0.25]]}') == 2

        def answered(source):
            with contextlib.suppress(ConnectionError):
                return raw(port, last, source=source).startswith(b"HTTP/1.1 200")
            return False

        with contextlib.ExitStack() as opened:
            mine = [opened.enter_context(connected(port)) for _ in range(12)]
            assert not answered("127.0.0.1")
            assert answered("127.0.0.2")  # another address has its own
            mine.pop().close()
            wait_for(lambda: answered("127.0.0.1"))
        with contextlib.ExitStack() as opened:
            for source in ["127.0.0.3"] * 10 + ["127.0.0.4"] * 10:
                opened.enter_context(connected(port, source))
            assert not answered("127.0.0.5")
        process.terminate()
        process.wait(timeout=60)
        assert process.returncode == 0


def test_a_second_server_on_one_state_is_refused(tmp_path):
    with (
        workers.sole_server(tmp_path),
        pytest.raises(UsageError, match="another server uses the state"),
        workers.sole_server(tmp_path),
    ):
        pass
    with workers.sole_server(tmp_path):
        pass


def test_answers_are_not_held_back_for_the_acknowledgement_of_their_headers():
    """Head and body of an answer are two writes: with Nagle's algorithm, the second waits some 40 ms."""

    async def option():
        found = asyncio.get_running_loop().create_future()

        async def accepted(_, writer):
            sock = writer.get_extra_info("socket")
            found.set_result(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        with contextlib.closing(uvicorn_server.bound("127.0.0.1", 0)) as sock:
            server = await asyncio.start_server(accepted, sock=sock)
            async with server:
                _, writer = await asyncio.open_connection(*sock.getsockname())
                value = await asyncio.wait_for(found, 60)
                writer.close()
                await writer.wait_closed()
        return value

    assert asyncio.run(option())


def test_a_port_in_use_is_refused():
    with contextlib.closing(uvicorn_server.bound("127.0.0.1", 0)) as sock:
        sock.listen()
        with pytest.raises(UsageError, match="choose another --port"):
            uvicorn_server.bound("127.0.0.1", sock.getsockname()[1])


def test_a_certificate_that_cannot_serve_is_refused_before_anything_listens(tmp_path):
    certificate, key = make_certificate(tmp_path)
    assert checked_context(certificate, key).minimum_version == ssl.TLSVersion.TLSv1_2
    for files, words in (
        ((tmp_path / "none.crt", key), "no certificate"),
        ((certificate, tmp_path / "none.key"), "no key"),
        ((key, key), "holds no certificate"),
        ((certificate, certificate), "can be read by every user|does not fit"),
        (make_certificate(tmp_path, days=-1, name="old"), "expired on"),
        ((certificate, make_certificate(tmp_path, name="other")[1]), "does not fit"),
    ):
        with pytest.raises(UsageError, match=words):
            checked_context(*files)
    with pytest.raises(UsageError, match="not valid before"):
        checked_context(certificate, key, now=dt.datetime(2001, 1, 1, tzinfo=dt.UTC))
    key.chmod(0o644)
    with pytest.raises(UsageError, match="chmod 600"):
        checked_context(certificate, key)


@pytest.mark.slow
def test_tls_is_served_and_nothing_without_it(tmp_path):
    certificate, key = make_certificate(tmp_path)
    with started(tmp_path / "state", 1, certificate, key) as (_, port):
        context = ssl.create_default_context(cafile=certificate)
        connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=60)
        connection.request("POST", "/predict", BODY, HEADERS)
        assert connection.getresponse().status == 200
        connection.close()
        assert not raw(port, b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n").startswith(b"HTTP")
        with socket.create_connection(("127.0.0.1", port), timeout=30) as silent:
            assert silent.recv(1) == b""  # no handshake: ended before the minute that asyncio gives


@pytest.mark.slow
def test_a_worker_that_dies_is_noticed_and_replaced_and_all_end_with_their_parent(tmp_path):
    with started(tmp_path, 2) as (process, port):
        children = children_of(process.pid, b"spawn_main")
        assert len(children) == 2
        os.kill(children[0], signal.SIGKILL)
        line = process.stderr.readline()
        assert "a worker ended with exit code -9; another one starts" in line
        assert ask(port)[0] == 200
        process.kill()  # the workers see that the parent is gone
        process.wait(timeout=60)
        with contextlib.suppress(ConnectionError):
            while True:
                ask(port)


@pytest.mark.slow
def test_a_model_that_cannot_be_loaded_ends_the_server_with_its_sentence(tmp_path):
    (tmp_path / "broken").touch()
    for number in (1, 2):
        done = subprocess.run(
            [sys.executable, str(SCRIPT), str(tmp_path), str(number)],
            capture_output=True,
            text=True,
            timeout=120,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, sys.path))},
            check=False,
        )
        assert (done.returncode, done.stdout) == (2, "the model is broken\n"), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2])
def test_a_full_disk_ends_the_server_and_no_answer_leaves_that_is_not_in_the_log(number, tmp_path):
    answered = 0
    with started(tmp_path, number, before=SMALL_DISK) as (process, port):
        with contextlib.suppress(ConnectionError, http.client.HTTPException):
            for _ in range(3_000):
                status, answer = ask(port)
                if status != 200:
                    assert (status, answer) == (503, {"error": "the server cannot answer now"})
                    break
                answered += 1
        process.wait(timeout=60)
        assert process.returncode == 3
        assert "the state file cannot be written" in process.stdout.read()
    assert 0 < answered < 3_000
    with State(state_file(tmp_path)) as state:
        rows = state.rows("select record from audit where record like '%\"answered\"%'")
    assert len(rows) >= answered
