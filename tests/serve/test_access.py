"""API keys: who may query, and what those learn who may not."""

import pytest

from bench.errors import UsageError
from bench.serve import keys
from bench.serve.access import read_access
from bench.serve.access_controls import Keys
from bench.serve.controls import Controls
from tests.support.access import PEPPER, Clock, asked, enrolled, events, key_for, opened, served, server


def test_a_key_is_answered_and_its_inputs_are_counted(tmp_path):
    with server(tmp_path) as (state, key, app):
        assert asked(app, key, [1, 2, 3]).json() == {"inputs": 3}
        assert state.rows("select account, spent from counters") == [("alice", 3)]
        rows = events(state, "admitted", "answered")
        assert [(row["event"], row["account"], row["inputs"]) for row in rows] == [
            ("admitted", "alice", 3),
            ("answered", "alice", 3),
        ]
        assert rows[0]["id"] == rows[1]["id"]


def wrong_keys(key):
    last = "a" if key[-1] != "a" else "b"
    texts = {
        "empty": "Bearer ",
        "wrong": "Bearer nonsense",
        "of a known prefix": f"Bearer {key[:-1]}{last}",
        "prefix alone": f"Bearer {key[:15]}",
        "other scheme": f"Basic {key}",
        "not ASCII": "Bearer schlüssel",
        "a token where none are accepted": "Bearer e30.e30.e30",
        "with a letter more": f"Bearer {key}a",
        "in capitals": f"Bearer {key.upper()}",
    }
    pairs = {name: [("authorization", text)] for name, text in texts.items()}
    twice = [("authorization", f"Bearer {key}")] * 2
    return {**pairs, "missing": [], "in another header": [("x-api-key", key)], "twice": twice}


def test_a_wrong_and_a_missing_key_are_answered_alike(tmp_path):
    with server(tmp_path, failures=100) as (state, key, app):
        answers = {name: asked(app, headers=each) for name, each in wrong_keys(key).items()}
        assert {
            (each.status_code, each.text, each.headers["www-authenticate"]) for each in answers.values()
        } == {(401, '{"error": "a valid key is needed: authorization: Bearer KEY"}', "Bearer")}, answers
        assert asked(app, path="/predict?key=" + key).status_code == 401
        assert not state.rows("select * from counters")
        assert asked(app, key).status_code == 200


def test_a_digest_is_compared_for_every_key_whatever_is_known_of_it(tmp_path, monkeypatch):
    with server(tmp_path, failures=100) as (_, key, app):
        compared = []
        compare = keys.hmac.compare_digest
        monkeypatch.setattr(
            keys.hmac, "compare_digest", lambda one, other: compared.append(1) or compare(one, other)
        )
        kinds = wrong_keys(key)
        for headers in kinds.values():
            asked(app, headers=headers)
        assert len(compared) == len(kinds)


def test_the_state_holds_no_key_and_another_pepper_makes_it_useless(tmp_path):
    with server(tmp_path) as (state, key, app):
        asked(app, key)
        state.rows("pragma wal_checkpoint(truncate)")
        for path in tmp_path.iterdir():
            content = path.read_bytes()
            assert key.encode() not in content
            assert key[16:].encode() not in content
        with state.transaction() as connection:
            other = keys.Secret(b"q" * 32)
            assert keys.account_of_key(connection, other, key) is None


def test_a_revoked_key_is_refused_at_once_and_a_new_one_goes_on_with_the_counts(tmp_path):
    with server(tmp_path, cap=5) as (state, key, app), opened(tmp_path) as other:
        assert asked(app, key, [1, 2, 3]).status_code == 200
        with other.transaction() as connection:  # another process
            keys.revoke(connection, "alice", now=other.now(), by="admin")
        assert asked(app, key).status_code == 401
        renewed = key_for(other, "alice")
        assert renewed != key
        assert asked(app, key).status_code == 401
        assert asked(app, renewed, [1, 2, 3]).status_code == 429
        assert asked(app, renewed, [1, 2]).status_code == 200
        assert [row["event"] for row in events(state) if row["event"].startswith("key")] == [
            *("key added", "key revoked", "key added")
        ]


def test_a_key_of_another_role_may_not_query(tmp_path):
    with server(tmp_path) as (state, _, app):
        assert asked(app, key_for(state, "watch", "metrics")).status_code == 403


@pytest.mark.parametrize("name", ["", "Alice", "a b", "../x", "a" * 65, "admin", "a\n"])
def test_a_name_that_is_none_makes_no_account(name, tmp_path):
    with opened(tmp_path) as state:
        with pytest.raises(UsageError):
            key_for(state, name)
        assert not state.rows("select * from accounts")


def test_failed_keys_are_limited_by_address_and_valid_keys_pass(tmp_path):
    clock = Clock()
    with server(tmp_path, clock, failures=3) as (_, key, app):
        assert [asked(app, "wrong").status_code for _ in range(5)] == [401, 401, 401, 429, 429]
        refused = asked(app, "wrong")
        assert refused.headers["retry-after"] == "60"
        assert asked(app, key).status_code == 200
        assert asked(app, "wrong", address="203.0.113.6").status_code == 401
        clock.time += 60.1
        assert asked(app, "wrong").status_code == 401


def test_failed_keys_are_counted_over_workers_and_headers_do_not_move_them(tmp_path):
    with opened(tmp_path) as one, opened(tmp_path) as other:
        apps = [served(state, failures=4) for state in (one, other)]
        codes = [
            asked(apps[turn % 2], "wrong", headers=[(name, f"198.51.100.{turn}")]).status_code
            for turn, name in enumerate(["x-forwarded-for", "forwarded", "x-real-ip", "x_forwarded_for"] * 3)
        ]
        assert codes == [401] * 4 + [429] * 8


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:203.0.113.5", "203.0.113.5", True),
        ("203.0.113.5", "203.0.113.6", False),
    ],
)
def test_an_address_counts_with_its_network(one, other, same, tmp_path):
    with server(tmp_path, failures=1) as (_, _key, app):
        assert asked(app, "wrong", address=one).status_code == 401
        assert asked(app, "wrong", address=other).status_code == (429 if same else 401)


def test_failures_fill_no_more_rows_than_the_limit(tmp_path):
    with server(tmp_path, failures=3) as (state, _, app):
        for _ in range(10):
            asked(app, "wrong")
        assert state.rows("select count(*) from failures") == [(3,)]


def test_no_repr_shows_a_secret(tmp_path):
    with server(tmp_path) as (state, key, app):
        assert "pppp" not in repr(PEPPER)
        assert key not in repr(state) + repr(app)


def test_a_server_does_not_start_with_another_pepper_than_its_keys_were_made_with(tmp_path):
    controls = Controls(keys=Keys(pepper_env="PEPPER"))
    with opened(tmp_path) as state:
        enrolled(state)
        with pytest.raises(UsageError, match="cannot be read with this pepper"):
            read_access(controls, state, folder=tmp_path, environ={"PEPPER": "q" * 32})
        assert read_access(controls, state, folder=tmp_path, environ={"PEPPER": "p" * 32}).pepper
