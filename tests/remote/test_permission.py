import datetime as dt

import pytest
from live_targets import target

from bench.errors import UsageError
from bench.remote import addresses
from bench.remote.permission import permitted

TODAY = dt.date(2026, 11, 28)
ALLOWED = {
    "permission": {"who": "The owner", "until": "date 2026-12-31", "reference": "ticket 5"},
    "budget": 1000,
    "money_cap": 5.0,
    "rate": "60/minute",
}


def check(tmp_path, host, found, allowed=None, protocol="oip", **values):
    """Check a target whose host has the addresses ``found``."""
    place = {"host": host} if protocol == "python" else {"url": f"http://{host}:8080"}
    made = target(tmp_path, protocol, **place, **values)
    return permitted(made, allowed, resolver=lambda *_: tuple(found), today=TODAY)


@pytest.mark.parametrize(
    "found", [["127.0.0.1"], ["::1"], ["127.0.0.1", "::1"], ["127.8.9.10"], ["::ffff:127.0.0.1"]]
)
def test_a_target_on_this_machine_needs_nothing(tmp_path, found):
    assert check(tmp_path, "models", found).text == "loopback"


@pytest.mark.parametrize(
    "found",
    [
        ["10.0.0.5"],
        ["192.168.1.1"],
        ["203.0.113.5"],
        ["0.0.0.0"],  # noqa: S104
        ["127.0.0.1", "10.0.0.5"],
        ["fe80::1%eth0"],
    ],
)
@pytest.mark.parametrize("protocol", ["oip", "python"])
def test_any_other_target_needs_its_owners_word_and_limits(tmp_path, found, protocol):
    with pytest.raises(UsageError, match="models is not this machine") as caught:
        check(tmp_path, "models", found, protocol=protocol)
    for part in ("permission", "budget", "money_cap", "rate", "--i-am-allowed-to-test models"):
        assert part in str(caught.value)
    checked = check(tmp_path, "models", found, "models", protocol, **ALLOWED)
    assert checked.text == "The owner, until 2026-12-31, ticket 5"
    assert checked.addresses == tuple(found)


@pytest.mark.parametrize("left_out", ALLOWED)
def test_each_limit_is_needed(tmp_path, left_out):
    values = {name: value for name, value in ALLOWED.items() if name != left_out}
    with pytest.raises(UsageError, match=f"add {left_out}"):
        check(tmp_path, "models", ["10.0.0.5"], "models", **values)


def test_the_flag_is_needed_and_names_the_host(tmp_path):
    with pytest.raises(UsageError, match=r"pass --i-am-allowed-to-test models"):
        check(tmp_path, "models", ["10.0.0.5"], None, **ALLOWED)
    for other in ("model", "models.example", "10.0.0.5", ""):
        with pytest.raises(UsageError, match="but the target's host is models"):
            check(tmp_path, "models", ["10.0.0.5"], other, **ALLOWED)
    with pytest.raises(UsageError, match="but the target's host is models"):
        check(tmp_path, "models", ["127.0.0.1"], "other")
    assert check(tmp_path, "MODELS", ["10.0.0.5"], "Models", **ALLOWED).host == "models"


def test_a_permission_that_ended_is_none(tmp_path):
    ended = {**ALLOWED, "permission": {**ALLOWED["permission"], "until": "date 2026-11-27"}}
    with pytest.raises(UsageError, match="ended on 2026-11-27"):
        check(tmp_path, "models", ["10.0.0.5"], "models", **ended)
    last_day = {**ALLOWED, "permission": {**ALLOWED["permission"], "until": "date 2026-11-28"}}
    assert check(tmp_path, "models", ["10.0.0.5"], "models", **last_day)


def test_a_host_without_address_is_one_sentence(monkeypatch):
    def nothing(*_, **__):
        raise OSError("Name or service not known")

    monkeypatch.setattr("socket.getaddrinfo", nothing)
    with pytest.raises(UsageError, match="the host nowhere has no address"):
        addresses.resolve("nowhere", 80)


def test_an_address_needs_no_resolver(tmp_path):
    assert addresses.resolve("127.0.0.1", 80) == ("127.0.0.1",)
    assert permitted(target(tmp_path, url="http://127.0.0.1:8080"), None).port == 8080
