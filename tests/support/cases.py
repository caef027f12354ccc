"""Which cases of a parametrised test run in every `tox`, and which in `tox -e slow` alone."""

from itertools import product

import pytest


def slow_unless(keep, cases, *, long=False):
    """Return ``cases`` for ``parametrize``; those for which ``keep(*case)`` is false are marked slow.

    ``long``: whether these are marked long, too.
    """
    rows = [case if isinstance(case, tuple) else (case,) for case in cases]
    marks = (pytest.mark.slow, pytest.mark.long) if long else (pytest.mark.slow,)
    return [pytest.param(*row, marks=() if keep(*row) else marks) for row in rows]


def each_once(*axes):
    """Return the product of ``axes`` for ``parametrize``; each value is in a quick case, the rest is slow."""
    diagonal = range(max(map(len, axes)))
    quick = {tuple(axis[place % len(axis)] for axis in axes) for place in diagonal}
    return slow_unless(lambda *case: case in quick, product(*axes))
