"""TF-Serving's REST interface, which KServe v1 follows: ``instances`` in rows, or ``inputs`` in columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from bench.remote.exchange import Inputs
from bench.remote.protocols.base import (
    Rows,
    encoded,
    field,
    joined,
    json_rows,
    listed,
    selected,
    text,
    unreadable,
)
from bench.remote.target import Target


class TfServing:
    """``POST /v1/models/MODEL[/versions/VERSION]:predict``."""

    def __init__(self, target: Target) -> None:
        self._target = target
        model = f"/v1/models/{quote(target.model or '', safe='')}"
        if target.version is not None:
            model += f"/versions/{quote(target.version, safe='')}"
        self.address = joined(target, f"{model}:predict")
        self.metadata: Mapping[str, str] = {
            "server": joined(target, model),
            "model": joined(target, f"{model}/metadata"),
        }

    def body(self, inputs: Inputs, request_id: str) -> bytes:
        """Return rows under "instances", or columns under "inputs"; columns with names are named."""
        rows = json_rows(inputs)
        document: dict[str, Any] = {}
        if self._target.signature is not None:
            document["signature_name"] = self._target.signature
        if self._target.form == "rows":
            named = [dict(zip(inputs.columns, row, strict=True)) for row in rows] if inputs.columns else rows
            document["instances"] = named
        elif inputs.columns:
            columns = zip(*rows, strict=True)
            document["inputs"] = {
                name: list(values) for name, values in zip(inputs.columns, columns, strict=True)
            }
        else:
            document["inputs"] = rows
        return encoded(document)

    def rows(self, document: Any, n: int, request_id: str) -> tuple[Rows, str]:
        """Return what stands under "predictions", or under "outputs" where columns were sent."""
        output = self._target.output
        columns = self._target.form == "columns"
        answers = field(document, "outputs" if columns else "predictions")
        if columns and isinstance(answers, dict):
            if output is None:
                raise unreadable("the answer has several outputs; name one of them as output")
            rows = listed(field(answers, output))
        else:
            rows = listed(answers) if columns else selected(listed(answers), output)
        said = (text(document.get(each)) for each in ("deployedModelId", "model_name", "model_version"))
        return rows, " ".join(filter(None, said))
