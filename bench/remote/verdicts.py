"""What a request without answers means: whether it was billed, and what to do next."""

from __future__ import annotations

import ssl
from collections.abc import Mapping

import httpx2

from bench.remote.exchange import Action, AttemptError, Billed
from bench.remote.retry_after import seconds_to_wait

_STATUS: Mapping[int, tuple[Billed, Action, str]] = {
    400: ("no", "isolate", "it refuses the request; check protocol, input, datatype and request"),
    422: ("no", "isolate", "it refuses the request; check protocol, input, datatype and request"),
    401: ("no", "stop", "it does not accept the key; check key_env of the account, and key_header"),
    403: ("no", "stop", "it does not allow this account to ask; check key_env of the account"),
    404: ("no", "stop", "there is no such model or path; check url, model and version"),
    405: ("no", "stop", "there is no prediction at this path; check url and protocol"),
    408: ("unknown", "retry", "it waited too long for the request"),
    413: ("no", "halve", "the request is too large"),
    415: ("no", "stop", "it does not take JSON here; check url and protocol"),
    424: ("unknown", "isolate", "the model behind it failed"),
    500: ("unknown", "isolate", "it failed"),
    501: ("no", "stop", "it does not know the request; check url and protocol"),
    505: ("no", "stop", "it does not know the request; check url and protocol"),
}
"""Statuses with a meaning of their own, see :func:`of_status`."""


def of_status(
    status: int,
    headers: Mapping[str, str],
    *,
    bills_rejected: bool,
    now: float,
    excerpt: str = "",
) -> AttemptError:
    """Return what an answer other than 2xx means.

    ``headers``: of the answer, looked up in any case. ``now``: seconds since 1970. ``excerpt``: what the
    target says itself, "" if nothing that may be shown.
    """
    wait = (
        seconds_to_wait(headers["retry-after"], date=headers.get("date"), now=now)
        if "retry-after" in headers
        else None
    )
    if status in {429, 503}:
        reason = "too many requests" if status == 429 else "it is not available at the moment"
        return _error(status, reason, excerpt, "yes" if bills_rejected else "no", "retry", wait)
    if status in _STATUS:
        billed, action, reason = _STATUS[status]
        return _error(status, reason, excerpt, billed, action, None if action == "stop" else wait)
    if status >= 500:
        return _error(status, "it failed, or what is before it", excerpt, "unknown", "retry", wait)
    if 300 <= status < 400:
        reason = "it sends us to another address, which is not followed; write the final one as url"
    else:
        reason = "it refuses the request; check protocol, input, datatype and request"
    return _error(status, reason, excerpt, "no", "stop", None)


def _error(
    status: int, reason: str, excerpt: str, billed: Billed, action: Action, wait: float | None
) -> AttemptError:
    words = f"the target answers {status}: {reason}" + (f" ({excerpt})" if excerpt else "")
    return AttemptError(words, billed=billed, action=action, wait=wait)


def of_exception(error: httpx2.HTTPError) -> AttemptError:
    """Return what an exception of httpx2 means; its own text is shown where it can hold no header."""
    if isinstance(error, httpx2.ConnectError):
        return _of_connection(error)
    if isinstance(error, httpx2.ConnectTimeout | httpx2.PoolTimeout):
        return AttemptError("the target takes no connection in time", billed="no", action="retry")
    if isinstance(error, httpx2.TimeoutException):
        return AttemptError(
            "the target does not answer in time; timeout is the time it has", billed="unknown", action="retry"
        )
    if isinstance(error, httpx2.DecodingError):
        return unreadable("the answer is compressed in a way that cannot be read")
    if isinstance(error, httpx2.NetworkError | httpx2.RemoteProtocolError):
        return AttemptError("the connection broke before an answer came", billed="unknown", action="retry")
    name = type(error).__name__
    return AttemptError(
        f"the request cannot be sent ({name}); check url and headers", billed="no", action="stop"
    )


def _of_connection(error: httpx2.ConnectError) -> AttemptError:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, ssl.SSLCertVerificationError):
        reason = getattr(cause, "verify_message", "") or "it cannot be verified"
        return _refused(f"the target's certificate is not accepted: {reason}; check url and ca_file")
    if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        reason = getattr(cause, "reason", "") or "no handshake"
        return _refused(f"the target speaks no TLS that is understood ({reason}); check whether url is https")
    return AttemptError(
        "the target takes no connection; check url, and whether it runs", billed="no", action="retry"
    )


def _refused(message: str) -> AttemptError:
    return AttemptError(message, billed="no", action="stop")


def unreadable(message: str) -> AttemptError:
    """Return that an answer came, and was billed, but cannot be used."""
    return AttemptError(message, billed="yes", action="stop")
