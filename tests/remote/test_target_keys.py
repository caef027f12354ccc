"""A key stands in no file, message, repr or traceback."""

import traceback

import httpx2
import pytest
from live_targets import ONE_OF, inputs, target, written

from bench.errors import UsageError
from bench.remote.client import open_exchange
from bench.remote.exchange import AttemptError
from bench.remote.secrets import Secrets
from bench.remote.target import load_target

KEY = "s3cret-Value"
ME = [{"name": "me", "key_env": "TARGET_KEY"}]


def everything_of(error):
    """Return all that an error can show: itself, its chain, and its frames' variables."""
    shown = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    chain, left = [], [error]
    while left:
        each = left.pop()
        chain += [repr(each), str(each), repr(vars(each))]
        left += [inner for inner in (each.__cause__, each.__context__) if inner is not None]
    return shown + "".join(chain)


@pytest.mark.parametrize(
    "values",
    [
        {"key": KEY},
        {"api_key": KEY},
        {"token": KEY},
        {"password": KEY},
        {"client_secret": KEY},
        {"accounts": [{"name": "me", "key": KEY}]},
        {"accounts": [{"name": "me", "token": KEY}]},
        {"permission": {"who": "me", "password": KEY}},
        {"headers": {"Authorization": f"Bearer {KEY}"}},
        {"headers": {"Cookie": KEY}},
        {"headers": {"x-api-key": KEY}},
        {"headers": {"Ocp-Apim-Subscription-Key": KEY}},
        {"headers": {"X-Auth-Token": KEY}},
        {"request": f'{{"x": "$inputs", "api_key": "{KEY}"}}'},
        {"url": f"http://user:{KEY}@127.0.0.1"},
        {"url": f"http://{KEY}@127.0.0.1"},
        {"url": f"http://127.0.0.1/predict?api_key={KEY}"},
    ],
)
def test_a_secret_in_the_file_is_refused_and_not_repeated(tmp_path, values):
    path = written(tmp_path / "target.toml", {**ONE_OF["json"], **values})
    with pytest.raises(UsageError, match=r"key_env|protocol 'python'") as caught:
        load_target(path)
    assert KEY not in str(caught.value) + repr(caught.value.__cause__) + repr(caught.value.__context__)


@pytest.mark.parametrize(
    "values",
    [
        {"accounts": [{"name": "me", "key_env": f"{KEY} typed here"}]},
        {"accounts": [{"name": "me", "key_env": KEY}]},
        {"accounts": [{"name": "me", "key_env": KEY.replace("-", "_")}]},
        {"headers": f"Authorization: {KEY}"},
        {"accounts": KEY},
        {"key_header": f"Authorization: {KEY}"},
        {"unknown": KEY},
        {"request": KEY, "output": 5},
    ],
)
def test_a_secret_in_the_wrong_field_is_not_repeated(tmp_path, values):
    path = written(tmp_path / "target.toml", {**ONE_OF["json"], **values})
    with pytest.raises(UsageError) as caught:
        load_target(path)
    assert KEY not in str(caught.value) + repr(caught.value.__cause__) + repr(caught.value.__context__)


@pytest.mark.parametrize(
    "value", [None, "", f"{KEY}\n", f"{KEY} ", f"{KEY}\r\nX: y", f"{KEY}é", "\x00" + KEY]
)
def test_a_key_that_no_header_can_hold_is_named_by_its_account_alone(tmp_path, value):
    environ = {} if value is None else {"TARGET_KEY": value}
    with pytest.raises(UsageError, match="of account 'me'") as caught:
        Secrets(target(tmp_path, accounts=ME), environ)
    assert KEY not in str(caught.value)
    assert "TARGET_KEY" not in str(caught.value), "it may be a key, put there by mistake"
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_the_key_goes_into_its_header_alone(tmp_path):
    plain = Secrets(target(tmp_path, accounts=ME), {"TARGET_KEY": KEY})
    assert plain.headers("") == plain.headers("me") == {"Authorization": f"Bearer {KEY}"}
    other = Secrets(target(tmp_path, accounts=ME, key_header="X-Api-Key"), {"TARGET_KEY": KEY})
    assert other.headers("me") == {"X-Api-Key": KEY}
    assert Secrets(target(tmp_path), {}).headers("") == {}
    assert Secrets(target(tmp_path, accounts=[{"name": "me"}]), {}).headers("me") == {}
    assert KEY not in repr(plain) + str(plain) + repr(vars(plain))
    assert plain.hide(f"'{KEY}' is no key") == "'[key]' is no key"


FAILURES = {
    "echo": lambda request: httpx2.Response(401, json={"error": request.headers["authorization"]}),
    "echo in an answer": lambda request: httpx2.Response(
        200, json={"error": request.headers["authorization"]}
    ),
    "no header": lambda _: raised(httpx2.LocalProtocolError(f"Illegal header value b'Bearer {KEY}\\n'")),
    "not ours": lambda request: raised(RuntimeError(request.headers["authorization"])),
    "broken": lambda request: raised(httpx2.ReadError(request.headers["authorization"])),
}


def test_no_part_of_a_key_is_shown_where_a_text_is_cut(tmp_path):
    long = "k" * 60
    texts = [f"{'x ' * 50}{long}", f"{'x ' * 95}{long}", long]
    answers = [httpx2.Response(404, json={"error": text}) for text in texts]
    answers += [
        httpx2.Response(200, json={"outputs": [{"name": text, "data": [text], "shape": [1]}]})
        for text in texts
    ]
    answers += [httpx2.Response(200, json={text: 1}) for text in texts]
    for values in ({}, {"answers": "labels"}, {"output": "other"}):
        for answer in answers:
            exchange = open_exchange(
                target(tmp_path, accounts=ME, **values),
                folder=tmp_path,
                allowed_host=None,
                environ={"TARGET_KEY": long},
                transport=httpx2.MockTransport(lambda _, answer=answer: answer),
            )
            with pytest.raises(AttemptError) as caught:
                exchange.attempt(inputs(1), account="me", idempotency="once")
            assert "kkk" not in str(caught.value)
            assert "kkk" not in repr(exchange.metadata())
            exchange.close()


def test_a_key_that_begins_another_hides_none_of_it(tmp_path):
    accounts = [{"name": "one", "key_env": "K1"}, {"name": "two", "key_env": "K2"}]
    secrets = Secrets(target(tmp_path, accounts=accounts), {"K1": "begin", "K2": "begin-and-end"})
    assert secrets.hide("begin-and-end, begin") == "[key], [key]"
    assert secrets.cleaned({"begin": ["begin", 5.5, None]}) == {"[key]": ["[key]", 5.5, None]}


def function(tmp_path, code, value=KEY):
    """Return the exchange of a function with ``code``, in whose environment a key is."""
    (tmp_path / "model.py").write_text(code)
    environ = {"AWS_SECRET_ACCESS_KEY": value}
    return open_exchange(target(tmp_path, "python"), folder=tmp_path, allowed_host=None, environ=environ)


RAISED = [
    f"raise ValueError('no access with {KEY}')",
    f"raise ValueError('Illegal header value ' + repr(b'Bearer {KEY}\\n'))",
    f"raise OSError('https://127.0.0.1/?k={KEY[:-1]}')",
    f"raise SystemExit('{KEY}')",
    f"import json; json.loads('{{}}')['{KEY}']",
]


@pytest.mark.parametrize("code", RAISED)
@pytest.mark.parametrize("value", [KEY, f"{KEY}\n"])
def test_what_a_function_raises_is_shown_by_its_type_and_place_alone(tmp_path, code, value):
    exchange = function(tmp_path, f"def predict(rows):\n    {code}\n", value)
    with pytest.raises(AttemptError, match=r"line 2: (Value|OS|Key)Error|line 2: SystemExit") as caught:
        exchange.attempt(inputs(1), account="", idempotency="once")
    assert KEY[:-1] not in everything_of(caught.value.with_traceback(caught.tb.tb_next))


@pytest.mark.parametrize("code", [*RAISED, f"from bench.errors import UsageError; raise UsageError('{KEY}')"])
def test_an_error_at_import_is_shown_by_its_type_and_place_alone(tmp_path, code):
    with pytest.raises(UsageError) as caught:
        function(tmp_path, f"KEY = 1\n{code}\n", f"{KEY}\n")
    assert "line 2: " in str(caught.value) or str(caught.value) == "[key]"
    # Our own frames hold nothing of it; those of the file are not in the chain.
    assert KEY[:-1] not in str(caught.value) + repr(caught.value.__cause__) + repr(caught.value.__context__)


def test_what_a_function_says_of_a_request_is_shown_without_the_keys_of_its_environment(tmp_path):
    code = (
        "from bench.remote.exchange import AttemptError\n"
        "def predict(rows):\n"
        f"    raise AttemptError(repr('{KEY}\\n') + ' is throttled', billed='no', action='retry')\n"
    )
    with pytest.raises(AttemptError, match=r"\[key\]\\n' is throttled") as caught:
        function(tmp_path, code, f"{KEY}\n").attempt(inputs(1), account="", idempotency="once")
    assert KEY not in everything_of(caught.value.with_traceback(caught.tb.tb_next))


def raised(error):
    raise error


@pytest.mark.parametrize("failure", FAILURES)
def test_no_failure_of_a_request_shows_the_key(tmp_path, failure):
    transport = httpx2.MockTransport(FAILURES[failure])
    exchange = open_exchange(
        target(tmp_path, accounts=ME),
        folder=tmp_path,
        allowed_host=None,
        environ={"TARGET_KEY": KEY},
        transport=transport,
    )
    with pytest.raises(AttemptError) as caught:
        exchange.attempt(inputs(2), account="me", idempotency="once")
    assert KEY not in everything_of(caught.value)
    exchange.close()


def test_what_a_target_says_of_its_model_is_shown_without_the_key(tmp_path):
    def answer(request):
        tensor = {"name": "p", "shape": [1, 3], "datatype": "FP32", "data": [1, 0, 0]}
        return httpx2.Response(
            200, json={"model_name": request.headers["authorization"], "outputs": [tensor]}
        )

    exchange = open_exchange(
        target(tmp_path, accounts=ME),
        folder=tmp_path,
        allowed_host=None,
        environ={"TARGET_KEY": KEY},
        transport=httpx2.MockTransport(answer),
    )
    reply = exchange.attempt(inputs(1), account="", idempotency="once")
    assert reply.identity == "Bearer [key]"
    assert KEY not in repr(reply) + repr(exchange.metadata())
