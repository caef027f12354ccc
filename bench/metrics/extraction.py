"""Metrics of model extraction: how close a surrogate is to the victim. Functions of arrays alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench.metrics.balance import fidelity_weights
from bench.metrics.two_classes import likeness
from bench.metrics.utility import (
    FLOOR,
    Array,
    Labels,
    Mask,
    l1,
    negative_log_likelihood,
)


def extraction(surrogate: Array, victim: Array, truth: Labels, deployed: Array) -> dict[str, float | None]:
    """Return the metrics of an extraction attack, by name.

    ``surrogate``, ``victim``: (n, classes) probabilities on the test split, the victim's without defense.
    ``truth``: (n,) classes. ``deployed``: (n, classes) answers of the defended API, NaN where it rejects.
    AUC and rank correlation (:func:`bench.metrics.two_classes.likeness`) are there for two classes alone.
    Balanced fidelity is the mean over the victim's labels, rare ones left out, of the agreement on the inputs
    that have them (:func:`bench.metrics.balance.fidelity_weights`).
    Shares are in [0, 1], L1 in [0, 2], KL and the loss against the truth in nats; None where nothing can
    be measured.
    """
    guess, label = surrogate.argmax(axis=1), victim.argmax(axis=1)
    agrees = guess == label
    answered = np.asarray(np.isfinite(deployed).all(axis=1))
    shown = np.nan_to_num(deployed).argmax(axis=1)
    precision, recall, f1 = macro(confusion(truth, guess, surrogate.shape[1]))
    return {
        "extraction.fidelity": float(agrees.mean()),
        "extraction.balanced_fidelity": float((agrees * fidelity_weights(label)).mean()),
        "extraction.agreement_deployed": share(guess == shown, answered),
        "extraction.fidelity_where_victim_errs": share(agrees, label != truth),
        "extraction.fidelity_low_margin": share(agrees, low_margin(victim)),
        "extraction.accuracy": float((guess == truth).mean()),
        "extraction.loss": float(negative_log_likelihood(surrogate, truth).mean()),
        "extraction.precision": precision,
        "extraction.recall": recall,
        "extraction.f1": f1,
        "extraction.l1": float(l1(surrogate, victim).mean()),
        "extraction.kl": float(kl(victim, surrogate).mean()),
        "extraction.macro_f1": macro_f1(label, guess, surrogate.shape[1]),
    } | likeness(surrogate, victim)


def confusion(truth: Labels, guess: Labels, classes: int) -> list[list[int]]:
    """Return (classes, classes) counts: rows are the truth, columns the surrogate's labels."""
    counts = np.bincount(truth * classes + guess, minlength=classes * classes)
    table: list[list[int]] = counts.reshape(classes, classes).tolist()
    return table


def macro(table: Sequence[Sequence[int]]) -> tuple[float, float, float]:
    """Return precision, recall and F1 of a confusion table, each averaged over classes; 0 where undefined.

    Equal to scikit-learn's, whose input checks take longer than all other metrics together.
    """
    counts = np.asarray(table, dtype=np.float64)
    right, guessed, true = np.diag(counts), counts.sum(axis=0), counts.sum(axis=1)
    precision, recall, f1 = (
        np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
        for part, whole in ((right, guessed), (right, true), (2 * right, guessed + true))
    )
    return float(precision.mean()), float(recall.mean()), float(f1.mean())


def macro_f1(label: Labels, guess: Labels, classes: int) -> float:
    """Return the F1 of the surrogate's labels ``guess`` (n,) for the victim's, averaged over labels.

    Over those that the victim or the surrogate gives: another label of the data says nothing.
    """
    counts = np.asarray(confusion(label, guess, classes), dtype=np.float64)
    there = counts.sum(axis=0) + counts.sum(axis=1)
    return float((2 * np.diag(counts)[there > 0] / there[there > 0]).mean())


def share(hits: Mask, among: Mask) -> float | None:
    """Return the share of ``hits`` among the rows of ``among``; None where there are none."""
    return float(hits[among].mean()) if among.any() else None


def low_margin(victim: Array) -> Mask:
    """Return (n,) True for the tenth of the inputs with the smallest gap between top-1 and top-2."""
    top = np.sort(victim, axis=1)[:, -2:]
    order = np.argsort(top[:, 1] - top[:, 0], kind="stable")
    chosen = np.zeros(len(victim), dtype=bool)
    chosen[order[: max(1, len(victim) // 10)]] = True
    return chosen


def kl(p: Array, q: Array) -> Array:
    """Return (n,) Kullback-Leibler divergences of rows q from p, in nats."""
    divergence: Array = (p * (np.log(np.maximum(p, FLOOR)) - np.log(np.maximum(q, FLOOR)))).sum(axis=1)
    return divergence
