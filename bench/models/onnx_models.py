"""ONNX models, run by onnxruntime (extra ``[onnx]``) in one thread."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.errors import UsageError, one_line
from bench.models.model_files import LoadedModel

TYPES: dict[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
    "tensor(string)": np.str_,
}
"""NumPy's types of the inputs that a model can declare."""


def load_onnx(text: str, content: bytes) -> LoadedModel:
    """Return the model in the bytes of an ``.onnx`` file.

    A model with one input takes an array; one with an input for each column takes a data frame. Of several
    outputs, probabilities are preferred to labels. Raises UsageError, with the command that installs
    onnxruntime where that is missing.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise UsageError(f"{text}: ONNX models need onnxruntime: pip install 'moatbench[onnx]'") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # whatever a damaged file raises
        raise UsageError(f"{text}: onnxruntime cannot load it: {one_line(error)}") from error
    inputs, outputs = session.get_inputs(), session.get_outputs()
    for each in inputs:
        if each.type not in TYPES:
            raise UsageError(
                f"{text}: its input {each.name!r} is {each.type}; {', '.join(TYPES)} are allowed"
            )
    # scikit-learn's converter gives (label, probabilities); others give one output, or the answers first.
    place = 1 if len(outputs) > 1 and _is_label(outputs[0]) else 0
    keys: list[Any] = []

    def ask(feed: dict[str, Any]) -> NDArray[Any]:
        answer = session.run([outputs[place].name], feed)[0]
        if isinstance(answer, list):  # a dictionary for each row ("zipmap")
            keys[:] = keys or list(answer[0])
            answer = [[row[key] for key in keys] for row in answer]
        return np.asarray(answer)

    def predict(x: Any) -> NDArray[Any]:
        return ask(_feed(inputs, x))

    several = len(inputs) > 1
    return LoadedModel(
        predict,
        "frame" if several else "array",
        "onnx",
        hashlib.sha256(content).hexdigest(),
        None,
        tuple(each.name for each in inputs) if several else None,
        found_classes=lambda: tuple(keys) or None,
        labels_only=len(outputs) == 1 and _is_label(outputs[0]),
    )


def _feed(inputs: Any, x: Any) -> dict[str, NDArray[Any]]:
    if len(inputs) == 1:
        return {inputs[0].name: np.ascontiguousarray(_typed(np.asarray(x), inputs[0].type))}
    return {
        each.name: _typed(column.to_numpy().reshape(-1, 1), each.type)
        for each, (_, column) in zip(inputs, x.items(), strict=True)
    }


def _is_label(output: Any) -> bool:
    return output.type in ("tensor(int64)", "tensor(string)", "tensor(int32)")


def _typed(values: NDArray[Any], kind: str) -> NDArray[Any]:
    if kind == "tensor(string)":
        return np.array(
            ["" if pd.isna(value) else str(value) for value in values.ravel()], dtype=object
        ).reshape(values.shape)
    return values.astype(TYPES[kind])
