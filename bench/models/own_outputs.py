"""Probabilities from whatever a model of the user's returns: one column, labels, logits, fewer classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bench.data.user_data import label_text
from bench.errors import UsageError, nearest, shown

Probabilities = NDArray[np.float64]
Shape = Literal["columns", "column", "labels"]
SUM = 1e-3
"""How far a row's sum may be from 1."""


@dataclass(frozen=True)
class Outputs:
    """How a model's answers become probabilities (n, classes).

    ``shape``: a column for each class, one column for the second of two classes, or labels. ``logits``:
    whether softmax, or the sigmoid, is applied. ``places``: the class of each column; of labels, empty.
    ``classes``: names of all classes. ``normalised``: whether rows are divided by their sum.
    """

    shape: Shape
    logits: bool
    places: tuple[int, ...]
    classes: tuple[str, ...]

    def probabilities(self, answers: NDArray[Any]) -> Probabilities:
        """Return (n, classes) float64; raises UsageError for answers of another form than before."""
        found = np.zeros((len(answers), len(self.classes)))
        if self.shape == "labels":
            names = {name: place for place, name in enumerate(self.classes)}
            labels = [label_text(value) for value in np.ravel(answers).tolist()]
            unknown = next((label for label in labels if label not in names), None)
            if unknown is not None or len(labels) != len(answers):
                raise UsageError(f"it returns the label {shown(unknown)}; {nearest(str(unknown), names)}")
            found[np.arange(len(labels)), [names[label] for label in labels]] = 1
            return found
        values = np.asarray(answers, dtype=np.float64).reshape(len(answers), -1)
        if self.shape == "column":
            if values.shape[1] != 1:
                raise UsageError(f"it returns {answers.shape}, and before one column")
            second = 1 / (1 + np.exp(-np.clip(values[:, 0], -700, 700))) if self.logits else values[:, 0]
            values = np.stack([1 - second, second], axis=1)
        elif values.shape[1] != len(self.places):
            raise UsageError(f"it returns {answers.shape}, and before {len(self.places)} columns")
        elif self.logits:
            raised = np.exp(values - values.max(axis=1, keepdims=True))
            values = raised / raised.sum(axis=1, keepdims=True)
        found[:, list(self.places)] = values
        return found


def recognised(
    answers: NDArray[Any],
    *,
    declared: Literal["probabilities", "logits", "labels"],
    data_classes: Sequence[str],
    model_classes: Sequence[Any] | None,
    labels_only: bool,
    own_numbers: bool,
) -> tuple[Outputs, list[str]]:
    """Return how ``answers``, those of a model to many inputs, are read, and a sentence on each choice.

    ``declared``: what the user says that they are. ``data_classes``: names of the labels of the data; empty
    where they have none. ``model_classes``: the labels of the model's outputs, None if unknown.
    ``labels_only``: whether they are known to be labels. ``own_numbers``: whether labels of the data may be
    numbers of columns. Raises UsageError, in one sentence without the model's name, for what is none.
    """
    known = None if model_classes is None else tuple(label_text(each) for each in model_classes)
    flat = answers.ndim == 1 or (answers.ndim == 2 and answers.shape[1] == 1)
    if not 1 <= answers.ndim <= 2 or not answers.size:
        raise UsageError(
            f"it returns {answers.shape} for {len(answers)} inputs; (n, classes) or (n,) are allowed"
        )
    if answers.dtype.kind == "f" and not np.isfinite(answers).all():
        rows = int((~np.isfinite(answers)).reshape(len(answers), -1).any(axis=1).sum())
        raise UsageError(
            f"{rows:,} of {len(answers):,} answers hold NaN or infinity; "
            "mend the model, or leave these inputs out"
        )
    texts = answers.dtype.kind not in "iufb"
    if texts and not flat:
        raise UsageError(f"it returns {answers.shape} texts; one label an input, or numbers, are allowed")
    whole = not texts and bool((answers == np.round(answers)).all())
    if declared == "labels" and not flat:
        raise UsageError(f'it returns {answers.shape}, which are no labels; leave out outputs = "labels"')
    if declared == "labels" or labels_only or texts or (flat and whole and declared != "logits"):
        return _labels(answers, data_classes, known)
    if flat:
        return _column(np.ravel(answers).astype(np.float64), declared == "logits", data_classes, known)
    return _columns(
        answers.astype(np.float64), declared == "logits", data_classes, known, own_numbers=own_numbers
    )


def _labels(
    answers: NDArray[Any], data_classes: Sequence[str], known: Sequence[str] | None
) -> tuple[Outputs, list[str]]:
    given = dict.fromkeys(label_text(value) for value in np.unique(np.ravel(answers)).tolist())
    numeric = all(_is_whole(name) for name in given)
    more = sorted(given, key=int if numeric else None)
    classes = _united(data_classes, [*(known or ()), *more])
    notes = ["the model returns labels: every answer counts as a probability of 1"]
    unseen = [name for name in given if data_classes and name not in data_classes]
    if unseen and len(unseen) == len(given):
        raise UsageError(
            f"it returns the labels {', '.join(map(repr, list(given)[:5]))}, and the data have "
            f"{', '.join(map(repr, list(data_classes)[:5]))}; let both name the classes alike"
        )
    return Outputs("labels", False, (), classes), [*notes, *_class_notes(data_classes, known or tuple(given))]


def _column(
    values: Probabilities, logits: bool, data_classes: Sequence[str], known: Sequence[str] | None
) -> tuple[Outputs, list[str]]:
    classes = tuple(known or data_classes or ("0", "1"))
    if len(classes) != 2:
        raise UsageError(
            f"it returns one column for {len(classes)} classes; "
            "one column, the probability of the second class, is enough for two alone"
        )
    if data_classes and set(classes) != set(data_classes):
        raise UsageError(f"its classes are {classes}, those of the data {tuple(data_classes)}")
    if not logits:
        _check_range(values)
    what = "logit" if logits else "probability"
    note = f"one column is read as the {what} of class {classes[1]!r}"
    return Outputs("column", logits, (0, 1), classes), [note]


def _columns(
    values: Probabilities,
    logits: bool,
    data_classes: Sequence[str],
    known: Sequence[str] | None,
    *,
    own_numbers: bool,
) -> tuple[Outputs, list[str]]:
    number = values.shape[1]
    if not logits:
        _check_range(values)
        sums = values.sum(axis=1)
        worst = int(np.abs(sums - 1).argmax())
        if abs(sums[worst] - 1) > SUM:
            raise UsageError(
                f"its columns sum to {sums[worst]:.4g} in a row, and probabilities of classes to 1; "
                'divide each row by its sum, or declare outputs = "logits" if they are no probabilities'
            )
    if known is not None and len(known) != number:
        raise UsageError(f"it returns {number} columns for {len(known)} classes")
    if known is None:
        columns = tuple(map(str, range(number)))
        if data_classes and len(data_classes) == number:
            known = tuple(data_classes)
        elif not data_classes or own_numbers:
            known = columns
        else:
            raise UsageError(
                f"it returns {number} columns, and the data have {len(data_classes)} classes "
                f"({', '.join(map(repr, list(data_classes)[:5]))}); "
                "give it the labels of its columns as classes_"
            )
    classes = _united(data_classes, known)
    places = tuple(classes.index(name) for name in known)
    return Outputs("columns", logits, places, classes), _class_notes(data_classes, known)


def _united(data_classes: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """Return all classes: the model's in its order where it has all, else the data's first."""
    if set(data_classes) <= set(known):
        return tuple(dict.fromkeys(known))
    together = tuple(dict.fromkeys([*data_classes, *known]))
    return tuple(sorted(together, key=int)) if all(map(_is_whole, together)) else together


def _class_notes(data_classes: Sequence[str], known: Sequence[str]) -> list[str]:
    if not data_classes:
        return []
    notes = []
    if missing := [name for name in data_classes if name not in known]:
        notes.append(f"the model never answers {', '.join(map(repr, missing[:5]))}, which the data have")
    if extra := [name for name in known if name not in data_classes]:
        notes.append(f"the data have no input of {', '.join(map(repr, extra[:5]))}, which the model knows")
    return notes


def _check_range(values: Probabilities) -> None:
    low, high = float(values.min()), float(values.max())
    if low < -1e-6 or high > 1 + 1e-6:
        percent = low >= 0 and 1 < high <= 100 + 1e-6
        advice = (
            "divide them by 100 if they are percentages"
            if percent
            else 'declare outputs = "logits" (--outputs logits) if they are logits'
        )
        raise UsageError(
            f"its answers are from {low:.4g} to {high:.4g}, and probabilities in [0, 1]; {advice}"
        )


def _is_whole(text: str) -> bool:
    return text.lstrip("-").isdigit()
