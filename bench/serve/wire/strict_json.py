"""JSON that has one reading alone: what two parsers could read in two ways is refused."""

from __future__ import annotations

import json
from itertools import chain
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

LONGEST_INTEGER = 30
"""Digits of an integer; no type of the protocols has more than 20."""
LARGEST = float(np.finfo(np.float32).max)
"""Largest absolute value of a number: models compute in single precision."""


class BadRequestError(Exception):
    """A request is not what the protocol says; the message is one sentence that repeats nothing of it."""


def parsed(content: bytes) -> Any:
    """Return the document; raises BadRequestError.

    Refused are: other encodings than UTF-8, a byte-order mark, a key that is there twice in one object, NaN
    and infinity, integers of more than 30 digits, and nesting beyond what the parser follows.
    """
    try:
        return json.loads(
            content.decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_int=_integer,
        )
    except BadRequestError:
        raise
    except RecursionError:
        raise BadRequestError("the JSON is nested too deeply") from None
    except ValueError:
        raise BadRequestError("the body has to be JSON in UTF-8") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise BadRequestError("a key is there twice in one object")
    return found


def _constant(_: str) -> NoReturn:
    raise BadRequestError("numbers have to be finite")


def _integer(text: str) -> int:
    if len(text) > LONGEST_INTEGER:
        raise BadRequestError("an integer has too many digits")
    return int(text)


def fields(document: Any, allowed: frozenset[str], needed: frozenset[str], what: str) -> dict[str, Any]:
    """Return an object with no other keys than ``allowed``, and all that are ``needed``."""
    if not isinstance(document, dict):
        raise BadRequestError(f"{what} has to be a JSON object")
    if not needed <= document.keys() <= allowed:
        listed = ", ".join(sorted(needed)) + "".join(
            f", {each} (optional)" for each in sorted(allowed - needed)
        )
        raise BadRequestError(f"{what} has to have the keys {listed}, and no others")
    return document


def numbers(rows: list[Any], size: int) -> NDArray[np.float64] | None:
    """Return lists of numbers, nested evenly, as an array (n, ``size``); None where there are texts or gaps.

    Every one of the n entries of ``rows`` is an input, and has to be a list. Booleans are no numbers. Raises
    BadRequestError for inputs of another size, uneven nesting, and numbers beyond single precision.
    """
    flat: list[Any] = rows
    depth = 0
    while all(isinstance(each, list) for each in flat):
        widths = set(map(len, flat))
        if len(widths) != 1 or widths == {0}:
            raise BadRequestError("inputs have to be lists of numbers, all of one shape")
        flat = list(chain.from_iterable(flat))
        depth += 1
    kinds = set(map(type, flat))
    if not depth or list in kinds or dict in kinds:
        raise BadRequestError("inputs have to be lists of numbers, all of one shape")
    if not kinds <= {int, float}:
        return None
    if len(flat) != len(rows) * size:
        raise BadRequestError("inputs have another number of values than the model takes")
    return single(flat).reshape(len(rows), size)


def single(flat: list[Any]) -> NDArray[np.float64]:
    """Return numbers (n,) that single precision holds; raises BadRequestError for others."""
    try:
        array = np.array(flat, dtype=np.float64)
    except (OverflowError, ValueError, TypeError):
        raise BadRequestError("inputs have to be numbers of single precision") from None
    if not (np.abs(array) <= LARGEST).all():
        raise BadRequestError("inputs have to be numbers of single precision")
    return array
