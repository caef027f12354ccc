"""``moatbench check``: what is seen of a model and its data before anything is run."""

from __future__ import annotations

from tabulate import tabulate

from bench.cli.model_options import victim_name
from bench.errors import VictimError
from bench.inputs import Column, InputSpace
from bench.models.determinism import single_thread
from bench.models.model_check import Finding, Latency, Look, look
from bench.models.own_victims import own_victim
from bench.models.victim_options import VictimOptions
from bench.models.victims import Victim

MOST_COLUMNS = 60
"""Columns of a table that are listed."""
UNLABELLED = "there are no labels"
"""How a victim's note begins that says so."""
MOST_CATEGORIES = 6
"""Categories of a column that are named."""


def checked(options: VictimOptions) -> tuple[str, bool]:
    """Return the page that ``moatbench check`` prints, and whether nothing stands in an assessment's way.

    Raises UsageError, one sentence, where the model or its data cannot be used at all.
    """
    victim = own_victim(options, name=victim_name(options.model), seed=0)
    seen = looked(victim, options)
    faults = len(seen.faults)
    lines = [headline(victim, options), ""]
    if victim.inputs.columns:
        lines += [schema(victim.inputs), ""]
    lines += [line(finding) for finding in sorted(seen.findings, key=lambda each: each.level)]
    lines += [line(latency_note(seen.latency)), ""]
    if faults:
        lines.append(f"{faults} fault{'s' * (faults != 1)} would make an assessment worthless")
    else:
        lines.append("nothing stands in the way of an assessment: moatbench assess, with the same options")
    return "\n".join(lines), not faults


def looked(victim: Victim, options: VictimOptions) -> Look:
    """Return what is seen of the victim; answers that are no probabilities are a fault."""
    try:
        with single_thread():
            return look(
                victim,
                stated=options.outputs,
                labelled=labelled(victim),
                threshold=options.threshold,
            )
    except VictimError as error:
        return Look((Finding("fault", str(error)),), Latency(0, 0))


def labelled(victim: Victim) -> bool:
    """Return whether the splits hold true labels, and not the model's own."""
    return not any(each.startswith(UNLABELLED) for each in victim.notes)


def headline(victim: Victim, options: VictimOptions) -> str:
    """Return one line: the model, its data, and what an input is."""
    space, names = victim.inputs, victim.class_names
    what = {
        "table": f"rows of {space.shape[0]} columns",
        "images": f"images {' × '.join(map(str, space.shape))} (channels, height, width)",
        "sequences": f"sequences {' × '.join(map(str, space.shape))} (steps, features)",
    }[space.layout]
    classes = f"{victim.classes} classes"
    if names and len(names) <= MOST_CATEGORIES:
        classes += f" ({', '.join(names)})"
    return f"{options.model} on {options.data}: {what}, {classes}"


def schema(space: InputSpace) -> str:
    """Return the columns of a table, as a table."""
    rows = [
        (each.name, each.kind, _range(each), "may be missing" if each.missing else "")
        for each in space.columns
    ]
    text = tabulate(rows[:MOST_COLUMNS], headers=["column", "holds", "range", ""], disable_numparse=True)
    left = len(rows) - MOST_COLUMNS
    return f"{text}\n… and {left} more" if left > 0 else text


def _range(column: Column) -> str:
    if column.kind != "category":
        return f"{column.low:g} to {column.high:g}"
    names = ", ".join(column.categories[:MOST_CATEGORIES])
    more = len(column.categories) - MOST_CATEGORIES
    return f"{names}, {more} more" if more > 0 else names


def line(finding: Finding) -> str:
    """Return a finding as one line."""
    return f"{finding.level}: {finding.text}"


def latency_note(latency: Latency) -> Finding:
    """Return how long a query takes."""
    return Finding(
        "note", f"a query takes {latency.alone:.3g} ms alone and {latency.batched:.3g} ms in a batch of 256"
    )
