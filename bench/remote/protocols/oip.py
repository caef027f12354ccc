"""Open Inference Protocol v2 (KServe, MLServer, Triton): tensors with a name, a shape and a type."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import numpy as np

from bench.errors import nearest, shown
from bench.remote.exchange import Inputs
from bench.remote.protocols.base import (
    Rows,
    encoded,
    field,
    joined,
    json_rows,
    names,
    text,
    unreadable,
    unsendable,
)
from bench.remote.target import Target


class Oip:
    """``POST /v2/models/MODEL[/versions/VERSION]/infer``."""

    def __init__(self, target: Target) -> None:
        self._target = target
        model = f"/v2/models/{quote(target.model or '', safe='')}"
        if target.version is not None:
            model += f"/versions/{quote(target.version, safe='')}"
        self.address = joined(target, f"{model}/infer")
        self.metadata: Mapping[str, str] = {
            "ready": joined(target, f"{model}/ready"),
            "server": joined(target, "/v2"),
            "model": joined(target, model),
        }

    def body(self, inputs: Inputs, request_id: str) -> bytes:
        """Return one tensor of all inputs, or one of each column where a table has texts or gaps."""
        document: dict[str, Any] = {"id": request_id}
        if isinstance(inputs.rows, np.ndarray) and inputs.rows.dtype.kind not in "OUS":
            document["inputs"] = [self._tensor(inputs.rows, json_rows(inputs))]
        else:
            columns = inputs.columns or tuple(f"column{place}" for place in range(len(inputs.rows[0])))
            values = zip(*json_rows(inputs), strict=True)
            document["parameters"] = {"content_type": "pd"}
            document["inputs"] = [_column(*each) for each in zip(columns, values, strict=True)]
        if self._target.output is not None:
            document["outputs"] = [{"name": self._target.output}]
        return encoded(document)

    def _tensor(self, array: np.ndarray[Any, Any], rows: list[Any]) -> dict[str, Any]:
        kind = self._target.datatype
        if not kind.startswith("FP") and array.dtype.kind == "f":
            if not (np.isfinite(array).all() and (array == np.rint(array)).all()):
                raise unsendable(
                    f"datatype {kind} has no fractions and no gaps, but the inputs do; use 'FP32'"
                )
            rows = array.astype(np.int64).tolist()
        if kind == "BOOL":
            rows = array.astype(bool).tolist()
        name = self._target.input or "input-0"
        return {"name": name, "shape": list(array.shape), "datatype": kind, "data": rows}

    def rows(self, document: Any, n: int, request_id: str) -> tuple[Rows, str]:
        """Return the tensor of the answer, by its name, row by row."""
        outputs = field(document, "outputs")
        if not isinstance(outputs, list) or not all(isinstance(each, dict) for each in outputs):
            raise unreadable("the field 'outputs' of the answer is no list of tensors; check protocol")
        if document.get("id") not in (None, "", request_id):
            raise unreadable(
                "the answer has the id of another request, so nothing tells whose answers these are"
            )
        tensor = self._chosen({str(each.get("name")): each for each in outputs})
        identity = " ".join(
            filter(None, (text(document.get("model_name")), text(document.get("model_version"))))
        )
        return _split(field(tensor, "data"), field(tensor, "shape"), n), identity

    def _chosen(self, tensors: Mapping[str, Any]) -> Any:
        name = self._target.output
        if name is None:
            if len(tensors) != 1:
                raise unreadable(f"the answer has the tensors {names(tensors)}; name one of them as output")
            return next(iter(tensors.values()))
        if name not in tensors:
            raise unreadable(f"the answer has no tensor {name!r}; {nearest(name, tensors)}")
        return tensors[name]


def _column(name: str, values: Sequence[Any]) -> dict[str, Any]:
    """Return the tensor (n, 1) of one column, with the type that holds all its values."""
    present = [each for each in values if each is not None]
    if all(isinstance(each, bool) for each in present):
        kind = "BOOL"
    elif all(isinstance(each, int) for each in present):
        kind = "INT64"
    elif all(isinstance(each, int | float) for each in present):
        kind = "FP64"
    else:
        kind, values = "BYTES", [None if each is None else str(each) for each in values]
    return {"name": name, "shape": [len(values), 1], "datatype": kind, "data": list(values)}


def _split(data: Any, shape: Any, n: int) -> Rows:
    """Return flat or nested data as n rows: each a number where the shape is (n) or (n, 1), else a list."""
    if not isinstance(data, list) or not isinstance(shape, list) or not shape:
        raise unreadable("the tensor of the answer has no shape or no data; check output")
    if not all(isinstance(each, int) and each >= 0 for each in shape):
        raise unreadable(f"the tensor of the answer has the shape {shown(shape)}, which is none")
    flat = _flat(data)
    if math.prod(shape) != len(flat):
        raise unreadable(f"the tensor's shape {shown(shape)} does not go with its {len(flat)} values")
    width = math.prod(shape[1:])
    if shape[0] == n and width == 1:
        return flat
    return [flat[start : start + width] for start in range(0, len(flat), width)] if width else []


def _flat(data: list[Any]) -> list[Any]:
    while data and isinstance(data[0], list):
        if not all(isinstance(each, list) for each in data):
            raise unreadable("the tensor of the answer is nested unevenly; check output")
        data = [value for each in data for value in each]
    return data
