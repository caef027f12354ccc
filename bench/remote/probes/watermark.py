"""Whether the owner's watermark is found in the answers of the target."""

from __future__ import annotations

import math

import numpy as np

from bench.remote.probing.base import Bounds, CannotTestError, Probe, Verdict, fails, holds
from bench.remote.probing.context import Context
from bench.remote.target import Target

MOST = 200
"""Triggers that are asked."""
ALPHA = 0.001
"""Probability of finding a mark in a model that has none."""


def bounds(_: Target) -> Bounds:
    """Return what the triggers need."""
    return Bounds(inputs=MOST, requests=MOST)


def missing(context: Context) -> str:
    """Return what is missing to test it."""
    if context.triggers is None:
        return "only the owner of the model can test its watermark, with the triggers of --triggers FILE"
    if len(context.target.classes) < 3:
        return "with two classes every model that errs on a trigger says the wrong class"
    return ""


def run(context: Context) -> Verdict:
    """Ask the triggers, and count how often the wrong class is said where the model's own is not.

    A model that is not marked says each class but the right one with the same probability there, as the
    wrong class was drawn evenly.
    """
    triggers = context.triggers
    if triggers is None:
        raise CannotTestError(missing(context))
    number = min(MOST, len(triggers.inputs))
    says = []
    for start in range(0, number, context.batch):
        seen = context.ask(triggers.inputs.part(start, min(number, start + context.batch)))
        table = context.table(seen) if seen.answered else None
        if table is None:
            raise CannotTestError(f"triggers were answered with {seen.status or 'nothing'}")
        says.append(np.where(np.isnan(table).any(axis=1), -1, np.nan_to_num(table).argmax(axis=1)))
    said = np.concatenate(says)
    apart = said != triggers.own[:number]
    compared = int(apart.sum())
    matches = int((apart & (said == triggers.wrong[:number])).sum())
    p_value = tail(matches, compared, 1 / (len(context.target.classes) - 1))
    text = (
        f"Of {number} triggers, {compared} were not answered with the model's own class, and {matches} of "
        f"these with the wrong class of the watermark: p = {p_value:.2g} (binomial test)."
    )
    return holds(text) if p_value <= ALPHA else fails(text)


def tail(matches: int, number: int, chance: float) -> float:
    """Return the probability of at least ``matches`` of ``number``, each with probability ``chance``."""
    return math.fsum(
        math.comb(number, k) * chance**k * (1 - chance) ** (number - k) for k in range(matches, number + 1)
    )


PROBE = Probe(
    name="watermark",
    asks="Do the target's answers carry its owner's watermark?",
    controls=(5,),
    atlas=(),
    exchange=("#MODEL WATERMARKING",),
    bounds=bounds,
    run=run,
    missing=missing,
)
