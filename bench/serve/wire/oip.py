"""Open Inference Protocol v2: one tensor of numbers with a name, a shape and a type.

Specification: github.com/kserve/open-inference-protocol, ``inference_rest.md``. A subset: one input tensor,
no parameters, one output of those that the model's metadata name.
"""

from __future__ import annotations

import re
from itertools import chain
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.serve.predictor import Answer, Predictor, Query
from bench.serve.wire import strict_json
from bench.serve.wire.answers import labels, shown_output
from bench.serve.wire.plain import size_of
from bench.serve.wire.strict_json import BadRequestError

_ID = re.compile(r"[\x21-\x7e]{1,128}")
_NAME = re.compile(r"[\x20-\x7e]{1,128}")
_BODY = frozenset({"id", "inputs", "outputs", "parameters"})
_TENSOR = frozenset({"name", "shape", "datatype", "data", "parameters"})
_OUTPUT = frozenset({"name", "parameters"})
_FLOATS = frozenset({"FP32", "FP64"})
_INTEGERS = {f"{sign}INT{bits}": f"{sign}int{bits}".lower() for sign in ("", "U") for bits in (8, 16, 32, 64)}
MOST_AXES = 8
"""Most axes that a shape may have."""


def decoded(document: Any, predictor: Predictor) -> Query:
    """Return the inputs of a request: as many as the first axis of its one tensor; raises BadRequestError."""
    body = strict_json.fields(document, _BODY, frozenset({"inputs"}), "the body")
    _without_parameters(body)
    name = body.get("id", "")
    if name != "" and not (isinstance(name, str) and _ID.fullmatch(name)):
        raise BadRequestError("the id has to be a text of at most 128 visible characters")
    tensors = body["inputs"]
    if not isinstance(tensors, list) or len(tensors) != 1:
        raise BadRequestError("inputs have to be one tensor")
    return Query(_tensor(tensors[0], predictor), _output(body, predictor), name)


def _without_parameters(document: dict[str, Any]) -> None:
    if document.get("parameters", {}) != {}:
        raise BadRequestError("parameters have to be left out")


def _output(body: dict[str, Any], predictor: Predictor) -> Any:
    if "outputs" not in body:
        return None
    outputs = body["outputs"]
    if not isinstance(outputs, list) or len(outputs) != 1:
        raise BadRequestError("outputs have to name one output")
    asked = strict_json.fields(outputs[0], _OUTPUT, frozenset({"name"}), "an output")
    _without_parameters(asked)
    return shown_output(asked["name"] or "", predictor)


def _tensor(value: Any, predictor: Predictor) -> NDArray[np.float64]:
    needed = _TENSOR - {"parameters"}
    tensor = strict_json.fields(value, _TENSOR, needed, "a tensor")
    _without_parameters(tensor)
    if not (isinstance(tensor["name"], str) and _NAME.fullmatch(tensor["name"])):
        raise BadRequestError("the name of a tensor has to be a text of at most 128 visible characters")
    shape = _shape(tensor["shape"])
    if tuple(shape[1:]) not in {tuple(predictor.shape), (size_of(predictor),)}:
        raise BadRequestError("inputs have another shape than the model takes")
    data = tensor["data"]
    if not isinstance(data, list):
        raise BadRequestError("the data of a tensor have to be a list")
    flat = _flat(data, shape)
    if not set(map(type, flat)) <= {int, float}:
        raise BadRequestError("the data of a tensor have to be numbers")
    array = strict_json.single(flat)
    _check_type(tensor["datatype"], array)
    return array.reshape(shape[0], *predictor.shape)


def _shape(shape: Any) -> list[int]:
    if not isinstance(shape, list) or not 2 <= len(shape) <= MOST_AXES:
        raise BadRequestError("the shape of a tensor has to be a list of positive integers")
    if any(type(axis) is not int or not 0 < axis < 2**31 for axis in shape):
        raise BadRequestError("the shape of a tensor has to be a list of positive integers")
    return shape


def _flat(data: list[Any], shape: list[int]) -> list[Any]:
    """Return data that are flat, or nested exactly as ``shape`` says, as a flat list."""
    if len(data) == shape[0] and all(isinstance(each, list) for each in data):
        for axis in shape[1:]:
            if not all(isinstance(each, list) and len(each) == axis for each in data):
                raise BadRequestError("the shape of a tensor has to go with its data")
            data = list(chain.from_iterable(data))
    if len(data) != prod(shape):
        raise BadRequestError("the shape of a tensor has to go with its data")
    return data


def _check_type(datatype: Any, array: NDArray[np.float64]) -> None:
    if isinstance(datatype, str) and datatype in _FLOATS:
        return
    if not (isinstance(datatype, str) and datatype in _INTEGERS):
        raise BadRequestError("the datatype has to be FP32, FP64, or an integer type")
    limits = np.iinfo(_INTEGERS[datatype])
    if not ((array == np.rint(array)) & (array >= limits.min) & (array <= limits.max)).all():
        raise BadRequestError("the data of a tensor have to be of its datatype")


def encoded(answer: Answer, query: Query, predictor: Predictor) -> dict[str, Any]:
    """Return the JSON of an answer: the tensor that was asked for, null where an input was rejected."""
    if (query.output or predictor.shows) == "labels":
        name, datatype, shape = predictor.outputs.labels, "BYTES", [len(answer), 1]
        data: list[Any] = list(labels(answer, predictor.classes))
    else:
        name, datatype = predictor.outputs.probabilities, "FP64"
        shape = [len(answer), len(predictor.classes)]
        flat = answer.probabilities.ravel()
        data = flat.tolist() if np.isfinite(flat).all() else [None if np.isnan(v) else float(v) for v in flat]
    return {
        "model_name": predictor.name,
        "model_version": predictor.version,
        **({"id": query.id} if query.id else {}),
        "outputs": [{"name": name, "shape": shape, "datatype": datatype, "data": data}],
    }


def metadata(predictor: Predictor) -> dict[str, Any]:
    """Return what the protocol's ``GET /v2/models/MODEL`` says of the model."""
    names = predictor.outputs
    outputs: list[dict[str, Any]] = [{"name": names.labels, "datatype": "BYTES", "shape": [-1, 1]}]
    if predictor.shows == "probabilities":
        shape = [-1, len(predictor.classes)]
        outputs.insert(0, {"name": names.probabilities, "datatype": "FP64", "shape": shape})
    return {
        "name": predictor.name,
        "versions": [predictor.version],
        "platform": "",
        "inputs": [{"name": "inputs", "datatype": "FP32", "shape": [-1, *predictor.shape]}],
        "outputs": outputs,
    }
