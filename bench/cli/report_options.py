"""Options of the commands that show a report: they replace single values of the matrix's ``[report]``."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any

import typer

from bench.cli.shared_options import with_options
from bench.errors import UsageError


class Sells(StrEnum):
    """What users of the API pay for."""

    labels = "labels"
    ranking = "ranking"
    probabilities = "probabilities"


def _limit(text: str, largest: float = 1) -> Any:
    return Annotated[float | None, typer.Option(min=0, max=largest, help=f"{text}, as a fraction.")]


OPTIONS: Mapping[str, Any] = {
    "sells": Annotated[Sells | None, typer.Option(help="What your users pay for.")],
    "accuracy": _limit("Accuracy, and balanced accuracy, that benign users can lose"),
    "rejected": _limit("Benign queries that may be rejected"),
    "ranking": _limit("Affordable loss of area under the risk-coverage curve"),
    "brier": Annotated[float | None, typer.Option(min=0, max=2, help="Affordable rise of the Brier score.")],
    "changed": _limit("Inputs whose confidence may change side of a threshold of your users"),
    "shortfall": _limit("By how much the best adaptive attack may be below the best other one"),
    "least": _limit("Smallest fidelity reduction that is recommended"),
    "price": Annotated[float | None, typer.Option(min=0, help="Price of 1,000 queries.")],
    "rate": Annotated[float | None, typer.Option(min=0, help="Queries an hour that one client may send.")],
    "quota": Annotated[int | None, typer.Option(min=1, help="Inputs that one account may send.")],
}
"""The options by their names in ``[report]``. Without a value, that of the matrix is in force."""


with_report_options = with_options({name: (annotation, None) for name, annotation in OPTIONS.items()})
"""Adds these options to a command, which gets those that are set as ``options``."""


def checked(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the options, which :class:`bench.run_facts.ReportOptions` takes; raises UsageError otherwise."""
    import math

    import pydantic

    from bench.run_facts import ReportOptions

    try:
        if endless := [name for name, each in options.items() if each in (math.inf, -math.inf)]:
            raise UsageError(f"--{endless[0]} inf: a finite number is needed")
        ReportOptions.model_validate(options)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        message = first["msg"].lower().removeprefix("input should be ")
        raise UsageError(f"--{first['loc'][0]} {first['input']}: must be {message}") from error
    return options
