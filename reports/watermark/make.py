"""Makes ``report.md`` and ``near-duplicates.md`` from ``measured.json``, which ``measure.py`` writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from measure import ALPHAS, BUDGET, KEYS, RATE, REPEATS

from bench.files import write_atomically
from bench.metrics.intervals import share_interval
from bench.metrics.ownership import needed

HERE = Path(__file__).parent
PAGE = """\
# A watermark in answers: what it proves, and what removes it

`dawn(rate={rate:g})` gives {rate_percent} of all inputs a wrong class, drawn by a keyed hash. A
surrogate that learned these answers shows
them. {first}

Victim: digits/mlp. Surrogates: mlp, {repeats} for each row, each with its own key, draw of queries
and seed, trained on the answers to
{budget} queries unless the row says otherwise. Recognised: p ≤ 0.001 by the [exact
test](../../METHOD.md#watermarks).

## Does the mark survive?

| surrogate | recognised (%, 95 % CI) | wrong answers reproduced (%) | wrong answers, median | fidelity (%) |
| :-- | --: | --: | --: | --: |
{survival}

- *Fine-tuned*: 300 further steps on 150 labelled inputs of the attacker's own.
- *Distilled*: a second network (mlp128) learns the surrogate's answers, to 250 inputs that were
  never queried, or to the {budget} that were.
- *No watermark*: learned truthful answers to the same inputs; recognised would be a false accusation.
- *Knows the defense*: the attack `recover` with full knowledge. It drops answers that contradict
  surrogates trained on the others.

## Is anybody accused wrongly?

Models made without the victim's answers, {repeats} of each kind, each tested with {keys} keys; no
two tests share a key.

| model | tests | accused at alpha = 0.01 (%, 95 % CI) | at alpha = 0.001 (%, 95 % CI) |
| :-- | --: | --: | --: |
{false}

The test is exact whatever the model, so these shares should not exceed alpha; they are
lower, since such models seldom disagree with the victim.

## What do users lose?

| rate | test inputs with a wrong class (%) | accuracy lost (pp) |
| :-- | --: | --: |
{benign}

Means over {repeats} keys, and the smallest and largest. [Do near-duplicates get the same
decision?](near-duplicates.md)

## Limits

- One data set, one victim. At the default rate of 0.005, a client has to send about {queries:,}
  inputs until the {least} wrong answers are
  there that the test needs at alpha = 0.001.
- A surrogate that is not recognised may still be one: fine-tuning on 150 inputs of one's own
  removes the mark.
- The wrong answers also harm a surrogate: compare its fidelity with that of the rows without a watermark.
- An attacker who asks from several accounts divides the wrong answers among them; the test is per account.
- Clients that send the same inputs get the same wrong answers: a model that learned them from one is
  recognised by the triggers of each. `watermark export --alone` leaves out what others got too.

Made by `python reports/watermark/measure.py` and `python reports/watermark/make.py`.
"""

NEAR_PAGE = """\
# Do near-duplicates get the same decision?

A part of [the report on watermarks](report.md): `dawn` decides by a keyed hash whether an answer is wrong.

With rate 0.5, where chance alone gives 28 %. Normal noise on every pixel, of a standard deviation in
units of the range.

| hashed | noise 0.001 (%) | noise 0.01 (%) | noise 0.05 (%) |
| :-- | --: | --: | --: |
{near}

{near_text}
"""


def percent(successes: int, n: int) -> str:
    """Return a share in percent with its interval."""
    found = share_interval(successes, n)
    return f"{100 * found.value:.1f} ({100 * found.low:.1f}–{100 * found.high:.1f})"


def near_duplicates(measured: dict[str, Any]) -> str:
    """Return the page on inputs that are nearly the same."""
    near = "\n".join(
        f"| {row['representation']} | "
        + " | ".join(f"{100 * value:.1f}" for value in row["kept"].values())
        + " |"
        for row in measured["near"]
    )
    return NEAR_PAGE.format(near=near, near_text=NEAR)


def page(measured: dict[str, Any]) -> str:
    """Return the report."""
    rows = measured["survival"]
    survival = "\n".join(
        f"| {name} | {percent(sum(p <= ALPHAS[1] for p in row['p']), len(row['p']))} "
        f"| {100 * np.mean(row['reproduced']):.0f} | {np.median(row['triggers']):g} "
        f"| {100 * np.mean(row['fidelity']):.1f} |"
        for name, row in rows.items()
    )
    false = "\n".join(
        f"| {name} | {row['tests']:,} | {percent(row['false']['0.01'], row['tests'])} "
        f"| {percent(row['false']['0.001'], row['tests'])} |"
        for name, row in measured["independent"].items()
    )
    benign = "\n".join(
        f"| {row['rate']:g} | {spread(row['changed'])} | {spread(row['lost'])} |"
        for row in measured["benign"]
    )
    least = needed(1 / 9, ALPHAS[1], disagreements=True) or 0
    return PAGE.format(
        rate=RATE,
        rate_percent=f"{100 * RATE:g} %",
        first=first(rows),
        repeats=REPEATS,
        budget=BUDGET,
        keys=KEYS,
        survival=survival,
        false=false,
        benign=benign,
        least=least,
        queries=round(least / 0.005),
    )


NEAR = """\
By features, small changes keep the decision and larger ones do not: an attacker who sends
near-duplicates of one input then sees two classes. By the input alone even the smallest noise changes
it, since many pixels are at their median: hash features where there are any."""


def spread(values: list[float]) -> str:
    """Return a mean in percent with the smallest and the largest value."""
    return f"{100 * np.mean(values):.2f} ({100 * min(values):.2f} to {100 * max(values):.2f})"


def first(rows: dict[str, Any]) -> str:
    """Return the sentence of the first screen."""

    def recognised(name: str) -> str:
        values = rows[name]["p"]
        return f"{sum(p <= ALPHAS[1] for p in values)} of {len(values)}"

    return (
        f"At alpha = 0.001 it recognises {recognised('probabilities, 400 queries')} surrogates that learned "
        f"whole answers, {recognised('fine-tuned on own data')} after fine-tuning, "
        f"{recognised('distilled on other inputs')} after distillation on other inputs, and "
        f"{recognised('knows the defense (recover)')} of an attacker who knows the defense."
    )


if __name__ == "__main__":
    found = json.loads((HERE / "measured.json").read_text(encoding="utf-8"))
    write_atomically(HERE / "report.md", page(found))
    write_atomically(HERE / "near-duplicates.md", near_duplicates(found))
