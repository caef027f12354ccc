"""A victim of one's own: in a matrix as ``[victims.NAME]``, and on the command lines of assess and check."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import pydantic


def _pair(value: Any) -> Any:
    """Return a list of two numbers, as TOML has it, as a tuple; anything else as it is."""
    return tuple(value) if isinstance(value, list) else value


def _texts(value: Any) -> Any:
    """Return a text, or a list of them, as TOML has it, as a tuple."""
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


Texts = Annotated[tuple[str, ...], pydantic.BeforeValidator(_texts)]
"""One text, or several."""


class VictimOptions(pydantic.BaseModel):
    """Where a model and its data are, and what is known of them. Paths are relative to the matrix file.

    ``model``: ``file.py:NAME`` or ``package.module:NAME`` (a function from inputs to answers, an estimator
    of scikit-learn, an ART classifier), or a file: ``.skops``, ``.onnx``, ``.pt2`` (``torch.export``).
    ``data``: ``.npz``, ``.npy`` (with ``label`` another ``.npy``), ``.csv``, ``.parquet``, or a folder with
    one folder of images a class. ``label``: the column, or the array, of true classes; None where the data
    have none, and the model's own answers stand for them. ``train``: what the model learnt from, whose rows
    are left out of ``data``. ``pool``: other inputs of the same distribution that an attacker has;
    ``public``: inputs that anyone can get. ``columns``: a TOML file that declares the columns of a table.
    ``outputs``: what the model returns. ``threshold``: of two-class models, the probability from which users
    decide for the second class. ``shift``: a column and the value whose rows are held out of every split, as
    the pool "shifted". ``groups``: columns for whose values utility loss is measured apart. ``trust``: types
    that a skops file may hold beyond those that are known to be safe. ``deterministic``: whether the model
    gives an input the same answer each time; one that does not is asked once for each input. ``channels``: of
    images, whether the axis of channels comes first or last; ``range``: the smallest and the largest value of
    images or sequences; None for both to recognise them.
    """

    model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True)

    model: str
    data: str
    label: str | None = None
    train: str | None = None
    pool: str | None = None
    public: str | None = None
    columns: str | None = None
    outputs: Literal["probabilities", "logits", "labels"] = "probabilities"
    threshold: float | None = pydantic.Field(default=None, gt=0, lt=1)
    shift: dict[str, str] = {}
    groups: Texts = ()
    trust: Texts = ()
    deterministic: bool = True
    channels: Literal["first", "last"] | None = None
    range: Annotated[tuple[float, float], pydantic.BeforeValidator(_pair)] | None = None

    @pydantic.field_validator("range")
    @classmethod
    def _ascending(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not (math.isfinite(value[0]) and value[0] < value[1] < math.inf):
            raise ValueError("two numbers are needed, the smaller one first")
        return value
