"""The test behind ``moatbench watermark verify``: loads models, asks them, and says what follows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.data.user_data import label_text
from bench.errors import UsageError, one_line, shown
from bench.metrics import ownership
from bench.models.determinism import single_thread
from bench.models.model_files import LoadedModel, load_model
from bench.models.own_outputs import recognised
from bench.serve.watermark import TriggerSet, read_trigger_set

Kind = Literal["probabilities", "logits", "labels"]


def verdict(
    model: str,
    against: Path,
    *,
    independent: Sequence[str] = (),
    alpha: float = 0.001,
    outputs: Kind = "probabilities",
    trust: Sequence[str] = (),
) -> list[str]:
    """Return the sentences on a model; raises UsageError for what cannot be loaded, or too few triggers."""
    triggers = read_trigger_set(against)
    classes = len(triggers.classes)
    if classes == 2 and not independent:
        raise UsageError(
            "with two classes, every model that errs on a trigger says the wrong class; name models made "
            "without these answers with --independent"
        )
    with single_thread():
        says = labels_of(model, triggers, outputs, trust)
        others = [labels_of(each, triggers, outputs, trust) for each in independent]
    wrong, own = (_places(triggers, name) for name in ("label", "victim_label"))
    if classes > 2:
        _require_power(len(says), 1 / (classes - 1), alpha, disagreements=True)
        found = ownership.by_disagreements(says, wrong, own, classes)
        lines = [
            (
                f"{model} disagrees with the victim on {found.compared} of the {found.triggers} inputs on "
                f"which {triggers.client} was given a wrong class, and says that class on {found.matches}"
            ),
            (
                f"a model made without these answers says it with probability 1/{classes - 1} where it "
                f"disagrees: p = {found.p_value:.2g}"
            ),
        ]
        tests = [ownership.by_disagreements(each, wrong, own, classes) for each in others]
        if tests:
            accused = sum(each.p_value <= alpha for each in tests)
            lines.append(f"of {len(tests)} independent models, {accused} would be recognised")
    else:
        matches = [int((each == wrong).sum()) for each in others]
        found = ownership.by_independent_models(int((says == wrong).sum()), len(says), matches, alpha)
        _require_power(len(says), found.chance, alpha, disagreements=False)
        lines = [
            (
                f"{model} says the wrong class on {found.matches} of the {found.triggers} inputs on which "
                f"{triggers.client} was given it; independent models on {', '.join(map(str, matches))}"
            ),
            (
                f"if a model made without these answers says it with probability {found.chance:.3f} at most, "
                f"as these do: p = {found.p_value:.2g}"
            ),
        ]
    return [*lines, _conclusion(found, triggers.client, alpha)]


def _conclusion(found: ownership.OwnershipTest, client: str, alpha: float) -> str:
    if found.p_value <= alpha:
        return (
            f"recognised at alpha = {alpha:g}: the model learned wrong answers that {client} was given; "
            "other clients that sent the same inputs were given the same"
        )
    return (
        f"not recognised at alpha = {alpha:g}: this does not show that the model is independent, since an "
        "attacker may have left the wrong answers out"
    )


def _require_power(n: int, chance: float, alpha: float, *, disagreements: bool) -> None:
    power = ownership.power(n, chance, alpha, disagreements=disagreements)
    if power >= ownership.POWER:
        return
    enough = ownership.needed(chance, alpha, disagreements=disagreements)
    advice = f"{enough} are needed" if enough else "no number is enough; give better independent models"
    raise UsageError(
        f"{n} wrong answers are too few: a model that reproduces half of them would be recognised with "
        f"probability {power:.2f} at alpha = {alpha:g}; {advice}"
    )


def _places(triggers: TriggerSet, name: str) -> NDArray[np.int64]:
    places = {each: place for place, each in enumerate(triggers.classes)}
    return np.array([places[getattr(each, name)] for each in triggers.triggers], dtype=np.int64)


def labels_of(
    model: str, triggers: TriggerSet, outputs: Kind, trust: Sequence[str] = ()
) -> NDArray[np.int64]:
    """Return (n,) the places of the classes that a model says, -1 where it has a class of its own."""
    loaded = load_model(model, trust=trust)
    answers = _answers(loaded, model, triggers)
    classes = tuple(label_text(each) for each in triggers.classes)
    try:
        found, _ = recognised(
            answers,
            declared=outputs,
            data_classes=classes,
            model_classes=loaded.known_classes(),
            labels_only=loaded.labels_only,
            own_numbers=all(name.isdigit() for name in classes),
        )
        tops = found.probabilities(answers).argmax(axis=1)
    except UsageError as error:
        raise UsageError(f"{model}: {error}") from error
    places = {name: place for place, name in enumerate(classes)}
    return np.array([places.get(found.classes[top], -1) for top in tops], dtype=np.int64)


def _answers(loaded: LoadedModel, model: str, triggers: TriggerSet) -> NDArray[Any]:
    rows, columns = [each.input for each in triggers.triggers], triggers.columns
    try:
        array = np.array(rows, dtype=np.float32)
    except (TypeError, ValueError):  # texts, or rows of several lengths
        array = np.array(rows, dtype=object)
    frame = pd.DataFrame(rows, columns=columns) if columns else None
    if loaded.takes == "frame" and frame is None:
        frame = _named(loaded, rows, model)
    forms: list[Any] = [frame] if loaded.takes == "frame" else [array]
    if not loaded.decides and frame is not None:
        forms = [frame, array]
    for form in forms:
        try:
            answers = loaded.predict(form)
        except (Exception, SystemExit) as error:  # noqa: BLE001  # whatever a user's model raises
            failure = one_line(error)
            continue
        if answers.ndim and len(answers) == len(rows):
            return answers
        failure = f"it returns {answers.shape} for {len(rows)} inputs"
    raise UsageError(f"{model} fails on the inputs of the triggers, {shown(array.shape)}: {failure}")


def _named(loaded: LoadedModel, rows: Sequence[Sequence[Any]], model: str) -> pd.DataFrame:
    features = loaded.features or ()
    if any(len(row) != len(features) for row in rows):
        raise UsageError(f"{model} expects {len(features)} columns, and the triggers have {len(rows[0])}")
    return pd.DataFrame(rows, columns=list(features))
