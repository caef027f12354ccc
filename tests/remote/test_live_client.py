"""One request over the network of this machine: where it goes, how long, how much, and what is judged."""

import gzip
import shutil
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import httpcore2
import httpx2
import pytest
from live_targets import inputs, server_context, serving, target

from bench.errors import UsageError
from bench.remote.client import fingerprint, open_exchange, public_url
from bench.remote.connections import Deadline
from bench.remote.exchange import AttemptError, Inputs

GOOD = {"predictions": [[0.5, 0.25, 0.25]]}


def opened(tmp_path, protocol="mlflow", transport=None, environ=None, resolver=None, clock=None, **values):
    more = {"resolver": resolver} if resolver else {}
    more |= {"clock": clock} if clock else {}
    return open_exchange(
        target(tmp_path, protocol, **values),
        folder=tmp_path,
        allowed_host=None,
        environ=environ or {},
        transport=transport,
        **more,
    )


def failure(exchange, n=1):
    """Return (message, billed, action) of a request that brings no answers."""
    with pytest.raises(AttemptError) as caught:
        exchange.attempt(inputs(n), account="", idempotency="once")
    exchange.close()
    return str(caught.value), caught.value.billed, caught.value.action


def answering(*answers):
    """Return a transport with an answer a request; the requests are kept as its ``requests``."""
    left = list(answers)
    requests = []

    def answer(request):
        requests.append(request)
        return left.pop(0) if len(left) > 1 else left[0]

    transport = httpx2.MockTransport(answer)
    transport.requests = requests
    return transport


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Return the files of a certificate of the host model.example, and of its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    command = [
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
        *(
            "-keyout",
            folder / "key.pem",
            "-out",
            folder / "ca.pem",
            "-days",
            "2",
            "-subj",
            "/CN=model.example",
        ),
        *("-addext", "subjectAltName=DNS:model.example"),
    ]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "ca.pem", folder / "key.pem"


def test_the_connection_goes_to_the_checked_address_under_the_name_of_the_url(tmp_path, certificate):
    ca_file, key = certificate
    seen = []

    def answer(handler):
        seen.append((handler.headers["host"], name[0]))
        handler.reply(200, GOOD)

    context = server_context(ca_file, key)
    name = []
    context.sni_callback = lambda _, server_name, __: name.append(server_name)
    resolved = []

    def resolver(host, port):
        resolved.append((host, port))
        return ("127.0.0.1",)

    with serving(answer, context) as port:
        exchange = opened(
            tmp_path, url=f"https://model.example:{port}", ca_file=str(ca_file), resolver=resolver
        )
        for _ in range(3):
            assert exchange.attempt(inputs(1), account="", idempotency="once").answers.shape == (1, 3)
        exchange.close()
    assert resolved == [("model.example", port)]
    assert seen == [(f"model.example:{port}", "model.example")] * 3
    assert len(name) == 1, "one connection is used again"


@pytest.mark.parametrize("scheme", ["HTTPS", "Https"])
def test_a_scheme_in_capitals_is_the_same(tmp_path, certificate, scheme):
    ca_file, key = certificate
    with serving(lambda handler: handler.reply(200, GOOD), server_context(ca_file, key)) as port:
        exchange = opened(
            tmp_path,
            url=f"{scheme}://model.example:{port}",
            ca_file=str(ca_file),
            resolver=lambda *_: ("127.0.0.1",),
        )
        assert exchange.attempt(inputs(1), account="", idempotency="once").answers.shape == (1, 3)
        exchange.close()
    with pytest.raises(UsageError, match="ca_file"):
        opened(tmp_path, url=f"{scheme}://127.0.0.1", ca_file="missing.pem")


@pytest.mark.parametrize(
    "host", ["xn--mnchen-3ya.localhost", "XN--MNCHEN-3YA.localhost", "[::1]", "LOCALHOST."]
)
def test_a_host_in_any_plain_form_is_read_in_one_way(tmp_path, host):
    transport = answering(httpx2.Response(200, json=GOOD))
    exchange = opened(
        tmp_path, url=f"http://{host}:80", transport=transport, resolver=lambda *_: ("127.0.0.1",)
    )
    exchange.attempt(inputs(1), account="", idempotency="once")
    assert transport.requests[0].url.raw_host.decode() == host.strip("[]").lower()


def test_a_certificate_of_another_host_or_signer_is_refused(tmp_path, certificate):
    ca_file, key = certificate
    with serving(lambda handler: handler.reply(200, GOOD), server_context(ca_file, key)) as port:
        for values in (
            {"url": f"https://other.example:{port}", "ca_file": str(ca_file)},
            {"url": f"https://model.example:{port}"},
        ):
            exchange = opened(tmp_path, resolver=lambda *_: ("127.0.0.1",), **values)
            message, *verdict = failure(exchange)
            assert "certificate is not accepted" in message
            assert verdict == ["no", "stop"]


def test_no_tls_on_the_other_side_is_a_fault_of_the_file(tmp_path):
    with serving(lambda handler: handler.reply(200, GOOD)) as port:
        message, *verdict = failure(
            opened(tmp_path, url=f"https://localhost:{port}", resolver=lambda *_: ("127.0.0.1",))
        )
    assert "speaks no TLS" in message
    assert verdict == ["no", "stop"]


def test_a_file_without_certificates_is_named(tmp_path):
    (tmp_path / "ca.pem").write_text("nothing")
    for name in ("ca.pem", "missing.pem"):
        with pytest.raises(UsageError, match=name):
            opened(tmp_path, url="https://127.0.0.1", ca_file=name)


def test_neither_proxies_nor_netrc_of_this_machine_are_used(tmp_path, monkeypatch):
    seen = []

    def answer(handler):
        seen.append(handler.headers["authorization"])
        handler.reply(200, GOOD)

    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password s3cret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.9:9")
    with serving(answer) as port:
        exchange = opened(tmp_path, url=f"http://127.0.0.1:{port}")
        exchange.attempt(inputs(1), account="", idempotency="once")
        exchange.close()
    assert seen == [None]


def test_no_log_has_the_key(tmp_path, caplog):
    caplog.set_level("DEBUG")
    with serving(lambda handler: handler.reply(200, GOOD)) as port:
        exchange = opened(
            tmp_path,
            url=f"http://127.0.0.1:{port}",
            accounts=[{"name": "me", "key_env": "KEY"}],
            environ={"KEY": "s3cret-Value"},
        )
        exchange.attempt(inputs(1), account="", idempotency="once")
        exchange.close()
    assert "send_request_headers" in caplog.text, "the test has to see what is logged"
    assert "s3cret-Value" not in caplog.text


def test_a_second_address_is_tried_where_the_first_takes_no_connection(tmp_path):
    with serving(lambda handler: handler.reply(200, GOOD)) as port:
        exchange = opened(
            tmp_path, url=f"http://localhost:{port}", resolver=lambda *_: ("127.0.0.9", "127.0.0.1")
        )
        assert exchange.attempt(inputs(1), account="", idempotency="once").seconds > 0
        exchange.close()


def test_no_connection_was_not_billed(tmp_path):
    with serving(lambda handler: handler.reply(200, GOOD)) as port:
        pass
    message, *verdict = failure(opened(tmp_path, url=f"http://127.0.0.1:{port}"))
    assert "takes no connection" in message
    assert verdict == ["no", "retry"]


@pytest.mark.parametrize("part", ["head", "body"])
def test_a_server_that_drips_is_ended_as_a_whole(tmp_path, part):
    over = threading.Event()

    def answer(handler):
        if part == "body":
            handler.send_response(200)
            handler.send_header("content-length", "100000")
            handler.end_headers()
        else:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
        for _ in range(2000):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            if over.wait(0.01):
                break

    with serving(answer) as port:
        message, *verdict = failure(opened(tmp_path, url=f"http://127.0.0.1:{port}", timeout=0.2))
        over.set()
    assert "does not answer in time" in message
    assert verdict == ["unknown", "retry"]


def test_no_step_begins_after_the_deadline():
    now = [0.0]
    deadline = Deadline(lambda: now[0])
    assert deadline.left(5.0) == 5.0, "before the first request there is none"
    deadline.start(10.0)
    now[0] = 8.0
    assert (deadline.left(5.0), deadline.left(1.0), deadline.left(None)) == (2.0, 1.0, 2.0)
    now[0] = 10.0
    with pytest.raises(httpcore2.ReadTimeout):
        deadline.left(5.0)
    with pytest.raises(httpcore2.ConnectTimeout):
        deadline.left(5.0, httpcore2.ConnectTimeout)
    deadline.start(3.0)
    assert deadline.left(None) == 3.0


def test_a_connection_that_breaks_may_have_been_billed(tmp_path):
    with serving(lambda handler: handler.connection.shutdown(socket.SHUT_RDWR)) as port:
        message, *verdict = failure(opened(tmp_path, url=f"http://127.0.0.1:{port}"))
    assert "broke before an answer came" in message
    assert verdict == ["unknown", "retry"]


def test_after_a_failure_of_the_server_the_next_request_has_a_fresh_connection(tmp_path):
    clients = []

    def answer(handler):
        clients.append(handler.client_address)
        handler.reply(*((500, b"Internal Server Error") if len(clients) == 2 else (200, GOOD)))

    with serving(answer) as port:
        exchange = opened(tmp_path, url=f"http://127.0.0.1:{port}")
        for number in range(4):
            if number == 1:
                with pytest.raises(AttemptError, match="500"):
                    exchange.attempt(inputs(1), account="", idempotency="once")
            else:
                exchange.attempt(inputs(1), account="", idempotency="once")
        exchange.close()
    assert clients[0] == clients[1] != clients[2] == clients[3]


def test_one_exchange_serves_several_threads(tmp_path):
    clients = set()

    def answer(handler):
        clients.add(handler.client_address)
        rows = len(handler.content.split(b"],["))
        handler.reply(200, {"predictions": [[0.5, 0.25, 0.25]] * rows})

    with serving(answer) as port:
        exchange = opened(tmp_path, url=f"http://127.0.0.1:{port}", connections=3)
        with ThreadPoolExecutor(6) as threads:
            sizes = list(range(1, 25))
            replies = threads.map(
                lambda n: exchange.attempt(inputs(n), account="", idempotency=str(n)), sizes
            )
            assert [len(reply.answers) for reply in replies] == sizes
        exchange.close()
    assert len(clients) <= 3


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(tmp_path, status):
    transport = answering(httpx2.Response(status, headers={"location": "http://203.0.113.5/steal"}))
    message, *verdict = failure(opened(tmp_path, transport=transport))
    assert "which is not followed" in message
    assert "203.0.113.5" not in message
    assert verdict == ["no", "stop"]
    assert len(transport.requests) == 1


def test_answers_beyond_what_was_asked_are_not_read(tmp_path):
    sent = []

    def body():
        for _ in range(200):
            sent.append(1)
            yield b"[0.5, 0.25, 0.25], " * 4000

    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, content=body()))
    message, *verdict = failure(opened(tmp_path, transport=transport))
    assert "bytes" in message
    assert verdict == ["yes", "stop"]
    assert len(sent) < 30


def test_the_size_is_counted_after_decompression(tmp_path):
    content = gzip.compress(b" " * 20_000_000)
    transport = answering(httpx2.Response(200, content=content, headers={"content-encoding": "gzip"}))
    assert failure(opened(tmp_path, transport=transport))[1:] == ("yes", "stop")
    broken = answering(
        httpx2.Response(200, stream=httpx2.ByteStream(b"no gzip"), headers={"content-encoding": "gzip"})
    )
    assert failure(opened(tmp_path, transport=broken))[1:] == ("yes", "stop")


def test_the_time_of_a_whole_answer_is_by_the_clock(tmp_path):
    seconds = iter(range(0, 10_000, 40))
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, content=iter([b"["] * 5)))
    message, *verdict = failure(opened(tmp_path, transport=transport, clock=lambda: float(next(seconds))))
    assert "does not answer in time" in message
    assert verdict == ["unknown", "retry"]


def test_headers_of_the_file_the_key_and_the_idempotency_key_are_sent(tmp_path):
    transport = answering(httpx2.Response(200, json=GOOD))
    exchange = opened(
        tmp_path,
        transport=transport,
        environ={"K1": "one", "K2": "two"},
        headers={"X-Team": "red"},
        key_header="X-Api-Key",
        idempotency_header="Idempotency-Key",
        accounts=[{"name": "first", "key_env": "K1"}, {"name": "second", "key_env": "K2"}, {"name": "third"}],
    )
    for account in ("", "second", "third"):
        exchange.attempt(inputs(1), account=account, idempotency=f"once-{account}")
    sent = [request.headers for request in transport.requests]
    assert [each.get("x-api-key") for each in sent] == ["one", "two", None]
    assert [each["idempotency-key"] for each in sent] == ["once-", "once-second", "once-third"]
    assert {each["x-team"] for each in sent} == {"red"}
    assert {each["content-type"] for each in sent} == {"application/json"}
    with pytest.raises(AttemptError, match="no account 'fourth'") as caught:
        exchange.attempt(inputs(1), account="fourth", idempotency="once")
    assert (caught.value.billed, caught.value.action) == ("no", "stop")
    assert len(transport.requests) == 3


HIDDEN = "(its own words are not shown, as they may repeat the inputs)"


def test_no_cookie_of_one_account_is_sent_by_another(tmp_path):
    transport = answering(httpx2.Response(200, json=GOOD, headers={"set-cookie": "account=first; Path=/"}))
    exchange = opened(tmp_path, transport=transport, accounts=[{"name": "first"}, {"name": "second"}])
    for account in ("first", "second"):
        exchange.attempt(inputs(1), account=account, idempotency="once")
    assert all("cookie" not in request.headers for request in transport.requests)


def test_a_template_may_have_a_content_type_of_its_own(tmp_path):
    transport = answering(httpx2.Response(200, json={"answers": [[0.5, 0.25, 0.25]]}))
    exchange = opened(
        tmp_path, "json", transport=transport, headers={"content-type": "application/vnd.x+json"}
    )
    exchange.attempt(inputs(1), account="", idempotency="once")
    assert transport.requests[0].headers.get_list("content-type") == ["application/vnd.x+json"]


@pytest.mark.parametrize(
    ("status", "answer", "repeated"),
    [
        (404, {"error": "Model nope not found"}, "(Model nope not found)"),
        (
            400,
            {"error_code": "BAD_REQUEST", "message": "Failed to parse", "stack_trace": "/srv/app.py"},
            "(Failed to parse)",
        ),
        (400, {"error": {"code": 400, "message": "no such field"}}, "(no such field)"),
        (400, {"error": "cannot convert 0.125 to a label"}, HIDDEN),
        (400, {"error": "bad value 12345678"}, HIDDEN),
        (400, {"error": "cannot parse [[0, 12, 255, 3"}, HIDDEN),
        (400, {"error": "cannot parse [-1 ,-2"}, HIDDEN),
        (400, {"error": "cannot parse ['0', '12']"}, HIDDEN),
        (400, {"error": "cannot parse [[ 0 12 255]]"}, HIDDEN),
        (400, {"error": "3 inputs, 1 model"}, "(3 inputs, 1 model)"),
        (422, {"detail": [{"msg": "wrong", "input": [0.5]}]}, None),
        (400, b"<html>0.125</html>", None),
        (400, {"error": "x" * 5000}, None),
        (400, {"error": "x" * 500}, f"({'x' * 120}…)"),
        (500, {"error": "RuntimeError at 0x1"}, None),
    ],
)
def test_a_message_repeats_what_the_target_says_unless_it_may_be_the_inputs(
    tmp_path, status, answer, repeated
):
    content = {"content": answer} if isinstance(answer, bytes) else {"json": answer}
    message, *_ = failure(opened(tmp_path, transport=answering(httpx2.Response(status, **content))))
    assert str(status) in message
    assert (repeated in message) if repeated else ("(" not in message)


def test_a_message_repeats_no_text_of_a_table(tmp_path):
    table = Inputs(inputs(1).x, [["Ada Lovelace", 1]], ("name", "age"))
    for words in ("no Ada Lovelace here", "x " * 100 + "Ada Lovelace"):
        exchange = opened(tmp_path, transport=answering(httpx2.Response(400, json={"message": words})))
        with pytest.raises(AttemptError, match="may repeat the inputs") as caught:
            exchange.attempt(table, account="", idempotency="once")
        assert "Ada" not in str(caught.value)


def test_what_a_target_says_of_itself_is_free_and_never_an_error(tmp_path):
    def answer(request):
        said = {
            "/v2": httpx2.Response(200, json={"name": "mlserver", "version": "1.7.1", "extensions": []}),
            "/v2/models/digits/ready": httpx2.Response(200),
            "/v2/models/digits": httpx2.Response(404, json={"error": "Model digits not found"}),
        }
        assert request.method == "GET"
        return said[request.url.path]

    exchange = opened(tmp_path, "oip", transport=httpx2.MockTransport(answer))
    said = exchange.metadata()
    assert said["ready"] is True
    assert said["server"]["name"] == "mlserver"
    assert said["model"] is None


def test_an_address_is_shown_without_what_follows_the_path(tmp_path):
    assert public_url(target(tmp_path, "json", url="http://127.0.0.1:80/p?v=1")) == "http://127.0.0.1:80/p"
    assert public_url(target(tmp_path, "python")) == "model.py:predict"


def test_a_fingerprint_is_of_what_answers_depend_on(tmp_path):
    known = fingerprint(target(tmp_path), "digits v1")
    assert fingerprint(target(tmp_path, batch=8, budget=5, rate="1/second"), "digits v1") == known
    others = [
        fingerprint(target(tmp_path), "digits v2"),
        fingerprint(target(tmp_path, url="http://127.0.0.1:8081"), "digits v1"),
        fingerprint(target(tmp_path, output="predict"), "digits v1"),
        fingerprint(target(tmp_path, answers="labels"), "digits v1"),
        fingerprint(target(tmp_path, classes=["a", "c", "b"]), "digits v1"),
    ]
    assert len({known, *others}) == 6


FUNCTION = """
import numpy as np
def predict(rows):
    return np.tile([0.5, 0.25, 0.25], (len(rows), 1)).astype("float32")
def labels(rows):
    return np.array([1] * len(rows))
def broken(rows):
    return {}["gone"]
def hangs(rows):
    import threading
    ended = threading.Event()
    stopped.append(ended)
    ended.wait(60)
    return predict(rows)
def lost(rows):
    raise ConnectionResetError("gone")
def leave(rows):
    raise SystemExit(1)
def nothing(rows):
    return None
def throttled(rows):
    from bench.remote.exchange import AttemptError, Inputs
    raise AttemptError("it is throttled", billed="no", action="retry", wait=3.0)
def empty(rows):
    import queue
    queue.SimpleQueue().get_nowait()
def deep(rows):
    import json
    json.loads("nothing")
stopped = []
number = 5
"""


def function(tmp_path, name, **values):
    (tmp_path / "model.py").write_text(FUNCTION)
    return opened(tmp_path, "python", url=f"model.py:{name}", **values)


def test_a_function_is_a_target(tmp_path):
    reply = function(tmp_path, "predict").attempt(inputs(2), account="", idempotency="once")
    assert reply.answers.tolist() == [[0.5, 0.25, 0.25]] * 2
    said = function(tmp_path, "labels", answers="labels", classes=["0", "1"])
    assert said.attempt(inputs(2), account="", idempotency="once").answers.tolist() == [[0, 1]] * 2
    assert said.metadata() == {}


@pytest.mark.parametrize(
    ("name", "sentence", "billed", "action"),
    [
        ("broken", "model.py:broken, line 8: KeyError", "unknown", "stop"),
        ("lost", "ConnectionResetError", "unknown", "retry"),
        ("leave", "SystemExit", "unknown", "stop"),
        ("empty", "Empty", "unknown", "stop"),
        ("deep", "model.py:deep, line 29: JSONDecodeError", "unknown", "stop"),
        ("nothing", "the function returns NoneType", "yes", "stop"),
        ("throttled", "it is throttled", "no", "retry"),
        ("labels", "one number an answer came", "yes", "stop"),
    ],
)
def test_a_function_that_fails_is_judged(tmp_path, name, sentence, billed, action):
    message, *verdict = failure(function(tmp_path, name))
    assert sentence in message
    assert verdict == [billed, action]


def test_a_function_that_does_not_return_in_time_is_given_up_and_the_next_call_is_answered(tmp_path):
    exchange = function(tmp_path, "hangs", timeout=0.05)
    stopped = sys.modules["moatbench_target_model"].stopped
    with pytest.raises(AttemptError, match=r"has not returned after timeout = 0\.05 s") as caught:
        exchange.attempt(inputs(1), account="", idempotency="once")
    assert (caught.value.billed, caught.value.action) == ("unknown", "retry")
    stopped[0].set()  # a late return is not the answer to the next call
    exchange._function = lambda rows: [[0.0, 0.0, 1.0]] * len(rows)
    reply = exchange.attempt(inputs(2), account="", idempotency="once")
    assert reply.answers.tolist() == [[0, 0, 1]] * 2
    exchange.close()


def test_a_function_is_called_in_the_same_thread_again_and_never_in_the_one_that_waits(tmp_path):
    (tmp_path / "model.py").write_text("def predict(rows):\n    return []\n")
    exchange = opened(tmp_path, "python")
    seen = []
    exchange._function = lambda _: seen.append(threading.get_ident()) or [[0.0, 0.0, 1.0]]
    for _ in range(3):
        exchange.attempt(inputs(1), account="", idempotency="once")
    assert len(set(seen)) == 1
    assert threading.get_ident() not in seen
    exchange.close()


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("model.py:gone", "there is no function gone"),
        ("model.py:number", "there is no function number"),
        ("nowhere.py:predict", "no Python file"),
        ("no_such_module_here:predict", "ModuleNotFoundError no_such_module_here"),
    ],
)
def test_a_function_that_is_missing_is_named(tmp_path, url, sentence):
    (tmp_path / "model.py").write_text(FUNCTION)
    with pytest.raises(UsageError) as caught:
        opened(tmp_path, "python", url=url)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(("protocol", "library"), [("oip", "httpx2"), ("json", "jmespath")])
def test_a_missing_library_is_named_with_the_command_that_installs_it(
    tmp_path, monkeypatch, protocol, library
):
    for name in list(sys.modules):
        if name.startswith(
            ("bench.remote.connections", "bench.remote.http_", "bench.remote.protocols.template")
        ):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UsageError, match=rf"{library}: pip install 'moatbench\[live\]'"):
        opened(tmp_path, protocol)


def test_a_request_needs_neither_torch_nor_art_nor_pandas():
    code = "import sys, bench.remote.client, bench.remote.http_exchange, bench.remote.protocols.template; "
    code += "print([name for name in ('torch', 'art', 'pandas', 'sklearn', 'scipy') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
