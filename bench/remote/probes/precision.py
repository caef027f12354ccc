"""How much an answer tells: digits, distinct values, and outputs that a client may choose."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from bench.remote import answers, client
from bench.remote.exchange import AttemptError
from bench.remote.probing.base import Bounds, CannotTestError, Probe, Verdict, fails, holds
from bench.remote.probing.context import Context
from bench.remote.probing.shots import Seen
from bench.remote.protocols.base import decoded, shaped
from bench.remote.target import Target

INPUTS = 50
"""Inputs that are asked."""
MOST_DIGITS = 4
"""Significant digits from which on a number is as good as the model's own for most attacks."""
MANTISSA = 7
"""Significant digits of a 32-bit number; more tell nothing of a network's answers."""
OUTPUTS = ("predict_proba", "probabilities", "predict_log_proba", "logits")
"""Names of outputs that servers are known to have."""


def bounds(target: Target) -> Bounds:
    """Return what 50 inputs and one for each further output need, and an ordinary one."""
    others = len(OUTPUTS) + 4 if target.protocol == "oip" else 0
    return Bounds(inputs=INPUTS + others + 1, requests=INPUTS + others + 2)


def run(context: Context) -> Verdict:
    """Ask 50 inputs and count what is shown; then ask for other outputs, where a protocol names them."""
    target = context.target
    tables, digits = [], 0
    for start in range(0, INPUTS, context.batch):
        seen = context.ask(context.inputs(min(context.batch, INPUTS - start), start=start))
        shown = _shown(context, seen, target)
        if shown is None:
            raise CannotTestError(f"an ordinary request was answered with {seen.status or 'nothing'}")
        tables.append(shown[0])
        digits = max(digits, shown[1])
    table = np.concatenate(tables)
    said = _described(table, digits)
    others = list(_other_outputs(context))
    if digits > MOST_DIGITS:
        return fails(said, *(sentence for sentence, _ in others))
    if others:
        return fails(said, *(sentence for sentence, _ in others), requests=tuple(each for _, each in others))
    context.require_answer()
    return holds(said)


def _described(table: np.ndarray[tuple[int, int], np.dtype[np.float64]], digits: int) -> str:
    inputs, classes = table.shape
    if digits <= 1 and np.isin(table, (0.0, 1.0)).all():
        return f"{inputs} answers tell one of {classes} classes each: at most {math.log2(classes):.1f} bits."
    bits = (classes - 1) * min(digits, MANTISSA) * math.log2(10)
    top = int((table > 0).sum(axis=1).max())
    return (
        f"{inputs} answers show up to {digits} significant digits of {top} of {classes} classes, with "
        f"{len(np.unique(table)):,} distinct values and sums from {table.sum(axis=1).min():.6g} to "
        f"{table.sum(axis=1).max():.6g}: at most {bits:.0f} bits each."
    )


def _shown(
    context: Context, seen: Seen, target: Target
) -> tuple[np.ndarray[tuple[int, int], np.dtype[np.float64]], int] | None:
    """Return the answers (n, classes) and the digits that they show, None where they are none."""
    if not seen.answered:
        return None
    try:
        document = decoded(seen.reply.body, context.secrets.cleaned)
        rows, _ = client.wire_of(target).rows(document, seen.shot.inputs, seen.shot.id)
        return answers.table(rows, seen.shot.inputs, target)
    except AttemptError:
        return None


def _other_outputs(context: Context) -> Iterator[tuple[str, str]]:
    """Yield other outputs that tell more than the target file says, a sentence and a request's id each."""
    target = context.target
    if target.protocol != "oip":
        return
    for name in _names(context):
        asked = target.model_copy(update={"output": name, "answers": "probabilities"})
        identity = context.new_id()
        body = client.wire_of(asked).body(shaped(context.inputs(1), asked), identity)
        seen = context.send(context.shot(1, body=body, identity=identity))
        shown = _shown(context, seen, asked)
        if shown is None or shown[1] <= MOST_DIGITS:
            continue
        yield f"A client that asks for the output {name!r} gets up to {shown[1]} significant digits.", seen.id


def _names(context: Context) -> list[str]:
    """Return outputs that metadata list, and known ones, without the target file's own."""
    listed: list[str] = []
    address = context.wire.metadata.get("model")
    if address is not None:
        seen = context.send(context.get(context.path_of(address), key=True))
        try:
            document = decoded(seen.reply.body, context.secrets.cleaned)
            listed = [str(each["name"])[:80] for each in document["outputs"][:4]]
        except (AttemptError, KeyError, TypeError):
            listed = []
    return [name for name in dict.fromkeys((*listed, *OUTPUTS)) if name != context.target.output]


PROBE = Probe(
    name="precision",
    asks="Do answers show few digits, whatever output a client asks for?",
    controls=(4,),
    atlas=("AML.M0002",),
    exchange=("#OBSCURE CONFIDENCE",),
    bounds=bounds,
    run=run,
)
