"""A victim from a user's model and a file of inputs: ``[victims.NAME]`` of a matrix, assess and check."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.data.datasets import Labelled
from bench.data.user_data import Layout, UserData, load_data
from bench.data.user_splits import MOST_ROWS
from bench.errors import UsageError
from bench.inputs import Array
from bench.models import kept_answers, user_victims
from bench.models.determinism import CHUNK, single_thread
from bench.models.model_files import LoadedModel, load_model
from bench.models.own_model import ASKED, KEPT, MOST_REFUSED, Asked, OwnModel, all_answers, asked_model
from bench.models.own_outputs import Outputs, recognised
from bench.models.own_splits import column_texts, made_splits, sampled, selected
from bench.models.shared_answers import SharedAnswers
from bench.models.victim_options import VictimOptions
from bench.models.victims import Victim, left_out_note
from bench.sources import code

log = logging.getLogger(__name__)


def own_victim(
    options: VictimOptions,
    *,
    name: str,
    seed: int,
    folder: Path = Path(),
    shared: SharedAnswers | None = None,
) -> Victim:
    """Return the victim that ``options`` describe; paths are relative to ``folder``.

    ``shared``: what another process has got from the model, which is then not asked about these inputs.
    Raises UsageError, one sentence that says what to do, whatever is wrong with the model, its data, or both.
    """
    origin = f"victim {name}"
    with _named(origin), single_thread():
        model = load_model(options.model, folder=folder, trust=options.trust)
        files = {part: path for part in ("train", "pool", "public") if (path := getattr(options, part))}
        data = load_data(
            options.data,
            label=options.label,
            columns=options.columns,
            folder=folder,
            also=tuple(files.values()),
            layout=Layout(options.channels, options.range),
        )
        digest = ""
        if not model.digest and not options.deterministic:
            # The identity of others covers their answers; these answers say nothing.
            digest = code(user_victims.module_of(options.model, folder)).digest()
        return assembled(
            model, data, options, name=name, seed=seed, files=tuple(files), code_digest=digest, shared=shared
        )


def assembled(
    model: LoadedModel,
    data: UserData,
    options: VictimOptions,
    *,
    name: str,
    seed: int,
    files: Sequence[str] = (),
    code_digest: str = "",
    shared: SharedAnswers | None = None,
) -> Victim:
    """Return the victim of a model and data that are loaded.

    ``files``: which of "train", "pool" and "public" the further files of the data are, in their order.
    ``code_digest``: of the code of a model that is a function. ``shared``: what this model has answered in
    another process.
    """
    notes: list[str] = []
    origin = f"{model.digest} {data.digest} {code_digest}"
    if model.features is not None:
        data = selected(data, model.features)
    data, left_out = sampled(data, seed)
    if left_out:
        notes.append(f"{MOST_ROWS:,} rows, drawn with the seed, are used; {left_out:,} are not")
    given = None if shared is None else Asked.of(shared.get(ASKED))
    asked = given or asked_model(model, data, name)
    own = OwnModel(model, data, name, asked=asked)
    answers, failed = asked.answers, asked.failed
    if failed.any():
        notes.append(_failures(asked))
        data = data.keep(~failed)
        own = replace(own, data=data)
    outputs, said = recognised(
        answers,
        declared=options.outputs,
        data_classes=data.class_names,
        model_classes=model.known_classes() if given is None else given.classes,
        labels_only=model.labels_only,
        own_numbers=all(text.isdigit() for text in data.class_names),
    )
    own = replace(own, outputs=outputs)
    if not options.deterministic:
        notes.append("the model's answers are random by declaration: each input is asked once in a process")
    if asked.alone:
        notes.append("the model takes one input at a time, and is asked so")
        own = replace(own, memory={})
    for group in options.groups:
        column_texts(data, group)
    probabilities = outputs.probabilities(answers)
    if not options.deterministic:
        own, changed = _with_kept_answers(own, outputs, f"{origin} {seed} {options.outputs}", shared)
        notes += changed
        probabilities = np.asarray(own.kept)
        # The fingerprint covers them by this alone, since each asking gives others.
        origin = f"{origin} {kept_answers.digest(probabilities)}"
    y = _placed(data.y, data.class_names, outputs) if data.y is not None else probabilities.argmax(axis=1)
    others, changed = _further(own, outputs, files, origin, shared)
    notes += changed
    splits, more = made_splits(data, y, others, outputs, options, seed)
    victim = Victim(
        own,
        splits,
        name=name,
        notes=(*data.notes, *said, *notes, *more),
        class_names=outputs.classes,
    )
    victim.origin = origin
    victim.deterministic = options.deterministic
    # Asked once: the splits' inputs are among these.
    victim.remember(data.x, probabilities)
    labels = victim.probabilities(splits.test.x).argmax(axis=1)
    if note := left_out_note(labels, outputs.classes, "the model"):
        victim.notes = (*victim.notes, note)
    return victim


def _further(
    own: OwnModel, outputs: Outputs, files: Sequence[str], origin: str, shared: SharedAnswers | None
) -> tuple[dict[str, Labelled], list[str]]:
    """Return what the further files hold, by "train", "pool" and "public", and what is to be said of it.

    The model's own labels stand for those that a file lacks; of a random model, those that were kept.
    """
    found: dict[str, Labelled] = {}
    notes: list[str] = []
    for part, (x, labels) in zip(files, own.data.others, strict=True):
        if labels is not None:
            found[part] = Labelled(x, _placed(labels, own.data.class_names, outputs))
            continue
        if own.kept is not None and shared is None:
            notes += _keep_answers(own, x, f"{origin} {part}")
        found[part] = Labelled(x, _own_labels(own, x, shared), labelled=False)
    return found, notes


def _failures(asked: Asked) -> str:
    """Return on how many inputs the model fails, in a sentence; raises UsageError for too many."""
    failed = asked.failed
    if failed.mean() > MOST_REFUSED:
        raise UsageError(
            f"the model fails on {int(failed.sum()):,} of {len(failed):,} inputs, "
            f"more than {MOST_REFUSED:.0%}: {asked.first_error}"
        )
    return f"the model fails on {int(failed.sum()):,} inputs, which are left out: {asked.first_error}"


def _with_kept_answers(
    own: OwnModel, outputs: Outputs, key: str, shared: SharedAnswers | None
) -> tuple[OwnModel, list[str]]:
    """Return a random model with the answers to its data that all processes agree on, and what is to be said.

    ``key``: covers the model and the data's file.
    """
    x, changed = own.data.x, False

    def again() -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        asked = all_answers(own, x[: kept_answers.ASKED_AGAIN])
        return outputs.probabilities(asked.answers), ~asked.failed

    if (content := None if shared is None else shared.get(KEPT)) is not None:
        kept = kept_answers.of_bytes(content)  # the process that started the run has compared them
    else:
        inputs = hashlib.sha256(np.ascontiguousarray(x).data).hexdigest()
        fresh = outputs.probabilities(own.asked.answers)
        kept, changed = kept_answers.kept_answers(f"{key} {inputs}", fresh, again)
    memory = dict(zip((row.tobytes() for row in x), kept, strict=True))
    return replace(own, memory=memory, kept=kept), [kept_answers.CHANGED] if changed else []


def _keep_answers(own: OwnModel, x: Array, key: str) -> list[str]:
    """Give a random model the answers to inputs (n, …) of a further file that were kept; say what changed."""

    def again() -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        first = x[: kept_answers.ASKED_AGAIN]
        return replace(own, memory={})(first), np.ones(len(first), dtype=bool)

    inputs = hashlib.sha256(np.ascontiguousarray(x).data).hexdigest()
    kept, changed = kept_answers.kept_answers(f"{key} {inputs}", own(x), again)
    if own.memory is not None:
        own.memory.update(zip((row.tobytes() for row in x), kept, strict=True))
    return [kept_answers.CHANGED] if changed else []


@contextmanager
def _named(origin: str) -> Iterator[None]:
    """Put ``origin`` before the messages of errors in the block."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{origin}: {error}") from error


def _placed(y: NDArray[np.int64], names: Sequence[str], outputs: Outputs) -> NDArray[np.int64]:
    """Return labels, which are places among ``names``, as places among the classes of the outputs."""
    places = np.array([outputs.classes.index(name) for name in names], dtype=np.int64)
    found: NDArray[np.int64] = places[y]
    return found


def _own_labels(own: OwnModel, x: Array, shared: SharedAnswers | None) -> NDArray[np.int64]:
    parts = [x[start : start + CHUNK] for start in range(0, len(x), CHUNK)]
    answers = [own(part) if shared is None else shared.answers(part, own) for part in parts]
    labels: NDArray[np.int64] = np.concatenate(answers).argmax(axis=1).astype(np.int64)
    return labels
