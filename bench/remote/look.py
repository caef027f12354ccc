"""A first look at a target: does it answer as its file says, how fast, and how much do its answers show."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.remote.exchange import Inputs
from bench.remote.money import RunLimitError
from bench.remote.target import Target
from bench.run_facts import CampaignFacts

SIZES = (8, 32)
"""Inputs of the requests after the first two, which send one input twice."""
LARGEST = 2 + sum(SIZES)
"""Most inputs that a look asks for."""
MOST_BOOKED = 50
"""Most inputs that a look may book, those that are sent again included."""


@dataclass(frozen=True)
class TargetLook:
    """What a first look at a target found.

    ``identity``: what it says of its model; ``server``: what it says of itself; ``shape``: that of its
    inputs, as it states it; "" if it says nothing. ``asked``: inputs that answers were asked for.
    ``refused``: those without an answer. ``digits``: the most significant digits shown. ``change``: the
    largest difference of two answers to one input, None if there were not two. ``milliseconds``: median of a
    request, by its inputs. ``throughput``: inputs a second over one connection, at the largest of them; None
    if nothing was sent. ``findings``: a sentence each.
    """

    identity: str
    server: str
    shape: str
    asked: int
    refused: int
    digits: int | None
    change: float | None
    milliseconds: Mapping[int, float]
    throughput: float | None
    findings: tuple[str, ...]


def look(
    ask: Callable[[Inputs], NDArray[np.float64]],
    facts: Callable[[], CampaignFacts],
    inputs: Inputs,
    target: Target,
    metadata: Mapping[str, Any],
) -> TargetLook:
    """Return what a look at the target finds; asks for ``LARGEST`` answers at most, each of them booked.

    ``ask``: of the buyer. ``facts``: what it bought so far. ``inputs``: 1 at least, ``LARGEST`` - 1 for all
    requests. ``metadata``: of the exchange. What ``ask`` raises passes, but for RunLimitError, which ends the
    look.
    """
    before = facts().requests
    first = inputs.part(0, 1)
    answers, left_out = [ask(first), ask(first)], ""
    change = _change(*answers)
    start = 1
    for size in SIZES:
        part = inputs.part(start, min(start + min(size, target.batch), len(inputs)))
        if len(part):
            try:
                answers.append(ask(part))
            except RunLimitError as error:
                left_out = f"A request of {len(part)} inputs was not answered in full: {error}; lower batch."
                break
            start += len(part)
    known = facts()
    milliseconds = {int(size): value for size, value in known.latency_ms.items()}
    largest = max(milliseconds, default=0)
    slowest = milliseconds.get(largest, 0.0)
    everything = np.vstack(answers)
    found = TargetLook(
        identity=known.identity,
        server=_server(metadata),
        shape=_shape(metadata),
        asked=len(everything),
        refused=int(np.isnan(everything).any(axis=1).sum()),
        digits=known.digits,
        change=change,
        milliseconds=dict(sorted(milliseconds.items())),
        throughput=largest / slowest * 1000 if slowest > 0 else None,
        findings=(),
    )
    sentences = _sentences(found, everything, target, sent=known.requests > before)
    sentences += [left_out] if left_out else []
    return TargetLook(**{**vars(found), "findings": tuple(sentences)})


def _change(one: NDArray[np.float64], other: NDArray[np.float64]) -> float | None:
    """Return the largest difference of two answers to one input, None if one was refused."""
    return None if np.isnan(one).any() or np.isnan(other).any() else float(np.abs(one - other).max())


def _sentences(found: TargetLook, answers: NDArray[np.float64], target: Target, *, sent: bool) -> list[str]:
    model = f" as {found.identity}" if found.identity else " and does not say which model it is"
    server = f", from {found.server}" if found.server else ""
    sentences = [f"It answers by protocol {target.protocol}{model}{server}."]
    if found.shape:
        sentences.append(f"It states that inputs have {found.shape}.")
    classes = len(target.classes)
    if target.answers == "labels":
        sentences.append(f"Answers are labels, of {classes} classes.")
    else:
        digits = f", with {found.digits} significant digits at most" if found.digits else ""
        sentences.append(f"Answers are probabilities of {classes} classes{digits}.")
        whole = answers[~np.isnan(answers).any(axis=1)]
        if len(whole) and np.isin(whole, (0.0, 1.0)).all():
            sentences.append("Every probability is 0 or 1, so that answers tell no more than labels.")
    if found.change is not None:
        sentences.append(
            "One input sent twice got equal answers."
            if found.change == 0
            else f"Two answers to one input differ by up to {found.change:.2g}."
        )
    if found.refused:
        sentences.append(f"{found.refused} of {found.asked} inputs got no answer.")
    if not sent:
        sentences.append("All these answers had been bought before, so nothing was sent.")
    if found.throughput is not None:
        times = ", ".join(f"{size}: {value:.3g} ms" for size, value in found.milliseconds.items())
        sentences.append(
            f"Median time of a request by its inputs: {times}; that is {found.throughput:,.0f} inputs a "
            "second over one connection."
        )
        largest = max(found.milliseconds)
        if largest < min(max(SIZES), target.batch, found.asked - 2):
            sentences.append(f"Requests of more than {largest} inputs were not answered; lower batch.")
    return sentences


def _server(metadata: Mapping[str, Any]) -> str:
    """Return name and version of the server, as OIP and MLflow state them."""
    said = metadata.get("server")
    if isinstance(said, Mapping):
        parts = [said.get("name"), said.get("version")]
        return " ".join(str(part)[:80] for part in parts if isinstance(part, str))
    return f"version {str(said)[:80]}" if isinstance(said, str | int | float) and said is not True else ""


def _shape(metadata: Mapping[str, Any]) -> str:
    """Return the shapes of the inputs that OIP states for a model; a server may leave them out."""
    model = metadata.get("model")
    tensors = model.get("inputs") if isinstance(model, Mapping) else None
    if not isinstance(tensors, list):
        return ""
    stated = [
        f"{str(each.get('name'))[:40]} {each.get('datatype')} {each.get('shape')}"[:120]
        for each in tensors[:4]
        if isinstance(each, Mapping)
    ]
    return "the shape " + ", ".join(stated) if stated else ""
