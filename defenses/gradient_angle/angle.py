"""Which answer turns the gradient of an attacker's training step furthest away from the clean one.

The attacker is assumed to train a network F by cross-entropy on the answer y'. For its last layer, with the
features h and the softmax p = F(x), the gradient with respect to the weights is (p - y') hᵀ, and with respect
to the bias p - y'. So with the gradients divided by their norms

    ||G'/||G'|| - G/||G|| ||² = 2 - 2 cos(p - y', p - y),

h cancels, and no gradient has to be computed: the objective of Orekondy, Schiele, Fritz 2020 needs the
softmax of the defender's own network, its proxy, alone. Rows do not depend on each other, and every sum has
one order.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from defenses.base import Array

LEAD = 1e-5
"""What the top-1 class gets more than the others of its set, before the target is divided by its sum."""
MOST_ENUMERATED = 10
"""Classes up to which all sets are tried."""
BLOCK = 512
"""Rows that are searched at once: 512 sets of 512 rows are 2 MiB."""
TINY = 1e-300
EQUAL = 1e-9
"""Sets whose cosines differ by less are equal; with two classes they often are, but for rounding."""

Labels = NDArray[np.int64]


def cosines(answers: Array, clean: Array, proxy: Array) -> Array:
    """Return (n,) the cosine between the gradients of ``answers`` and of ``clean``, all (n, classes).

    ``proxy``: the softmax of the defender's network; zeros for the angle between the answers themselves. 0
    where a gradient is zero.
    """
    moved, before = proxy - answers, proxy - clean
    product: Array = (moved * before).sum(axis=1)
    norms = np.sqrt((moved**2).sum(axis=1) * (before**2).sum(axis=1))
    return np.where(norms > TINY, product / np.maximum(norms, TINY), 0)


def best_vertex(clean: Array, proxy: Array) -> Labels:
    """Return (n,) the class whose one-hot answer turns the gradient most; the lowest index wins a tie."""
    away = proxy - clean
    inner = (away * proxy).sum(axis=1, keepdims=True) - away
    norms = (proxy**2).sum(axis=1, keepdims=True) - 2 * proxy + 1
    # Where a class has all of the proxy's mass, its gradient is zero and has no direction.
    values = np.where(norms > TINY, inner / np.sqrt(np.maximum(norms, TINY)), 0)
    return np.asarray(values.argmin(axis=1), dtype=np.int64)


def best_set(clean: Array, proxy: Array) -> NDArray[np.bool_]:
    """Return (n, classes) the set of classes whose uniform answer turns the gradient most.

    It contains the first maximum of ``clean``, which gets a little more than the others (:data:`LEAD`). All
    sets are tried for up to 10 classes. For more, classes are added one by one, each time the one that turns
    the gradient most, and the best set on the way is taken. Of sets that turn it equally, to 1e-9, the first
    is taken: that of the label alone comes first.
    """
    classes = clean.shape[1]
    search = _enumerated if classes <= MOST_ENUMERATED else _greedy
    found = np.zeros(clean.shape, dtype=bool)
    for start in range(0, len(clean), BLOCK):
        block = slice(start, start + BLOCK)
        found[block] = search(clean[block], proxy[block], clean[block].argmax(axis=1))
    return found


def set_targets(sets: NDArray[np.bool_], top: Labels) -> Array:
    """Return the uniform answers (n, classes) over sets, with a little more on ``top`` (n,), one of each."""
    targets: Array = sets / sets.sum(axis=1, keepdims=True)
    targets[np.arange(len(targets)), top] += LEAD
    return np.asarray(targets / (1 + LEAD))


def towards(clean: Array, targets: Array, eps: float) -> Array:
    """Return the answers (n, classes) on the way from ``clean`` to ``targets``, at most ``eps`` in L1."""
    distance = np.abs(targets - clean).sum(axis=1, keepdims=True)
    share = np.minimum(1, eps / np.maximum(distance, TINY))
    return np.asarray((1 - share) * clean + share * targets)


def with_sole_maximum(rows: Array, top: Labels) -> Array:
    """Return rows (n, classes) with their sole maximum at ``top`` (n,), by one bit if need be."""
    rows = rows.copy()
    single = np.arange(len(rows))
    others = rows.copy()
    others[single, top] = -np.inf
    largest = others.max(axis=1, initial=-np.inf)
    short = ~(rows[single, top] > largest) & np.isfinite(largest)
    rows[single[short], top[short]] = np.nextafter(largest[short], 2)
    return rows


class _Values:
    """The cosines of the targets of sets, by the number of their classes and sums over them.

    A target is (1_S/|S| + LEAD e_t) / (1 + LEAD), so that its product with a vector v is known by v_t and the
    sum of v over S. Targets and the proxy's rows count from the even answer, near which a random proxy is:
    the difference of the two would be lost in rounding otherwise.
    """

    def __init__(self, clean: Array, proxy: Array, top: Labels) -> None:
        single = np.arange(len(clean))
        self._even = 1 / clean.shape[1]
        self.away, self.proxy = proxy - clean, proxy - self._even
        self._away_top = self.away[single, top][:, None]
        self._proxy_top = self.proxy[single, top][:, None]
        self._away_even, self._proxy_even = (
            each.sum(axis=1)[:, None] * self._even for each in (self.away, self.proxy)
        )
        self._inner = (self.away * self.proxy).sum(axis=1)[:, None]
        self._square = (self.proxy**2).sum(axis=1)[:, None]
        self.equal = EQUAL * np.sqrt((self.away**2).sum(axis=1))[:, None]

    def __call__(self, away_sum: Array, proxy_sum: Array, size: Array) -> Array:
        """Return (n, m) values in the order of cosines, for sums (n, m) over m sets of ``size`` classes."""
        scale, even = 1 + LEAD, self._even
        inner = self._inner + self._away_even - (away_sum / size + LEAD * self._away_top) / scale
        across = (proxy_sum / size + LEAD * self._proxy_top) / scale - self._proxy_even
        square = ((1 / size - even) * (1 + 2 * LEAD) + LEAD**2 * (1 - even)) / scale**2
        norms = self._square - 2 * across + square
        return np.where(norms > TINY, inner / np.sqrt(np.maximum(norms, TINY)), 0)

    def first_least(self, values: Array) -> Labels:
        """Return (n,) the first of m values (n, m) that is the least, or equal to it but for rounding."""
        least = values <= values.min(axis=1, keepdims=True) + self.equal
        return np.asarray(least.argmax(axis=1), dtype=np.int64)


def _enumerated(clean: Array, proxy: Array, top: Labels) -> NDArray[np.bool_]:
    classes = clean.shape[1]
    others = _others(top, classes)
    # A set is a number whose bits say which of the others are in it; sets of more classes come later.
    number = np.arange(2 ** (classes - 1))
    bits = (number[:, None] >> np.arange(classes - 1)) & 1 == 1
    values = _Values(clean, proxy, top)
    single = np.arange(len(clean))

    def sums(vectors: Array) -> Array:
        total = np.repeat(vectors[single, top][:, None], len(number), axis=1)
        for place in range(classes - 1):
            # Class by class, since a matrix product sums in an order that depends on the number of rows.
            total[:, bits[:, place]] += vectors[single, others[:, place]][:, None]
        return total

    best = values.first_least(values(sums(values.away), sums(values.proxy), 1.0 + bits.sum(axis=1)))
    found = np.zeros(clean.shape, dtype=bool)
    found[single, top] = True
    np.put_along_axis(found, others, bits[best], axis=1)
    return found


def _greedy(clean: Array, proxy: Array, top: Labels) -> NDArray[np.bool_]:
    values, single = _Values(clean, proxy, top), np.arange(len(clean))
    inside = np.zeros(clean.shape, dtype=bool)
    inside[single, top] = True
    away, across = values.away[single, top][:, None], values.proxy[single, top][:, None]
    best, lowest = inside.copy(), values(away, across, np.ones(1))[:, 0]
    for size in range(2, clean.shape[1] + 1):
        found = values(away + values.away, across + values.proxy, np.full(1, float(size)))
        found[inside] = np.inf
        added = values.first_least(found)
        inside[single, added] = True
        away = away + values.away[single, added][:, None]
        across = across + values.proxy[single, added][:, None]
        better = found[single, added] < lowest - values.equal[:, 0]
        best[better], lowest[better] = inside[better], found[single, added][better]
    return best


def _others(top: Labels, classes: int) -> Labels:
    """Return (n, classes - 1) the classes but ``top`` (n,), in order."""
    numbers = np.broadcast_to(np.arange(classes - 1), (len(top), classes - 1))
    return np.asarray(numbers + (numbers >= top[:, None]), dtype=np.int64)
