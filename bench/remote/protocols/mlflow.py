"""MLflow's scoring server: ``POST /invocations``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bench.remote.exchange import Inputs
from bench.remote.protocols.base import Rows, encoded, field, json_rows, listed, selected
from bench.remote.target import Target


class MlFlow:
    """``inputs`` for arrays, ``dataframe_split`` for tables; ``predictions`` come back."""

    def __init__(self, target: Target) -> None:
        self._target = target
        server = target.url.rstrip("/").removesuffix("/invocations")
        self.address = f"{server}/invocations"
        self.metadata: Mapping[str, str] = {"ready": f"{server}/ping", "server": f"{server}/version"}

    def body(self, inputs: Inputs, request_id: str) -> bytes:
        """Return an array under "inputs", a table with its columns under "dataframe_split"."""
        rows = json_rows(inputs)
        if inputs.columns:
            return encoded({"dataframe_split": {"columns": list(inputs.columns), "data": rows}})
        if not isinstance(inputs.rows, np.ndarray):
            return encoded({"dataframe_split": {"columns": list(range(len(rows[0]))), "data": rows}})
        return encoded({"inputs": rows})

    def rows(self, document: Any, n: int, request_id: str) -> tuple[Rows, str]:
        """Return what stands under "predictions"."""
        return selected(listed(field(document, "predictions")), self._target.output), ""
