"""From what a target shows to answers (n, classes), without a guess: what does not fit is an error."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import nearest, shown
from bench.remote.protocols.base import Rows, unreadable
from bench.remote.target import Target

Table = NDArray[np.float64]
SUM = 1e-3
"""How far the sum of probabilities may be from 1, beyond what rounding to the digits shown explains."""
COARSEST = 0.25
"""How far rounding may explain at most."""
ALL_DIGITS = 16
"""Significant digits with which no number was rounded for show."""
LOOKED_AT = 100
"""Numbers of one reply whose digits are counted."""
_NULL = 'check output, or set rejected = "null" if this is how the target rejects an input'


def table(rows: Rows, n: int, target: Target) -> tuple[Table, int]:
    """Return answers (n, classes) to ``n`` inputs, and the most significant digits that were shown.

    Labels become one 1 in their row, and show no digits. Rows of NaN are inputs that the target rejects,
    where its file says how it says so. Raises AttemptError, billed, for anything else than n answers of the
    kind that the target file says.
    """
    if len(rows) != n:
        dropped = "; an expression with [*] drops rows that lack a field" if target.protocol == "json" else ""
        raise unreadable(f"{n} inputs were sent and {len(rows)} answers came{dropped}; check output")
    rejected = np.array([target.rejected == "null" and _is_null(row) for row in rows], dtype=bool)
    if rejected.any():
        answers = np.full((n, len(target.classes)), np.nan)
        digits = 0
        if not rejected.all():
            read = [row for row, lost in zip(rows, rejected, strict=True) if not lost]
            answers[~rejected], digits = _read(read, target)
        return answers, digits
    return _read(rows, target)


def _read(rows: Rows, target: Target) -> tuple[Table, int]:
    if target.answers == "labels":
        return _labels(rows, target), 0
    return _probabilities(rows, target)


def _is_null(row: Any) -> bool:
    """Return whether an answer is null, or nulls alone."""
    return row is None or (isinstance(row, list) and bool(row) and all(value is None for value in row))


def _labels(rows: Rows, target: Target) -> Table:
    places = {name: place for place, name in enumerate(target.classes)}
    answers = np.zeros((len(rows), len(places)))
    for row, value in enumerate(rows):
        answers[row, _label(value, places)] = 1.0
    return answers


def _label(value: Any, places: Mapping[str, int]) -> int:
    """Return the place of a label, which may be alone in a list."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if value is None:
        raise unreadable(f"an answer has null where a label has to be; {_NULL}")
    if isinstance(value, list | dict):
        raise unreadable(
            f"the answers are labels by the target file, but {_size(value)} came; "
            'set answers = "probabilities" if these are such, or check output'
        )
    for name in _spellings(value):
        if name in places:
            return places[name]
    if isinstance(value, float) and not value.is_integer():
        raise unreadable(
            f"the answers are labels by the target file, but the number {value} came; check answers"
        )
    raise unreadable(f"the label {shown(value)} is none of classes; {_near(str(value), places)}")


def _size(value: Any) -> str:
    kind = "an object" if isinstance(value, dict) else "a list"
    return f"{kind} of {len(value)} values"


def _near(name: str, places: Mapping[str, int]) -> str:
    """Return which of classes may be meant; of many, not all are listed."""
    text = nearest(name, places)
    return text if len(text) <= 200 else f"it names {len(places)} others"


def _spellings(value: Any) -> Iterator[str]:
    """Yield how classes may name a label: 4 and 4.0 as "4", true as "True", "true" and "1"."""
    yield str(value)
    if isinstance(value, bool):
        yield str(value).lower()
        yield str(int(value))
    elif isinstance(value, float) and value.is_integer():
        yield str(int(value))


def _probabilities(rows: Rows, target: Target) -> tuple[Table, int]:
    if any(isinstance(row, dict) for row in rows) or any(map(_is_pairs, rows)):
        numbers, missing = _by_name(rows, target)
    else:
        numbers, missing = _by_order(rows, target), None
    shown_numbers = numbers.ravel() if missing is None else numbers[~missing]
    digits, decimals = _digits(shown_numbers)
    answers = _scaled(numbers, target.scale)
    if target.positive is not None and answers.shape[1] == 1:
        _check_range(answers)
        place = target.classes.index(target.positive)
        answers = np.hstack([answers, 1 - answers] if place == 0 else [1 - answers, answers])
        return np.clip(answers, 0.0, 1.0), digits
    tolerance = _tolerance(answers.shape[1], decimals, target.scale)
    if missing is not None:
        answers = _completed(answers, missing, tolerance)
    _check(answers, numbers, target, tolerance)
    return np.clip(answers, 0.0, 1.0), digits


def _tolerance(classes: int, decimals: int, scale: str) -> float:
    """Return how far a sum of probabilities may be from 1, with numbers of so many digits after the point.

    Each number is off by half a unit of its last place at most. Whole numbers were not rounded.
    """
    places = decimals + 2 if scale == "percent" else decimals
    rounding = classes * 0.5 * 10.0**-places if places and scale != "log" else 0.0
    return max(SUM, min(rounding, COARSEST))


def _by_order(rows: Rows, target: Target) -> Table:
    """Return numbers (n, classes), or (n, 1) where the target file says which class they are of."""
    width = len(target.classes)
    single = target.positive is not None
    plain = None if single else _plain_table(rows, width)
    if plain is not None:
        return plain
    flat = all(not isinstance(row, list) for row in rows)
    numbers = [[_number(row)] for row in rows] if flat else [_numbers(row) for row in rows]
    widths = {len(row) for row in numbers}
    if len(widths) > 1:
        raise unreadable(
            f"the answers have {min(widths)} to {max(widths)} numbers each; check output and partial"
        )
    came = widths.pop()
    if came == 1 and not single:
        hint = _single_hint(numbers, target)
        raise unreadable(f"one number an answer came where classes has {width}; {hint}")
    if came != (1 if single else width):
        wanted = "1, of positive," if single else str(width)
        raise unreadable(
            f"the answers have {came} numbers each, but {wanted} are expected; check classes and output"
        )
    return np.array(numbers, dtype=np.float64)


def _plain_table(rows: Rows, width: int) -> Table | None:
    """Return rows of ``width`` finite numbers; None for anything else, which is then looked at one by one."""
    if not all(isinstance(row, list) and len(row) == width for row in rows):
        return None
    if {type(value) for row in rows for value in row} - {float, int}:
        return None
    try:
        numbers = np.array(rows, dtype=np.float64)
    except OverflowError:
        return None
    return numbers if np.isfinite(numbers).all() else None


def _single_hint(numbers: Sequence[Sequence[float]], target: Target) -> str:
    if all(number.is_integer() for row in numbers for number in row):
        tensor = ', or name the tensor of probabilities as output, as "predict_proba"'
        first = tensor if target.protocol == "oip" and target.output is None else ""
        return f'set answers = "labels" if these are labels{first}'
    if len(target.classes) == 2:
        return "name the class that it is of as positive"
    return "check output and answers"


def _numbers(row: Any) -> list[float]:
    if not isinstance(row, list):
        hint = _NULL if row is None else "check output"
        raise unreadable(f"some answers are lists, and one is {shown(row)}; {hint}")
    return [_number(value) for value in row]


def _number(value: Any) -> float:
    """Return a number of JSON; raises AttemptError for all else, and for NaN."""
    if isinstance(value, float | int) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number) or number == -math.inf:
            return number
        raise unreadable("an answer has NaN or infinity where a number has to be")
    if value is None:
        raise unreadable(f"an answer has null where a number has to be; {_NULL}")
    hint = 'set answers = "labels" if these are labels' if isinstance(value, str | bool) else "check output"
    raise unreadable(f"an answer has {shown(value)} where a number has to be; {hint}")


def _is_pairs(row: Any) -> bool:
    return (
        isinstance(row, list)
        and bool(row)
        and all(isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) for pair in row)
    )


def _by_name(rows: Rows, target: Target) -> tuple[Table, NDArray[np.bool_]]:
    """Return numbers (n, classes) of answers that name classes, and where there is none."""
    places = {name: place for place, name in enumerate(target.classes)}
    numbers = np.zeros((len(rows), len(places)))
    missing = np.ones(numbers.shape, dtype=bool)
    for row, value in enumerate(rows):
        pairs: Sequence[Any] = list(value.items()) if isinstance(value, dict) else value
        if not isinstance(value, dict) and not _is_pairs(value):
            raise unreadable(f"some answers name classes, and one is {shown(value)}; check output")
        for name, number in pairs:
            if name not in places:
                raise unreadable(
                    f"the class {shown(name)} of an answer is none of classes; {_near(name, places)}"
                )
            if not missing[row, places[name]]:
                raise unreadable(f"an answer names the class {shown(name)} twice; check output")
            numbers[row, places[name]], missing[row, places[name]] = _number(number), False
    if missing.any() and not target.partial:
        lacking = target.classes[int(np.argwhere(missing)[0, 1])]
        raise unreadable(
            f"an answer lacks the class {shown(lacking)}; set partial = true if only some are shown"
        )
    if missing.all(axis=1).any():
        raise unreadable("an answer names no class at all; check output")
    return numbers, missing


def _scaled(numbers: Table, scale: str) -> Table:
    if scale == "percent":
        return numbers / 100
    if scale == "log":
        with np.errstate(over="ignore"):
            return np.exp(numbers)
    return numbers


def _completed(answers: Table, missing: NDArray[np.bool_], tolerance: float) -> Table:
    """Return answers in which classes that were not named share the rest of each row evenly."""
    shown_part = np.where(missing, 0.0, answers)
    rest = 1 - shown_part.sum(axis=1, keepdims=True)
    unnamed = missing.sum(axis=1, keepdims=True)
    if (rest < -tolerance).any():
        return shown_part  # whose sum the caller refuses
    return np.where(missing, np.maximum(rest, 0.0) / np.maximum(unnamed, 1), shown_part)


def _check(answers: Table, numbers: Table, target: Target, tolerance: float) -> None:
    if not np.isfinite(answers).all():
        raise unreadable("an answer has NaN or infinity where a probability has to be; check scale")
    sums = answers.sum(axis=1)
    worst = int(np.abs(sums - 1).argmax())
    if abs(sums[worst] - 1) > tolerance:
        raise unreadable(
            f"the numbers of an answer are no probabilities: their sum is {numbers[worst].sum():.6g}"
            f"{_scale_hint(numbers, target)}; check scale and output"
        )
    _check_range(answers)


def _check_range(answers: Table) -> None:
    if not np.isfinite(answers).all() or answers.min() < -SUM or answers.max() > 1 + SUM:
        raise unreadable(
            f"the numbers of an answer are no probabilities: they go from {answers.min():.6g} to "
            f"{answers.max():.6g} after scale; check scale and output"
        )


def _scale_hint(numbers: Table, target: Target) -> str:
    with np.errstate(over="ignore"):
        for scale, divided in (
            ("probability", numbers),
            ("percent", numbers / 100),
            ("log", np.exp(numbers)),
        ):
            if scale != target.scale and np.allclose(divided.sum(axis=1), 1, atol=0.01):
                return f', as with scale = "{scale}"'
    return ""


def _digits(numbers: NDArray[np.float64]) -> tuple[int, int]:
    """Return the most significant digits, and the most digits after the point, of the first numbers.

    A number of 32 bits that is written as one of 64 has more digits than it tells: 0.97 becomes
    0.9700000286102295. Where all are of 32 bits, the digits are those that tell them apart as such.
    """
    looked_at = numbers[:LOOKED_AT]
    with np.errstate(over="ignore", invalid="ignore"):
        short = looked_at.astype(np.float32)
    if np.array_equal(short.astype(np.float64), looked_at, equal_nan=True):
        texts = [str(number) for number in short]
    else:
        texts = [repr(number) for number in looked_at.tolist()]
    most = decimals = 0
    for text in texts:
        number = Decimal(text)
        if number.is_finite() and number:
            parts = number.normalize().as_tuple()
            most = max(most, len(parts.digits))
            decimals = max(decimals, -int(parts.exponent))
        if most >= ALL_DIGITS:
            break
    return most, decimals
