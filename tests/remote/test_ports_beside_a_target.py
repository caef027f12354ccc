"""What listens beside a target is found whether it speaks plainly or by TLS."""

import contextlib
import socket
import ssl
import threading
import time

import pytest
from asgi_line import AsgiLine, Clock
from certificates import make_certificate
from naive_servers import Server
from probing import a_target, probing
from served import served

from bench.remote.probing.line import SocketLine
from bench.remote.probing.registry import chosen
from bench.remote.probing.run import run_probes

METRICS = b"HTTP/1.0 200 OK\r\n\r\n# TYPE a counter\n"
SETTINGS = b"\0\0\0\4\0\0\0\0\0"
"""The first frame of a server of HTTP/2: empty settings."""


@contextlib.contextmanager
def answering(port, content, context=None):
    """Answer ``content`` on a port, by TLS if there is a ``context``; yields the protocols asked for."""
    asked = []
    with socket.create_server(("127.0.0.1", port)) as listening:
        listening.settimeout(0.1)
        ended = threading.Event()

        def answer():
            while not ended.is_set():
                with contextlib.suppress(OSError):  # the time is over, or the client speaks another language
                    connection, _ = listening.accept()
                    with connection:
                        connection.settimeout(5)
                        secure = context.wrap_socket(connection, server_side=True) if context else connection
                        with secure:
                            asked.append(context and secure.selected_alpn_protocol())
                            secure.recv(100)
                            secure.sendall(content)

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield asked
        finally:
            ended.set()
            thread.join(10)


def probed(line, clock):
    """Return what the probe of other ways finds over a line."""
    with probing(line, clock, target=a_target(stated_rate=None)) as opened:
        outcome = run_probes(chosen(["other-doors"]), opened.context, opened.ledger, most=100)
    return outcome.findings[0]


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    certificate, key = make_certificate(tmp_path_factory.mktemp("tls"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


@contextlib.contextmanager
def target_beside(offset, content, context):
    """Yield the port of a server without a fault, with another listener ``offset`` above it."""
    for _ in range(20):
        with served(Server(clock=time.time, limit=1000)) as port, contextlib.ExitStack() as opened:
            try:
                asked = opened.enter_context(answering(port + offset, content, context))
            except OSError:  # that port is somebody else's
                continue
            yield port, asked
            return
    raise AssertionError("no port with a free one beside it was found")


@pytest.mark.parametrize(
    ("offset", "content", "protocol", "name"),
    [
        (1, SETTINGS, "h2", "gRPC by TLS on the next port"),
        (2, METRICS, "http/1.1", "metrics by TLS on the port after that"),
    ],
)
def test_a_neighbour_that_speaks_tls_is_found(offset, content, protocol, name, tls):
    with target_beside(offset, content, tls) as (port, asked):
        finding = probed(SocketLine(("127.0.0.1",), "127.0.0.1", port), Clock())
    assert finding.verdict.result == "does not hold", finding.verdict
    assert finding.verdict.evidence[0].endswith(f"ways outside the protocol are open: {name}.")
    assert asked == [protocol]


@pytest.mark.parametrize("offset", [1, 2])
def test_a_neighbour_of_another_kind_is_no_way_to_the_model(offset, tls):
    with target_beside(offset, b"220 mail\r\n", tls) as (port, asked):
        finding = probed(SocketLine(("127.0.0.1",), "127.0.0.1", port), Clock())
    assert finding.verdict.result == "holds", finding.verdict
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ((1, ""), "gRPC on the next port"),
        ((2, ""), "metrics on the port after that"),
        ((1, "h2"), "gRPC by TLS on the next port"),
        ((2, "http/1.1"), "metrics by TLS on the port after that"),
    ],
)
def test_each_port_is_asked_plainly_and_by_tls(place, name):
    clock = Clock()
    line = AsgiLine(Server(clock=clock))
    line.ports[place] = SETTINGS if place[0] == 1 else METRICS
    finding = probed(line, clock)
    line.close()
    assert finding.verdict.evidence[0].endswith(f"are open: {name}.")


def test_a_port_that_is_closed_or_silent_answers_nothing():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        line = SocketLine(("127.0.0.1",), "127.0.0.1", listening.getsockname()[1] - 1)
        assert line.other_port(1, b"x", seconds=0.2, tls="h2") == b""
    assert line.other_port(1, b"x", seconds=0.2, tls="h2") == b""
