"""The header ``Retry-After`` (RFC 9110, 10.2.3): whole seconds, or a date."""

from __future__ import annotations

import datetime as dt
import email.utils


def seconds_to_wait(value: str, *, date: str | None, now: float) -> float | None:
    """Return how many seconds the header asks to wait, 0 at least; None if it says nothing that is valid.

    ``date``: the answer's own ``Date``, as a date is by the server's clock; without one ``now``, in seconds
    since 1970, is used.
    """
    text = value.strip()
    if text.isascii() and text.isdigit():
        return float(text)  # infinite for hundreds of digits
    until = timestamp(text)
    if until is None:
        return None
    since = timestamp(date.strip()) if date else None
    return max(0.0, until - (now if since is None else since))


def timestamp(text: str) -> float | None:
    """Return a date of a header in seconds since 1970, None if it is none; without a zone it is in UTC."""
    try:
        parsed = email.utils.parsedate_to_datetime(text)
        return (parsed if parsed.tzinfo else parsed.replace(tzinfo=dt.UTC)).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
