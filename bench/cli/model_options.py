"""Options of the commands that take a model of the user's own: they fill a ``VictimOptions``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.cli.shared_options import with_options
from bench.errors import UsageError, shown

if TYPE_CHECKING:
    from bench.models.victim_options import VictimOptions

MOST_BUDGET = 1_000_000
"""Largest number of queries that can be asked for."""


class Outputs(StrEnum):
    """What a model returns."""

    probabilities = "probabilities"
    logits = "logits"
    labels = "labels"


class ChannelsAt(StrEnum):
    """Where images have their channels."""

    first = "first"
    last = "last"


def _text(words: str, metavar: str) -> Any:
    return Annotated[str | None, typer.Option(help=words, metavar=metavar)]


OPTIONS: Mapping[str, tuple[Any, Any]] = {
    "data": (
        Annotated[
            str,
            typer.Option(help="Inputs: .csv, .parquet, .npz, .npy, or a folder of images by class."),
        ],
        ...,
    ),
    "label": (_text("Column, or array, of the true classes.", "COLUMN"), None),
    "train": (_text("What the model learnt from; its rows are left out of DATA.", "FILE"), None),
    "pool": (_text("Inputs like your users' that an attacker has.", "FILE"), None),
    "public": (_text("Inputs that anyone can get.", "FILE"), None),
    "outputs": (Annotated[Outputs, typer.Option(help="What the model returns.")], Outputs.probabilities),
    "threshold": (
        Annotated[
            float | None,
            typer.Option(
                min=0, max=1, help="Of two classes: probability from which users decide for the second."
            ),
        ],
        None,
    ),
    "columns": (_text("A TOML file that declares the columns of a table.", "FILE"), None),
    "channels": (
        Annotated[ChannelsAt | None, typer.Option(help="Of images: where their axis of channels is.")],
        None,
    ),
    "range": (_text("Of images and sequences: the smallest and largest value.", "LOW,HIGH"), None),
    "shift": (
        Annotated[
            list[str] | None,
            typer.Option(metavar="COLUMN=VALUE", help="Rows that every split holds out: the pool 'shifted'."),
        ],
        None,
    ),
    "group": (
        Annotated[
            list[str] | None,
            typer.Option(
                metavar="COLUMN", help="Measure utility loss for each of its values; may be repeated."
            ),
        ],
        None,
    ),
    "randomised": (
        Annotated[
            bool, typer.Option("--randomised", help="The model answers an input differently each time.")
        ],
        False,
    ),
    "trust": (
        Annotated[
            list[str] | None,
            typer.Option(metavar="TYPE", help="A type that a skops file may hold; may be repeated."),
        ],
        None,
    ),
}
"""The options by name, with their defaults; ``...``: required."""


with_model_options = with_options(OPTIONS)
"""Adds these options to a command, which gets those that are set as ``options``."""


def victim_options(model: str, options: Mapping[str, Any]) -> VictimOptions:
    """Return the options of the victim; raises UsageError, one sentence, for a value that is not allowed."""
    import pydantic

    from bench.models.victim_options import VictimOptions

    values = dict(options)
    shift = {}
    for text in values.pop("shift", None) or ():
        column, sign, value = text.partition("=")
        if not (column and sign):
            raise UsageError(f"--shift {shown(text)}: write COLUMN=VALUE")
        shift[column.strip()] = value.strip()
    values["groups"], values["trust"] = (
        tuple(values.pop("group", None) or ()),
        tuple(values.get("trust") or ()),
    )
    if (text := values.pop("range", None)) is not None:
        values["range"] = parsed_range(text)
    values["deterministic"] = not values.pop("randomised", False)
    try:
        return VictimOptions(model=model, shift=shift, **values)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UsageError(f"--{first['loc'][0]} {shown(first['input'])}: {first['msg'].lower()}") from error


def parsed_range(text: str) -> tuple[float, float]:
    """Return the numbers of "LOW,HIGH"; raises UsageError for anything else."""
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise UsageError(f"--range {shown(text)}: write LOW,HIGH as in 0,255") from None
    return low, high


def victim_name(model: str) -> str:
    """Return a name for the victim and its results' folder: that of the function, else of the file."""
    module, _, name = model.rpartition(":")
    if not module or not name.isidentifier():
        name = PurePath(model).stem
    text = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-_")[:60]
    return text or "model"


def assessed_name(model: str) -> str:
    """Return the name of an assessment: :func:`victim_name`, unless a shipped victim or matrix has it."""
    from bench.plan.matrix import VICTIMS
    from bench.plan.shipped_matrices import shipped

    name = victim_name(model)
    return f"{name}-model" if name in VICTIMS or name in shipped() else name


def parsed_budgets(text: str | None) -> tuple[int, ...]:
    """Return the budgets in "N,N,…", sorted and each once; raises UsageError for anything else."""
    if text is None:
        return ()
    try:
        numbers = {int(part.replace("_", "")) for part in text.split(",") if part.strip()}
    except ValueError:
        numbers = set()
    if not numbers or min(numbers) < 1 or max(numbers) > MOST_BUDGET:
        raise UsageError(
            f"--budget {shown(text)}: write numbers of queries from 1 to {MOST_BUDGET:,} as N,N,…"
        )
    return tuple(sorted(numbers))
