"""Which cases of a parametrised test run in every `tox`, and which in `tox -e slow` alone."""

from itertools import product

import pytest


def slow_unless(keep, cases):
    """Return ``cases`` for ``parametrize``; those for which ``keep(*case)`` is false are marked slow."""
    rows = [case if isinstance(case, tuple) else (case,) for case in cases]
    return [pytest.param(*row, marks=() if keep(*row) else pytest.mark.slow) for row in rows]


def each_once(*axes):
    """Return the product of ``axes`` for ``parametrize``; each value is in a quick case, the rest is slow."""
    diagonal = range(max(map(len, axes)))
    quick = {tuple(axis[place % len(axis)] for axis in axes) for place in diagonal}
    return slow_unless(lambda *case: case in quick, product(*axes))
