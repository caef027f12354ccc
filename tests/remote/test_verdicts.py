import ssl

import httpx2
import pytest

from bench.remote.verdicts import of_exception, of_status

NOW = 1_795_885_200.0


def status(number, *, bills_rejected=False, **headers):
    """Return (billed, action, wait) of a status."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    error = of_status(number, httpx2.Headers(named), bills_rejected=bills_rejected, now=NOW)
    assert str(number) in str(error)
    return error.billed, error.action, error.wait


@pytest.mark.parametrize(
    ("number", "verdict"),
    [
        *[(number, ("no", "stop", None)) for number in (301, 302, 307, 308, 304)],
        *[(number, ("no", "stop", None)) for number in (401, 402, 403, 404, 405, 415, 418, 501)],
        *[(number, ("no", "isolate", None)) for number in (400, 422)],
        (408, ("unknown", "retry", None)),
        (413, ("no", "halve", None)),
        (424, ("unknown", "isolate", None)),
        (429, ("no", "retry", None)),
        (500, ("unknown", "isolate", None)),
        *[(number, ("unknown", "retry", None)) for number in (502, 504, 507, 520, 530)],
        (503, ("no", "retry", None)),
    ],
)
def test_a_status_says_what_was_billed_and_what_to_do(number, verdict):
    assert status(number) == verdict


def test_a_target_may_ask_to_wait():
    assert status(429, Retry_After="3") == ("no", "retry", 3)
    assert status(503, retry_after="Sat, 28 Nov 2026 17:00:30 GMT") == ("no", "retry", 30)
    assert (
        status(503, retry_after="Sat, 28 Nov 2026 17:00:30 GMT", date="Sat, 28 Nov 2026 17:00:10 GMT")[2]
        == 20
    )
    assert status(502, retry_after="7") == ("unknown", "retry", 7)
    assert status(429, retry_after="soon") == ("no", "retry", None)
    assert status(404, retry_after="3")[2] is None


def test_rejections_are_billed_where_the_target_file_says_so():
    assert [status(number, bills_rejected=True)[0] for number in (429, 503)] == ["yes", "yes"]
    assert status(413, bills_rejected=True)[0] == "no"


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (httpx2.ConnectError("refused"), ("no", "retry")),
        (httpx2.ConnectTimeout(""), ("no", "retry")),
        (httpx2.PoolTimeout(""), ("no", "retry")),
        (httpx2.ReadTimeout(""), ("unknown", "retry")),
        (httpx2.WriteTimeout(""), ("unknown", "retry")),
        (httpx2.ReadError(""), ("unknown", "retry")),
        (httpx2.WriteError(""), ("unknown", "retry")),
        (httpx2.CloseError(""), ("unknown", "retry")),
        (httpx2.RemoteProtocolError(""), ("unknown", "retry")),
        (httpx2.LocalProtocolError(""), ("no", "stop")),
        (httpx2.UnsupportedProtocol(""), ("no", "stop")),
        (httpx2.DecodingError(""), ("yes", "stop")),
    ],
)
def test_a_broken_request_may_have_been_billed_once_it_was_sent(error, verdict):
    found = of_exception(error)
    assert (found.billed, found.action) == verdict


@pytest.mark.parametrize(
    ("cause", "action"),
    [
        (ssl.SSLCertVerificationError("bad"), "stop"),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number"), "stop"),
        (ssl.SSLEOFError(8, "EOF occurred"), "retry"),
        (ConnectionRefusedError(111, "refused"), "retry"),
    ],
)
def test_no_connection_is_tried_again_where_tls_is_wrong(cause, action):
    error = httpx2.ConnectError("failed")
    error.__cause__ = cause
    found = of_exception(error)
    assert (found.billed, found.action) == ("no", action)
