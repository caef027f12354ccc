"""Noise whose dependence is known, for tests of the tests of independence."""

import numpy as np


def clipped(clean, noise):
    """Return answers as gaussian_noise gives them; ``noise``: standard normals, (…, classes) as ``clean``."""
    rows = np.clip(clean + 0.2 * noise, 0, None)
    sums = rows.sum(axis=-1, keepdims=True)
    return np.where(sums > 0, rows / np.where(sums > 0, sums, 1), 1 / rows.shape[-1])


def label_kept(clean, noise):
    """Return the same where noise loses no label."""
    rows = clipped(clean, noise)
    top = np.broadcast_to(clean.argmax(axis=-1)[..., None], (*rows.shape[:-1], 1))
    others = rows.argmax(axis=-1)[..., None]
    own, most = (np.take_along_axis(rows, place, axis=-1) for place in (top, others))
    np.put_along_axis(rows, others, own, axis=-1)
    np.put_along_axis(rows, top, most, axis=-1)
    return rows


def rounded(clean, noise):
    """Return discrete answers, many of which coincide."""
    return np.round(clipped(clean, noise / 2), 1)


def rare(clean, noise):
    """Return noise for one input of ten, as of a detector that answers at random."""
    marked = (np.arange(clean.shape[-2]) % 10 == 0)[:, None]
    weights = np.exp(noise)
    return np.where(marked, weights / weights.sum(axis=-1, keepdims=True), clean)


NOISES = {each.__name__: each for each in (clipped, label_kept, rounded, rare)}


def differences(rng, answer, inputs=60, draws=6, rho=0.0, classes=6):
    """Return draws minus their counterparts, (draws, inputs, classes).

    The noise is ``rho`` times one that the input decides, and the root of 1 - rho² times a fresh one.
    """
    clean = rng.dirichlet(np.full(classes, 0.2), inputs)
    fresh = rng.normal(size=(2, draws, inputs, classes))
    own = np.broadcast_to(rng.normal(size=(inputs, classes)), fresh.shape[1:])
    keyed = np.stack([own, rng.normal(size=fresh.shape[1:])])
    drawn, other = answer(clean, rho * keyed + np.sqrt(1 - rho**2) * fresh)
    return drawn - other


def streams(rng, answer, rho=0.0, period=16, queries=48, classes=6):
    """Return answers (4, queries, classes) whose noise has a share with a ``period``, as above."""
    clean = np.broadcast_to(rng.dirichlet(np.full(classes, 0.2), 1), (4, queries, classes))
    keyed = rng.normal(size=(4, period, classes))[:, np.arange(queries) % period]
    return answer(clean, rho * keyed + np.sqrt(1 - rho**2) * rng.normal(size=(4, queries, classes)))
