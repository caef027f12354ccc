"""The plain route: ``{"inputs": [[…]]}`` is answered with ``{"predictions": […]}``."""

from __future__ import annotations

from typing import Any

from bench.serve.predictor import Answer, Predictor, Query
from bench.serve.wire import strict_json
from bench.serve.wire.answers import labels, row_or_null, shown_output
from bench.serve.wire.strict_json import BadRequestError

_KEYS = frozenset({"inputs", "output"})


def decoded(document: Any, predictor: Predictor) -> Query:
    """Return the inputs of a request, one for each entry of "inputs"; raises BadRequestError.

    An input is a list of numbers, flat or with the model's axes; in a table with texts or gaps, a list of
    numbers, texts, booleans and null.
    """
    body = strict_json.fields(document, _KEYS, frozenset({"inputs"}), "the body")
    rows = body["inputs"]
    if not isinstance(rows, list) or not rows:
        raise BadRequestError("inputs have to be a list with an entry for each input")
    output = shown_output(body.get("output"), predictor)
    size = size_of(predictor)
    array = strict_json.numbers(rows, size)
    if array is not None:
        return Query(array.reshape(len(rows), *predictor.shape), output)
    if not predictor.columns:
        raise BadRequestError("inputs have to be lists of numbers, all of one shape")
    scalars = {int, float, str, bool, type(None)}
    if any(len(row) != size or not set(map(type, row)) <= scalars for row in rows):
        raise BadRequestError("inputs have another number of values than the model takes")
    return Query(rows, output)


def size_of(predictor: Predictor) -> int:
    """Return the number of values of one input."""
    size = 1
    for axis in predictor.shape:
        size *= axis
    return size


def encoded(answer: Answer, query: Query, predictor: Predictor) -> dict[str, Any]:
    """Return the JSON of an answer: lists of probabilities, or names of classes; null where rejected."""
    if (query.output or predictor.shows) == "labels":
        return {"predictions": labels(answer, predictor.classes)}
    return {"predictions": [row_or_null(row) for row in answer.probabilities.tolist()]}
