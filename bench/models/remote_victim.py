"""A live target as the victim of attacks: the user's inputs, and no answer but those that were bought."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.data.datasets import Labelled, Splits
from bench.data.sent_rows import on_the_wire
from bench.data.user_data import UserData, load_data
from bench.data.user_splits import FEWEST, equal_to_any, row_groups
from bench.errors import UsageError, nearest
from bench.inputs import Array
from bench.models.victims import Victim, answer_sketch, left_out_note
from bench.remote.exchange import Inputs
from bench.remote.ledger import input_keys
from bench.remote.target import Target
from bench.seeds import derive

FEWEST_TEST = 20
"""Fewest test inputs on which anything can be measured."""
UNKNOWN_TRAINING = (
    "it is unknown what the model was trained on: if these inputs are among it, fidelity may be optimistic"
)


@dataclass(frozen=True)
class LiveData:
    """Where the inputs are, and how many of them are kept for the evaluation.

    ``data``, ``label``, ``pool``, ``public``, ``columns``: as in
    :class:`bench.models.victim_options.VictimOptions`. ``test``: number of test inputs. ``seed``: of their
    draw.
    """

    data: str
    test: int
    label: str | None = None
    pool: str | None = None
    public: str | None = None
    columns: str | None = None
    seed: int = 0


class RemoteVictim(Victim):
    """A live target with its splits; ``train`` and ``calibration`` are empty, since nobody here has them.

    It knows the answers that were bought, and asks for none. ``data``: leads back to what the file has.
    """

    def __init__(
        self, data: UserData, splits: Splits, *, name: str, notes: tuple[str, ...], target: Target
    ) -> None:
        super().__init__(model=None, splits=splits, name=name, notes=notes, class_names=tuple(target.classes))
        self.data, self.target = data, target
        self._bought: dict[bytes, NDArray[np.float64]] = {}

    def on_the_wire(self, x: Array) -> Inputs:
        """Return inputs (n, …) as they are sent: like those in the user's file."""
        return on_the_wire(self.data, x)

    def probabilities(self, x: Array) -> NDArray[np.float64]:
        """Return the answers (n, classes) that were bought; rows of NaN where none was, or it was refused."""
        answers = np.full((len(x), self.classes), np.nan)
        for row, each in enumerate(np.ascontiguousarray(x, dtype=np.float32)):
            known = self._bought.get(each.tobytes())
            if known is not None:
                answers[row] = known
        return answers

    def remember(self, x: Array, answers: NDArray[np.float64]) -> None:
        """Keep ``answers`` (n, classes) to inputs (n, …); the first one to each input counts."""
        for each, answer in zip(np.ascontiguousarray(x, dtype=np.float32), answers, strict=True):
            self._bought.setdefault(each.tobytes(), answer.copy())

    def expect(self, x: Array) -> None:
        """Do nothing: nobody asks for inputs before an attack does."""

    def check(self) -> None:
        """Do nothing: answers are checked as they come in."""

    def with_answers(self, answers: NDArray[np.float64], identity: str) -> RemoteVictim:
        """Return the victim with the answers (n, classes) to its test inputs, and with its fingerprint.

        Test inputs that the target refuses are left out; a note names labels that balanced fidelity leaves
        out. ``identity``: what the target says of its model.
        Raises UsageError where too few are left.
        """
        splits, test = self.splits, self.splits.test
        answered = np.asarray(np.isfinite(answers).all(axis=1))
        if answered.sum() < FEWEST_TEST:
            raise UsageError(
                f"the target answers {int(answered.sum())} of {len(test)} test inputs, and {FEWEST_TEST} are "
                "needed; moatbench target check shows what it answers"
            )
        notes = self.notes
        if not answered.all():
            notes += (f"{int((~answered).sum()):,} test inputs that the target refuses are left out",)
        kept = test.rows(answered)
        labels = answers[answered].argmax(axis=1).astype(np.int64)
        if not test.labelled:
            kept = Labelled(kept.x, labels, labelled=False)
        if note := left_out_note(labels, self.class_names, "the target"):
            notes += (note,)
        found = RemoteVictim(
            self.data,
            Splits(
                splits.train,
                splits.calibration,
                splits.pool,
                kept,
                splits.classes,
                space=splits.space,
                public=splits.public,
            ),
            name=self.name,
            notes=notes,
            target=self.target,
        )
        found.remember(kept.x, answers[answered])
        found.fingerprint = _fingerprint(found, answers[answered], identity)
        return found


def remote_victim(target: Target, options: LiveData, *, name: str, folder: Path = Path()) -> RemoteVictim:
    """Return the victim of a live target before anything was bought; paths are relative to ``folder``.

    Raises UsageError, one sentence, for data that cannot be read, are too few, or have other classes.
    """
    files = {part: path for part in ("pool", "public") if (path := getattr(options, part)) is not None}
    data = load_data(
        options.data, label=options.label, columns=options.columns, folder=folder, also=tuple(files.values())
    )
    notes = [*data.notes, UNKNOWN_TRAINING]
    y = _placed(data.y, len(data), data.class_names, target.classes)
    firsts = np.unique(row_groups(data.x))
    if len(firsts) < len(data):
        notes.append(f"{len(data) - len(firsts):,} rows are equal to an earlier one, and left out")
    given = dict(zip(files, data.others, strict=True))
    least = 0 if "pool" in given else FEWEST
    if not FEWEST_TEST <= options.test <= len(firsts) - least:
        raise UsageError(
            f"--test {options.test}: {options.data} has {len(firsts):,} different rows; "
            f"[{FEWEST_TEST}, {max(FEWEST_TEST, len(firsts) - least):,}] is allowed"
        )
    order = np.random.default_rng(derive("live test inputs", options.seed)).permutation(len(firsts))
    chosen = np.sort(firsts[order[: options.test]])
    rest = np.sort(firsts[order[options.test :]])
    labelled = data.y is not None
    test = Labelled(np.ascontiguousarray(data.x[chosen]), y[chosen], labelled=labelled)
    parts = {"pool": Labelled(np.ascontiguousarray(data.x[rest]), y[rest], labelled=labelled)}
    for part, (x, labels) in given.items():
        distinct = np.unique(row_groups(x))
        apart = distinct[~equal_to_any(x[distinct], test.x)]
        if len(apart) < len(x):
            notes.append(
                f"{len(x) - len(apart):,} inputs of {files[part]} that are test inputs, or equal to an "
                "earlier one, are left out"
            )
        own = _placed(None if labels is None else labels[apart], len(apart), data.class_names, target.classes)
        parts[part] = Labelled(np.ascontiguousarray(x[apart]), own, labelled=labels is not None)
    for part, inputs in parts.items():
        if len(inputs) < FEWEST and not (part == "pool" and "pool" not in given and "public" in given):
            raise UsageError(
                f"{files.get(part, options.data)}: {len(inputs)} inputs are left for an attacker, and "
                f"{FEWEST} are needed; give more rows that differ"
            )
    none = Labelled(np.zeros((0, *data.x.shape[1:]), np.float32), np.zeros(0, np.int64))
    splits = Splits(
        none, none, parts["pool"], test, len(target.classes), space=data.space, public=parts.get("public")
    )
    return RemoteVictim(data, splits, name=name, notes=tuple(notes), target=target)


def _placed(
    y: NDArray[np.int64] | None, number: int, names: Sequence[str], classes: Sequence[str]
) -> NDArray[np.int64]:
    """Return labels, places among ``names``, as places among the target's classes; 0 without labels."""
    if y is None:
        return np.zeros(number, dtype=np.int64)
    unknown = [name for name in names if name not in classes]
    if unknown:
        raise UsageError(
            f"the data have a label {unknown[0]!r} that is not among classes of the target file; "
            f"{nearest(unknown[0], classes)}"
        )
    places = np.array([list(classes).index(name) for name in names], dtype=np.int64)
    found: NDArray[np.int64] = places[y]
    return found


def _fingerprint(victim: RemoteVictim, answers: NDArray[np.float64], identity: str) -> str:
    """Return a text that changes where the target, the way it answers, its model or the inputs do."""
    target = victim.target
    what = (target.url, target.protocol, target.model, target.version, target.output, target.answers)
    h = hashlib.sha256(repr((what, target.classes, target.scale, target.partial, identity)).encode())
    for part in ("pool", "test", "public"):
        inputs = getattr(victim.splits, part)
        if inputs is not None:
            h.update(np.ascontiguousarray(inputs.x).data)
            h.update(np.ascontiguousarray(inputs.y).data)
            # What is sent, too: other categories or names of columns have the same numbers in x.
            h.update(b"".join(input_keys("", "", victim.on_the_wire(inputs.x))))
    h.update(answer_sketch(answers).tobytes())
    return h.hexdigest()
