"""A victim from a user's model and a file of inputs: ``[victims.NAME]`` of a matrix, assess and check."""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.data.datasets import Labelled, Splits
from bench.data.user_data import Layout, UserData, label_text, load_data
from bench.data.user_splits import FEWEST, MOST_ROWS, equal_to_any, split_rows
from bench.errors import UsageError, VictimError, nearest, one_line
from bench.inputs import Array
from bench.models import kept_answers, user_victims
from bench.models.determinism import CHUNK, single_thread
from bench.models.model_files import LoadedModel, Takes, load_model
from bench.models.own_outputs import Outputs, recognised
from bench.models.shared_answers import SharedAnswers
from bench.models.victim_options import VictimOptions
from bench.models.victims import Victim, left_out_note
from bench.seeds import derive
from bench.sources import code

log = logging.getLogger(__name__)

MOST_REFUSED = 0.01
"""Share of the rows on which a model may raise an error; these rows are left out."""
UNKNOWN_TRAINING = (
    "it is unknown what the model was trained on: if these inputs are among it, fidelity may be "
    "optimistic; name the file by train (--train)"
)

_ASKED, _KEPT = "asked", "kept"


@dataclass(frozen=True)
class Asked:
    """How a model is asked, and what it answered to all inputs of its data.

    ``takes``: an array, or a data frame. ``alone``: whether it takes one input at a time. ``exact``: whether
    an answer does not depend on how many inputs are asked about together. ``answers``: as the model gave
    them, without inputs on which it fails; ``failed``: (n,) which these are; ``first_error``: why the first
    one is. ``classes``: the labels of its outputs, where another process has told them.
    """

    takes: Takes
    alone: bool = False
    exact: bool = False
    answers: NDArray[Any] = field(default_factory=lambda: np.empty(0), repr=False)
    failed: NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, dtype=bool), repr=False)
    first_error: str = ""
    classes: tuple[Any, ...] | None = None

    def content(self, classes: Sequence[Any] | None) -> bytes | None:
        """Return it, with the labels of the model's outputs, as bytes; None for answers that are objects."""
        if self.answers.dtype == object:
            return None
        buffer = io.BytesIO()
        facts = [
            self.takes,
            self.alone,
            self.exact,
            self.first_error,
            None if classes is None else [*classes],
        ]
        np.savez(buffer, answers=self.answers, failed=self.failed, facts=np.array(json.dumps(facts)))
        return buffer.getvalue()

    @classmethod
    def of(cls, content: bytes | None) -> Self | None:
        """Return what :meth:`content` gave; None for None."""
        if content is None:
            return None
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            takes, alone, exact, first_error, classes = json.loads(str(arrays["facts"]))
            classes = None if classes is None else tuple(classes)
            return cls(takes, alone, exact, arrays["answers"], arrays["failed"], first_error, classes)


@dataclass(frozen=True)
class OwnModel:
    """A model as a victim's: from float32 inputs (n, …) of its space to probabilities (n, classes).

    ``memory``: the answers, by input, of a model that is not deterministic or takes one input at a time; None
    of others. ``kept``: the answers (n, classes) to all inputs of its data, of a model whose answers are
    random by declaration; None of others. ``asked``: how it is asked, and what it answered when it was
    loaded.
    """

    model: LoadedModel
    data: UserData
    name: str
    outputs: Outputs | None = None
    memory: dict[bytes, NDArray[np.float64]] | None = None
    kept: NDArray[np.float64] | None = field(default=None, repr=False)
    asked: Asked = field(default_factory=lambda: Asked("array"), repr=False)

    def share(self, shared: SharedAnswers) -> None:
        """Write down what it answered when it was loaded, for other processes."""
        if (content := self.asked.content(self.model.known_classes())) is not None:
            shared.put(_ASKED, content)
        if self.kept is not None:
            shared.put(_KEPT, kept_answers.to_bytes(self.kept))

    def given(self, x: Array) -> pd.DataFrame | NDArray[Any]:
        """Return inputs as the model is given them."""
        return self.data.frame(x) if self.asked.takes == "frame" else self.data.array(x)

    def answers(self, x: Array) -> NDArray[Any]:
        """Return what the model returns for inputs (n, …), as an array of n rows."""
        if self.asked.alone and len(x) > 1:
            return np.concatenate([self.answers(x[place : place + 1]) for place in range(len(x))])
        answers = self.model.predict(self.given(x))
        if answers.ndim == 0 or len(answers) != len(x):
            raise UsageError(f"it returns {answers.shape} for {len(x)} inputs; one answer each is needed")
        return answers

    @property
    def divided(self) -> Callable[[Array], NDArray[np.int64]] | None:
        """From inputs to labels where the model is given values in [0, 1]; None where the file has these."""
        outputs, scale = self.outputs, self.data.scale
        if outputs is None or scale == 1:
            return None

        def labels(x: Array) -> NDArray[np.int64]:
            answers = self.model.predict(np.asarray(self.given(x), dtype=np.float32) / np.float32(scale))
            found: NDArray[np.int64] = outputs.probabilities(answers).argmax(axis=1).astype(np.int64)
            return found

        return labels

    def __call__(self, x: Array) -> NDArray[np.float64]:
        """Return probabilities (n, classes)."""
        if self.outputs is None:
            raise VictimError(f"victim {self.name}: the outputs of the model are not known yet")
        try:
            if self.memory is None and not self.asked.exact:
                return self.outputs.probabilities(self.answers(x))
            memory = {} if self.memory is None else self.memory
            keys = [row.tobytes() for row in x]
            new = {key: place for place, key in enumerate(keys) if key not in memory}
            if new:
                answers = self.outputs.probabilities(self.answers(x[list(new.values())]))
                memory.update(zip(new, answers, strict=True))
            return np.stack([memory[key] for key in keys])
        except UsageError as error:
            raise VictimError(f"victim {self.name}: {error}") from error


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
        data = _selected(data, model.features)
    data, left_out = _sampled(data, seed)
    if left_out:
        notes.append(f"{MOST_ROWS:,} rows, drawn with the seed, are used; {left_out:,} are not")
    given = None if shared is None else Asked.of(shared.get(_ASKED))
    asked = given or _asked(model, data, name)
    own = OwnModel(model, data, name, asked=asked)
    answers, failed, first_error = asked.answers, asked.failed, asked.first_error
    if failed.any():
        share = failed.mean()
        if share > MOST_REFUSED:
            raise UsageError(
                f"the model fails on {int(failed.sum()):,} of {len(failed):,} inputs, "
                f"more than {MOST_REFUSED:.0%}: {first_error}"
            )
        notes.append(f"the model fails on {int(failed.sum()):,} inputs, which are left out: {first_error}")
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
    others = {
        part: Labelled(
            x,
            _placed(labels, data.class_names, outputs) if labels is not None else _own_labels(own, x, shared),
            labelled=labels is not None,
        )
        for part, (x, labels) in zip(files, data.others, strict=True)
    }
    splits, more = _splits(data, y, others, outputs, options, seed)
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


def _with_kept_answers(
    own: OwnModel, outputs: Outputs, key: str, shared: SharedAnswers | None
) -> tuple[OwnModel, list[str]]:
    """Return a random model with the answers to its data that all processes agree on, and what is to be said.

    ``key``: covers the model and the data's file.
    """
    x, changed = own.data.x, False

    def again() -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        asked = _all_answers(own, x[: kept_answers.ASKED_AGAIN])
        return outputs.probabilities(asked.answers), ~asked.failed

    if (content := None if shared is None else shared.get(_KEPT)) is not None:
        kept = kept_answers.of_bytes(content)  # the process that started the run has compared them
    else:
        inputs = hashlib.sha256(np.ascontiguousarray(x).data).hexdigest()
        fresh = outputs.probabilities(own.asked.answers)
        kept, changed = kept_answers.kept_answers(f"{key} {inputs}", fresh, again)
    memory = dict(zip((row.tobytes() for row in x), kept, strict=True))
    return replace(own, memory=memory, kept=kept), [kept_answers.CHANGED] if changed else []


@contextmanager
def _named(origin: str) -> Iterator[None]:
    """Put ``origin`` before the messages of errors in the block."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{origin}: {error}") from error


def _selected(data: UserData, features: Sequence[str]) -> UserData:
    if not data.table:
        raise UsageError(
            f"the model expects a table with columns ({', '.join(features[:5])}, …), and the data are none"
        )
    if data.named:
        return data.select(features)
    if len(features) != len(data.table):
        raise UsageError(f"the model expects {len(features)} columns, and the data have {len(data.table)}")
    return data


def _sampled(data: UserData, seed: int) -> tuple[UserData, int]:
    """Return at most :data:`MOST_ROWS` rows, and how many were left out."""
    if len(data) <= MOST_ROWS:
        return data, 0
    chosen = np.random.default_rng(derive("own rows", seed)).permutation(len(data))[:MOST_ROWS]
    rows = np.zeros(len(data), dtype=bool)
    rows[chosen] = True
    y = None if data.y is None else data.y[rows]
    return replace(data, x=data.x[rows], y=y), int((~rows).sum())


def _asked(model: LoadedModel, data: UserData, name: str) -> Asked:
    """Return how the model answers, with its answers to all inputs."""
    if model.takes == "frame" and not data.table:
        raise UsageError("the model takes a data frame, and the data are no table")
    takes: list[Takes] = [model.takes]
    if not model.decides and data.named:
        # A function over a file with names: most are written for data frames.
        takes = ["frame", "array"]
    elif model.takes == "frame" and not data.named and model.form != "onnx":
        takes = ["array"]
    errors: list[str] = []
    for each in takes:
        own = OwnModel(model, data, name, asked=Asked(each))
        try:
            first = own.answers(data.x[:2])
        except (Exception, SystemExit) as error:  # whatever a user's model raises
            if isinstance(error, UsageError) and len(takes) == 1:
                raise
            errors.append(_located(error))
            if each == takes[-1] and len(takes) == 1:
                break  # perhaps these rows alone: below
            continue
        return _all_answers(own, data.x, first)
    if len(takes) == 1:
        own = replace(own, asked=replace(own.asked, alone=_takes_one(own, data.x)))
        return _all_answers(own, data.x)
    raise UsageError(
        f"the model fails on a data frame ({errors[0]}) and on an array ({errors[-1]}) of the data"
    )


def _takes_one(own: OwnModel, x: Array) -> bool:
    """Return whether a model that fails on two inputs together answers each of them alone."""
    try:
        own.answers(x[:1]), own.answers(x[1:2])
    except (Exception, SystemExit):  # noqa: BLE001  # whatever a user's model raises
        return False
    return True


def _all_answers(own: OwnModel, x: Array, first: NDArray[Any] | None = None) -> Asked:
    """Return the answers to inputs (n, …); ``first``: those to two of them, asked without the others."""
    parts: list[NDArray[Any]] = []
    failed = np.zeros(len(x), dtype=bool)
    first_error = ""
    left = [(start, min(start + CHUNK, len(x))) for start in range(0, len(x), CHUNK)][::-1]
    allowed = max(1, int(MOST_REFUSED * len(x)))
    while left:
        start, stop = left.pop()
        try:
            parts.append(own.answers(x[start:stop]))
        except UsageError:
            raise
        except (Exception, SystemExit) as error:  # whatever a user's model raises
            first_error = first_error or _located(error)
            if stop - start == 1:
                failed[start] = True
            else:
                middle = (start + stop) // 2
                left += [(middle, stop), (start, middle)]
            if failed.sum() > 4 * allowed:
                raise UsageError(
                    f"the model fails on {int(failed.sum()):,} of the first {stop:,} inputs, more than "
                    f"{MOST_REFUSED:.0%}: {first_error}"
                ) from error
    shapes = {part.shape[1:] for part in parts}
    if len(shapes) > 1:
        raise UsageError(f"it returns rows of different shapes: {', '.join(map(str, sorted(shapes)))}")
    if not parts:
        raise UsageError(f"the model fails on every input: {first_error}")
    answers = np.concatenate(parts)
    # Whether an answer depends on the number of rows, as sums of floating-point numbers may.
    exact = first is not None and not failed[:2].any() and np.array_equal(first, answers[:2])
    return replace(own.asked, exact=exact, answers=answers, failed=failed, first_error=first_error)


def _located(error: BaseException) -> str:
    """Return an error in one line, with the line of the user's file where it was raised."""
    import traceback

    frames = [
        each
        for each in traceback.extract_tb(error.__traceback__)
        if "site-packages" not in each.filename and str(Path(__file__).parent.parent) not in each.filename
    ]
    where = f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}: " if frames else ""
    return f"{where}{one_line(error)}"


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


def _splits(
    data: UserData,
    y: NDArray[np.int64],
    others: dict[str, Labelled],
    outputs: Outputs,
    options: VictimOptions,
    seed: int,
) -> tuple[Splits, list[str]]:
    x, notes = data.x, []
    keep = np.ones(len(x), dtype=bool)
    shifted = None
    if options.shift:
        inside, text = _group(data, options.shift)
        shifted = Labelled(x[inside], y[inside], labelled=data.y is not None)
        keep &= ~inside
        notes.append(f"{int(inside.sum()):,} rows with {text} are held out as the pool 'shifted'")
    trained = others.get("train")
    if trained is not None:
        again = equal_to_any(x, trained.x) & keep
        keep &= ~again
        notes.append(f"{int(again.sum()):,} rows that the model was trained on are left out")
    else:
        notes.append(UNKNOWN_TRAINING)
    rows = np.flatnonzero(keep)
    if len(rows) < FEWEST * 4:
        raise UsageError(
            f"{len(rows)} rows are left for the assessment; give inputs that the model was not trained on"
        )
    found = split_rows(x[rows], y[rows], seed, trained=trained is not None)
    if found.equal:
        notes.append(
            f"{found.equal:,} rows are equal to an earlier one in all features; equal rows are in one split"
        )
    parts = {
        part: Labelled(
            np.ascontiguousarray(x[rows[where]]),
            y[rows[where]].astype(np.int64),
            labelled=data.y is not None,
        )
        for part in ("train", "calibration", "pool", "test")
        for where in (getattr(found, part),)
    }
    if trained is not None:
        parts["train"] = _few(trained, seed)
    if "pool" in others:
        own_pool = others["pool"]
        apart = ~equal_to_any(own_pool.x, parts["test"].x)
        parts["pool"] = own_pool.rows(apart)
        if (~apart).any():
            notes.append(
                f"{int((~apart).sum()):,} inputs of the pool that are in the test split are left out"
            )
    short = [part for part, each in parts.items() if len(each) < FEWEST]
    if short:
        raise UsageError(
            f"split {short[0]} has {len(parts[short[0]])} rows, and {FEWEST} are needed; "
            "give more rows that differ"
        )
    public = others.get("public")
    if public is not None:
        public, left_out = _outside_test(public, parts["test"], str(options.public))
        notes += left_out
    return (
        Splits(
            **parts,
            classes=len(outputs.classes),
            space=data.space,
            shifted=shifted,
            public=public,
            groups=options.groups,
            notes=(),
        ),
        notes,
    )


def _outside_test(public: Labelled, test: Labelled, file: str) -> tuple[Labelled, list[str]]:
    """Return the inputs of ``file`` without those of the test split, and what is to be said of that."""
    apart = ~equal_to_any(public.x, test.x)
    if apart.sum() < FEWEST:
        raise UsageError(
            f"{file}: {int(apart.sum())} inputs are not in the test split, and {FEWEST} are needed; "
            "give more rows that differ"
        )
    if apart.all():
        return public, []
    note = f"{int((~apart).sum()):,} inputs of {file} that are in the test split are left out"
    return public.rows(apart), [note]


def _few(part: Labelled, seed: int) -> Labelled:
    """Return at most 20,000 rows of what the model was trained on."""
    if len(part) <= 20_000:
        return part
    rows = np.sort(np.random.default_rng(derive("own training rows", seed)).permutation(len(part))[:20_000])
    return part.rows(rows)


def _group(data: UserData, wanted: dict[str, str]) -> tuple[NDArray[np.bool_], str]:
    """Return which rows (n,) have the value of each column, and that as text."""
    inside = np.ones(len(data), dtype=bool)
    for name, value in wanted.items():
        values = column_texts(data, name)
        known = sorted(set(values.tolist()))
        if value not in known:
            raise UsageError(f"shift: column {name!r} has no value {value!r}; {nearest(value, known)}")
        inside &= values == value
    text = " and ".join(f"{name} = {value!r}" for name, value in wanted.items())
    if not inside.any() or inside.all():
        raise UsageError(f"shift: {'every' if inside.any() else 'no'} row has {text}; some are needed")
    return inside, text


def column_texts(data: UserData, name: str) -> NDArray[np.str_]:
    """Return a column (n,) as texts, "" where a value is missing; raises UsageError if there is none."""
    if name not in data.names:
        raise UsageError(
            f"no column {name!r}; {nearest(name, data.names)}" if data.names else "the data are no table"
        )
    place = data.names.index(name)
    series = data.table[place].decode(data.x[:, place])
    return np.array(["" if pd.isna(value) else label_text(value).strip() for value in series], dtype=np.str_)
