"""Bearer tokens: one algorithm, one key, one audience, a near end, and an account that is there."""

import base64
import hashlib
import hmac
import json
import time

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from bench.errors import UsageError
from bench.serve import keys
from bench.serve.access_controls import Jwt
from bench.serve.controls import load_controls
from bench.serve.tokens import read_tokens
from tests.support.access import Clock, asked, key_for, opened, served

KEY = b"k" * 32
AUDIENCE = "moatbench"


def settings(**changes):
    return Jwt.model_validate({"algorithm": "HS256", "audience": AUDIENCE, "key_env": "TOKENS", **changes})


def tokens(tmp_path, **changes):
    return read_tokens(settings(**changes), tmp_path, {"TOKENS": KEY.decode()})


def claims(**changes):
    made = {"exp": int(time.time()) + 600, "aud": AUDIENCE, "sub": "alice", **changes}
    return {name: value for name, value in made.items() if value is not None}


def signed(key=KEY, algorithm="HS256", headers=None, **changes):
    return jwt.encode(claims(**changes), key, algorithm=algorithm, headers=headers)


def part(document):
    return base64.urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=").decode()


def signed_by_hand(header, body):
    text = f"{part(header)}.{part(body)}"
    digest = hmac.digest(KEY, text.encode(), hashlib.sha256)
    return f"{text}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


BAD = {
    "expired": lambda: signed(exp=int(time.time()) - 5),
    "no exp": lambda: signed(exp=None),
    "no aud": lambda: signed(aud=None),
    "no sub": lambda: signed(sub=None),
    "other aud": lambda: signed(aud="another"),
    "algorithm none": lambda: signed(key="", algorithm="none"),
    "another algorithm": lambda: signed(key=b"k" * 64, algorithm="HS512"),
    "another key": lambda: signed(key=b"j" * 32),
    "no signature": lambda: signed().rpartition(".")[0] + ".",
    "a letter changed": lambda: signed()[:-2] + ("A" if signed()[-2] != "A" else "B") + signed()[-1],
    "another body": lambda: ".".join(
        (signed().split(".")[0], part(claims(sub="bob")), signed().split(".")[2])
    ),
    "not yet valid": lambda: signed(nbf=int(time.time()) + 600),
    "ends in a year": lambda: signed(exp=int(time.time()) + 31_536_000),
    "unknown account": lambda: signed(sub="nobody"),
    "revoked account": lambda: signed(sub="gone"),
    "an account of another role": lambda: signed(sub="watch"),
    "sub is a number": lambda: signed_by_hand({"alg": "HS256"}, claims(sub=7)),
    "exp is a text": lambda: signed_by_hand({"alg": "HS256"}, claims(exp="tomorrow")),
    "exp is infinite": lambda: signed_by_hand({"alg": "HS256"}, claims(exp=float("inf"))),
    "body is a list": lambda: signed_by_hand({"alg": "HS256"}, [1]),
    "critical extension": lambda: signed(headers={"crit": ["b64"], "b64": False}),
    "deep nesting": lambda: signed_by_hand({"alg": "HS256"}, claims())[:0] + "e30." + "W1tb" * 2000 + ".e30",
    "nonsense": lambda: "a.b.c",
}


@pytest.fixture
def state(tmp_path):
    with opened(tmp_path, Clock(time.time())) as state:
        for name, role in (("alice", "client"), ("gone", "client"), ("watch", "metrics")):
            key_for(state, name, role)
        with state.transaction() as connection:
            keys.revoke(connection, "gone", now=state.now(), by="admin")
        yield state


def test_a_token_is_as_good_as_the_key_of_its_account(state, tmp_path):
    app = served(state, tokens=tokens(tmp_path), cap=3)
    assert asked(app, signed(), [1, 2]).status_code == 200
    assert asked(app, signed(), [1, 2]).status_code == 429
    assert state.rows("select account, spent from counters") == [("alice", 2)]


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
def test_a_bad_token_is_answered_like_a_missing_key(kind, state, tmp_path):
    app = served(state, tokens=tokens(tmp_path), failures=100)
    answer, missing = asked(app, BAD[kind]()), asked(app)
    if kind == "an account of another role":
        assert answer.status_code == 403
    else:
        assert (answer.status_code, answer.text) == (401, missing.text)
    assert asked(app, signed()).status_code == 200


def test_an_expired_token_stays_so_when_the_clock_is_set_back(state, tmp_path):
    app, clock = served(state, tokens=tokens(tmp_path)), state.clock
    token = signed()
    clock.time += 601
    asked(app, key_for(state, "bob"))  # a request is seen at that time
    assert asked(app, token).status_code == 401
    clock.time -= 601
    assert asked(app, token).status_code == 401


def test_a_new_key_makes_no_token_valid_that_was_issued_before_the_old_one_was_revoked(state, tmp_path):
    app, before = served(state, tokens=tokens(tmp_path)), int(time.time()) - 100
    old = [signed(), signed(iat=before)]
    assert [asked(app, token).status_code for token in old] == [200, 200]
    with state.transaction() as connection:
        keys.revoke(connection, "alice", now=state.now(), by="admin")
    key_for(state, "alice")
    assert [asked(app, token).status_code for token in old] == [401, 401]
    with state.transaction() as connection:
        connection.execute("update accounts set renewed = renewed - 10")  # a while later
    assert asked(app, signed(iat=int(time.time()))).status_code == 200


def test_an_issuer_is_required_where_one_is_named(state, tmp_path):
    app = served(state, tokens=tokens(tmp_path, issuer="us"))
    assert asked(app, signed()).status_code == 401
    assert asked(app, signed(iss="them")).status_code == 401
    assert asked(app, signed(iss="us")).status_code == 200


def pem(key, path):
    encoding, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    path.write_bytes(key.public_key().public_bytes(encoding, form))
    return path.name


@pytest.mark.parametrize("algorithm", ["EdDSA", "ES256"])
def test_a_public_key_verifies_and_is_no_key_of_another_algorithm(algorithm, state, tmp_path):
    key = {
        "EdDSA": ed25519.Ed25519PrivateKey.generate,
        "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    }[algorithm]()
    name = pem(key, tmp_path / "public.pem")
    found = tokens(tmp_path, algorithm=algorithm, key_env=None, public_key_file=name)
    app = served(state, tokens=found)
    assert asked(app, signed(key, algorithm)).status_code == 200
    content = (tmp_path / name).read_bytes()
    text = f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part(claims())}"
    digest = hmac.digest(content, text.encode(), hashlib.sha256)
    confused = f"{text}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"
    assert asked(app, confused).status_code == 401


@pytest.mark.parametrize(
    ("algorithm", "make"),
    [
        ("EdDSA", lambda: ec.generate_private_key(ec.SECP256R1())),
        ("ES256", lambda: ec.generate_private_key(ec.SECP384R1())),
        ("RS256", lambda: rsa.generate_private_key(65537, 1024)),  # noqa: S505  # the fault
        ("RS256", ed25519.Ed25519PrivateKey.generate),
    ],
)
def test_a_public_key_that_does_not_fit_is_refused_at_the_start(algorithm, make, tmp_path):
    name = pem(make(), tmp_path / "public.pem")
    with pytest.raises(UsageError, match="does not fit"):
        tokens(tmp_path, algorithm=algorithm, key_env=None, public_key_file=name)


def test_a_short_key_is_refused_and_not_shown(tmp_path):
    with pytest.raises(UsageError, match="at least 32") as caught:
        read_tokens(settings(), tmp_path, {"TOKENS": "short-secret"})
    assert "short-secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ('algorithm = "none"', "algorithm"),
        ('algorithm = "HS256"', "needs key_env or key_file"),
        ('algorithm = "HS256"\nkey_env = "K"\nkey_file = "k"', "no other key"),
        ('algorithm = "EdDSA"\nkey_env = "K"', "needs public_key_file"),
        ('algorithm = "HS256"\nkey_env = "secret-value"', "name of an environment variable"),
        ('algorithm = "HS256"\nkey_env = "K"\naudiance = "x"', "did you mean 'audience'"),
    ],
)
def test_a_table_of_tokens_that_cannot_be_is_one_sentence(lines, words, tmp_path):
    path = tmp_path / "controls.toml"
    path.write_text(f'[jwt]\naudience = "a"\n{lines}\n')
    with pytest.raises(UsageError) as caught:
        load_controls(path)
    assert words in str(caught.value)
    assert "secret-value" not in str(caught.value)
