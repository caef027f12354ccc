"""``moatbench keys``: accounts behind a second factor."""

import io
import re
import stat
import time

import pyotp
import pytest

from bench.serve.secret_values import Secret
from bench.serve.state import State
from tests.support import access
from tests.support.access import asked, events
from tests.support.in_process import moatbench


@pytest.fixture
def made(tmp_path):
    """Return the URI of the admin's second factor and the key of alice."""
    code, said = moatbench(tmp_path, "keys", "init", "--state", "s", "alice")
    assert code == 0, said
    lines = dict(line.split(" ", 1) for line in said.splitlines() if line.startswith(("admin ", "alice ")))
    return lines["admin"], lines["alice"]


class Codes:
    """Codes of ever later steps, and a clock that is where they are valid."""

    def __init__(self, uri, monkeypatch):
        self._totp, self._at = pyotp.parse_uri(uri), time.time()
        monkeypatch.setattr("bench.serve.state.time", self._clock)
        monkeypatch.setattr(
            State.__init__, "__kwdefaults__", {**State.__init__.__kwdefaults__, "clock": self._clock}
        )

    def _clock(self):
        return self._at

    def next(self):
        self._at += 30
        return self._totp.at(self._at)


@pytest.fixture
def codes(made, monkeypatch):
    return Codes(made[0], monkeypatch)


def test_the_first_key_is_made_shown_once_and_works(tmp_path, made):
    key = made[1]
    pepper = tmp_path / "s" / "pepper"
    assert stat.S_IMODE(pepper.stat().st_mode) == 0o600
    with State(tmp_path / "s" / "state.sqlite") as state:
        app = access.Outermost(
            access.Authentication(
                access.Decoded(access.counted), state, Secret(pepper.read_text().strip().encode())
            )
        )
        assert asked(app, key).status_code == 200
        assert asked(app, key + "x").status_code == 401


@pytest.mark.usefixtures("made")
def test_a_second_admin_is_refused_and_nothing_changes(tmp_path):
    before = (tmp_path / "s" / "pepper").read_text()
    code, said = moatbench(tmp_path, "keys", "init", "--state", "s", "mallory")
    assert (code, "already" in said) == (2, True)
    assert (tmp_path / "s" / "pepper").read_text() == before
    with State(tmp_path / "s" / "state.sqlite") as state:
        assert state.rows("select name from accounts") == [("alice",)]


def test_keys_are_added_listed_revoked_and_made_again(tmp_path, codes):
    code, said = moatbench(tmp_path, "keys", "add", "bob", "carol", "--state", "s", "--code", codes.next())
    assert code == 0, said
    assert re.findall(r"^(bob|carol) mb_\S{56}$", said, re.MULTILINE) == ["bob", "carol"]
    code, said = moatbench(tmp_path, "keys", "revoke", "bob", "--state", "s", "--code", codes.next())
    assert (code, "bob: revoked" in said) == (0, True)
    code, said = moatbench(tmp_path, "keys", "list", "--state", "s", "--code", codes.next())
    assert [line.split()[:2] for line in said.splitlines()[2:]] == [
        ["alice", "client"],
        ["bob", "client"],
        ["carol", "client"],
    ]
    assert "mb_" not in said
    code, said = moatbench(tmp_path, "keys", "add", "bob", "--state", "s", "--code", codes.next())
    assert (code, "bob mb_" in said) == (0, True)


def test_a_code_serves_one_command(tmp_path, codes):
    once = codes.next()
    assert moatbench(tmp_path, "keys", "list", "--state", "s", "--code", once)[0] == 0
    code, said = moatbench(tmp_path, "keys", "add", "bob", "--state", "s", "--code", once)
    assert (code, "used before" in said, "mb_" in said) == (2, True, False)


def test_a_metrics_account_gets_a_second_factor_of_its_own(tmp_path, codes):
    words = ("keys", "add", "watch", "--role", "metrics", "--state", "s", "--code", codes.next())
    code, said = moatbench(tmp_path, *words)
    assert code == 0, said
    assert [line.split()[1][:10] for line in said.splitlines() if line.startswith("watch")] == [
        *(re.search(r"mb_\S{7}", said)[0], "otpauth://")
    ]


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (("add", "alice"), "revoke it first"),
        (("add", "Bob"), "cannot be the name"),
        (("add", "bob", "bob"), "revoke it first"),
        (("add", "admin"), "reserved"),
        (("revoke", "alicia"), "did you mean 'alice'"),
        (("restore", "alice"), "not suspended"),
    ],
)
def test_a_wrong_name_is_one_sentence_and_changes_nothing(words, fault, tmp_path, codes):
    with State(tmp_path / "s" / "state.sqlite") as state:
        before = state.rows("select name, digest, revoked from accounts")
        code, said = moatbench(tmp_path, "keys", *words, "--state", "s", "--code", codes.next())
        assert (code, fault in said) == (2, True), said
        assert state.rows("select name, digest, revoked from accounts") == before


@pytest.mark.usefixtures("made")
def test_nothing_is_done_without_a_code(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO())
    code, said = moatbench(tmp_path, "keys", "list", "--state", "s")
    assert (code, "--code" in said) == (2, True)


def test_a_folder_without_a_server_says_how_to_make_one_and_stays_away(tmp_path):
    code, said = moatbench(tmp_path, "keys", "list", "--state", "none", "--code", "123456")
    assert (code, "moatbench keys init --state none" in said) == (2, True)
    assert not (tmp_path / "none").exists()


@pytest.mark.usefixtures("made")
def test_a_pepper_that_others_may_read_is_refused(tmp_path):
    (tmp_path / "s" / "pepper").chmod(0o640)
    code, said = moatbench(tmp_path, "keys", "list", "--state", "s", "--code", "123456")
    assert (code, "chmod 600" in said) == (2, True)


def test_a_pepper_of_the_environment_leaves_no_file(tmp_path, monkeypatch):
    (tmp_path / "controls.toml").write_text('[keys]\npepper_env = "PEPPER"\n')
    words = ("keys", "init", "--state", "s", "--controls", "controls.toml", "alice")
    code, said = moatbench(tmp_path, *words)
    assert (code, "PEPPER is not set" in said) == (2, True)
    monkeypatch.setenv("PEPPER", "x" * 32)
    assert moatbench(tmp_path, *words)[0] == 0
    assert not (tmp_path / "s" / "pepper").exists()


def test_every_act_is_in_the_audit_log(tmp_path, codes):
    moatbench(tmp_path, "keys", "add", "bob", "--state", "s", "--code", codes.next())
    moatbench(tmp_path, "keys", "revoke", "bob", "--state", "s", "--code", codes.next())
    moatbench(tmp_path, "keys", "list", "--state", "s", "--code", "000000")
    with State(tmp_path / "s" / "state.sqlite") as state:
        assert [row["event"] for row in events(state)] == [
            *("second factor made", "key added", "key added", "key revoked", "second factor failed")
        ]


@pytest.mark.parametrize("names", [("Bob",), ("bob", "admin"), ("bob", "bob")])
def test_a_first_account_that_cannot_be_leaves_no_folder_behind(names, tmp_path):
    code, said = moatbench(tmp_path, "keys", "init", "--state", "s", *names)
    assert code == 2, said
    assert not (tmp_path / "s").exists()


@pytest.mark.usefixtures("made")
def test_a_lost_pepper_is_said_and_not_replaced_by_another(tmp_path):
    (tmp_path / "s" / "pepper").unlink()
    code, said = moatbench(tmp_path, "keys", "init", "--state", "s", "bob")
    assert (code, "put it back" in said) == (2, True)
    assert not (tmp_path / "s" / "pepper").exists()
