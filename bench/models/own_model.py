"""A user's model as it is asked: what it takes, what it answers, and on which inputs it fails."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.data.user_data import UserData
from bench.errors import UsageError, VictimError, one_line
from bench.inputs import Array
from bench.models import kept_answers
from bench.models.determinism import CHUNK
from bench.models.model_files import LoadedModel, Takes
from bench.models.own_outputs import Outputs
from bench.models.shared_answers import SharedAnswers

MOST_REFUSED = 0.01
"""Share of the rows on which a model may raise an error; these rows are left out."""
ASKED, KEPT = "asked", "kept"
"""Names under which processes share what a model answered when it was loaded, and what was kept of it."""


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
            shared.put(ASKED, content)
        if self.kept is not None:
            shared.put(KEPT, kept_answers.to_bytes(self.kept))

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


def asked_model(model: LoadedModel, data: UserData, name: str) -> Asked:
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
        return all_answers(own, data.x, first)
    if len(takes) == 1:
        own = replace(own, asked=replace(own.asked, alone=_takes_one(own, data.x)))
        return all_answers(own, data.x)
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


def all_answers(own: OwnModel, x: Array, first: NDArray[Any] | None = None) -> Asked:
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
