"""Second factors: each code is accepted once, and few wrong ones are looked at."""

import threading

import pyotp
import pytest

from bench.errors import UsageError
from bench.serve import second_factor
from bench.serve.second_factor import SecondFactorError, perform
from bench.serve.secret_values import Secret
from tests.support.access import PEPPER, Clock, enrolled, events, opened


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def state(tmp_path, clock):
    with opened(tmp_path, clock) as state:
        yield state


@pytest.fixture
def totp(state):
    return pyotp.parse_uri(enrolled(state))


def act(state, code, account="admin", pepper=PEPPER):
    return perform(state, pepper, account, code, lambda *_: "done")


def test_a_code_allows_one_act(state, totp, clock):
    code = totp.at(clock())
    assert act(state, code) == "done"
    with pytest.raises(SecondFactorError, match="used before"):
        act(state, code)


def test_an_older_code_is_refused_after_a_newer_one(state, totp, clock):
    old = totp.at(clock())
    assert act(state, totp.at(clock() + 30)) == "done"
    with pytest.raises(SecondFactorError):
        act(state, old)
    clock.time += 60
    assert act(state, totp.at(clock())) == "done"


def test_a_clock_that_jumps_back_makes_no_code_valid_again(state, totp, clock):
    code = totp.at(clock())
    act(state, code)
    for jump in (-30, -3600):
        clock.time += jump
        with pytest.raises(SecondFactorError):
            act(state, code)


def test_of_two_at_once_with_one_code_one_is_served(tmp_path, clock):
    with opened(tmp_path, clock) as state:
        code = pyotp.parse_uri(enrolled(state)).at(clock())
    results, barrier = [], threading.Barrier(4)

    def one():
        with opened(tmp_path, clock) as own:
            barrier.wait(timeout=30)
            try:
                results.append(act(own, code))
            except SecondFactorError:
                results.append("refused")

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == ["done", "refused", "refused", "refused"]


def test_an_act_that_fails_uses_no_code_up(state, totp, clock):
    code = totp.at(clock())

    def fails(connection, _now):
        connection.execute("insert into counters (account) values ('half')")
        raise UsageError("only this")

    with pytest.raises(UsageError, match="only this"):
        perform(state, PEPPER, "admin", code, fails)
    assert not state.rows("select * from counters")
    assert act(state, code) == "done"


@pytest.mark.usefixtures("totp")
@pytest.mark.parametrize(
    "code", ["", "12345", "1234567", "abcdef", "１２３４５６", "123456\n123456", "0" * 10_000]
)
def test_a_text_that_is_no_code_is_a_wrong_code(code, state):
    with pytest.raises(SecondFactorError):
        act(state, code)
    assert len(events(state, "second factor failed")) == 1


def wrong(totp, clock):
    right = {totp.at(clock() + step) for step in (-30, 0, 30)}
    return next(code for code in (f"{number:06}" for number in range(4)) if code not in right)


def test_after_five_wrong_codes_in_a_quarter_of_an_hour_not_even_the_right_one_is_looked_at(
    tmp_path, state, totp, clock
):
    with opened(tmp_path, clock) as other:  # another process counts too
        for turn in range(5):
            with pytest.raises(SecondFactorError, match="wrong") as caught:
                act((state, other)[turn % 2], wrong(totp, clock))
            assert caught.value.wait == 0
            clock.time += 60
        with pytest.raises(SecondFactorError, match="too many") as caught:
            act(state, totp.at(clock()))
        assert caught.value.wait == 600
        clock.time += 601
        assert act(other, totp.at(clock())) == "done"
    assert len(events(state, "second factor failed")) == 5


def test_no_quarter_of_an_hour_has_more_than_five_wrong_codes(state, totp, clock):
    looked = []
    for _ in range(60):
        try:
            act(state, wrong(totp, clock))
        except SecondFactorError as error:
            if not error.wait:
                looked.append(clock())
        clock.time += 100
    assert max(sum(0 <= at - first < 900 for at in looked) for first in looked) == 5


def test_wrong_codes_of_one_account_lock_no_other(state, totp, clock):
    other = pyotp.parse_uri(enrolled(state, "watch"))
    for _ in range(6):
        with pytest.raises(SecondFactorError):
            act(state, wrong(other, clock), "watch")
    assert act(state, totp.at(clock())) == "done"


def test_the_file_holds_no_secret_and_another_pepper_cannot_read_it(tmp_path, state, totp, clock):
    state.rows("pragma wal_checkpoint(truncate)")
    assert all(totp.secret.encode() not in path.read_bytes() for path in tmp_path.iterdir())
    with pytest.raises(UsageError, match="pepper"):
        act(state, totp.at(clock()), pepper=Secret(b"q" * 32))


def test_a_second_factor_of_one_account_is_none_of_another(state, totp, clock):
    enrolled(state, "watch")
    with state.transaction() as connection:
        connection.execute("update factors set secret = (select secret from factors where account = 'admin')")
    with pytest.raises(UsageError, match="pepper"):
        act(state, totp.at(clock()), "watch")


@pytest.mark.usefixtures("totp")
def test_an_admin_is_made_once(state):
    with pytest.raises(UsageError, match="already"), state.transaction() as connection:
        second_factor.enrol_admin(connection, PEPPER, now=0.0)
