import math

import pytest

from bench.remote.retry_after import seconds_to_wait

NOW = 1_795_885_200.0
"""Sat, 28 Nov 2026 17:00:00 GMT."""

CASES = [
    ("3", 3),
    (" 5 ", 5),
    ("0", 0),
    ("120", 120),
    ("Sat, 28 Nov 2026 17:00:30 GMT", 30),
    ("Saturday, 28-Nov-26 17:00:30 GMT", 30),
    ("Sat Nov 28 17:00:30 2026", 30),
    ("Sat, 28 Nov 2026 17:00:30 -0000", 30),
    ("Sat, 28 Nov 2026 16:00:00 GMT", 0),
    ("-1", None),
    ("1.5", None),
    ("1e3", None),
    ("٣", None),
    ("tomorrow", None),
    ("", None),
    ("Sat, 99 Nov 2026 17:00:30 GMT", None),
    ("9" * 400, math.inf),
]


@pytest.mark.parametrize(("value", "seconds"), CASES)
def test_retry_after_is_whole_seconds_or_a_date(value, seconds):
    assert seconds_to_wait(value, date=None, now=NOW) == seconds


def test_a_date_is_by_the_clock_of_the_server():
    asked = "Sat, 28 Nov 2026 17:00:30 GMT"
    assert seconds_to_wait(asked, date="Sat, 28 Nov 2026 17:00:10 GMT", now=NOW - 9999) == 20
    assert seconds_to_wait(asked, date="no date", now=NOW) == 30
