"""Checks a replication against its matrix: each row must select one group of repeats, each slot a row."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NoReturn

from bench import plugins
from bench.calls import parse_call
from bench.errors import UsageError, nearest
from bench.models import training_config
from bench.plan.matrix import Matrix
from bench.plan.study import (
    COST_PREFIXES,
    SLOT,
    PublishedValue,
    Study,
    Where,
    as_list,
    axis_values,
    matching_specs,
    repeat_groups,
)
from bench.tasks import Task


def validated(matrix: Matrix, tasks: Sequence[Task]) -> Study | None:
    """Return the replication of a matrix, checked against all tasks, with attacks and defenses in full.

    Returns None for a matrix without one. Raises UsageError naming replication, row, key and what is
    allowed, unless every row selects exactly one group of repeats. Rows whose pool is optional ("NAME?"
    in the matrix) and not on this machine select none; the report says so.
    """
    if matrix.study is None:
        return None
    with matrix.complaints():
        return _validated(matrix, matrix.study, tasks)


def _validated(matrix: Matrix, study: Study, tasks: Sequence[Task]) -> Study:
    if any(task.victim.is_reference for task in tasks):
        study.complain(None, "a replication has fixed victims; leave --victim out")
    _check_names(study)
    for row in study.rows.values():
        _check_kind(study, row)
    entries = [*matrix.detect, *(entry for block in matrix.block for entry in block.pool)]
    optional = {entry.removesuffix("?") for entry in entries if entry.endswith("?")}
    # Rows select groups of repeats; a replication may have a hundred rows and thousands of tasks.
    specs = {
        kind: repeat_groups(task.spec() for task in tasks if task.kind == kind) for kind in ("cell", "audit")
    }
    tables = []
    for table in study.table:
        rows = [row if row.where is None else _bound_row(study, row, specs, optional) for row in table.row]
        tables.append(table.model_copy(update={"row": rows}))
    return study.model_copy(update={"table": tables})


def _check_names(study: Study) -> None:
    """Check that row names are unique, and that texts and headline refer to rows."""
    names = [row.id for table in study.table for row in table.row]
    for row in study.rows.values():
        if names.count(row.id) > 1:
            study.complain(row, f"id = {row.id!r} is taken twice; give every row its own")
    for key, text in (("verdict", study.verdict), ("meaning", study.meaning)):
        for slot in SLOT.findall(text):
            _check_slot(study, key, slot)
    if study.headline:
        for key, name in study.headline:
            _known_row(study, None, f"headline.{key}", name)
        name = study.headline.published
        if study.rows[name].published is None:
            study.complain(None, f"headline.published = {name!r}: that row has no published number")


def _check_kind(study: Study, row: PublishedValue) -> None:
    measured = row.where is not None and bool(row.metric)
    if (measured, bool(row.relative_drop), bool(row.difference)).count(True) != 1 or (
        not measured and (row.where or row.metric)
    ):
        study.complain(row, "give metric and where, or relative_drop, or difference, and one of them only")
    for name in row.parts:
        key = "relative_drop" if row.relative_drop else "difference"
        if _known_row(study, row, key, name).parts:
            study.complain(row, f"{key} names {name!r}, which is derived itself; name measured rows")
    if len({study.rows[name].audited for name in row.parts}) > 1:
        study.complain(
            row, f"{' and '.join(row.parts)}: one is of cells and one of defense evaluations; name two alike"
        )
    if row.confusion and not row.metric.startswith("extraction."):
        study.complain(row, "confusion = true: only metrics extraction.… have a confusion matrix")


def _known_row(study: Study, row: PublishedValue | None, key: str, name: str) -> PublishedValue:
    if name not in study.rows:
        study.complain(row, f"{key}: no row {name!r}; {nearest(name, study.rows)}")
    return study.rows[name]


def _check_slot(study: Study, key: str, slot: str) -> None:
    name, _, what = slot.partition(".")
    row = _known_row(study, None, key, name)
    if what not in ("", "interval", "prediction", "published"):
        known = f"{{{name}}}, {{{name}.interval}}, {{{name}.prediction}} or {{{name}.published}}"
        study.complain(None, f"{key}: {{{slot}}} is not known; write {known}")
    if what == "published" and row.published is None:
        study.complain(None, f"{key}: {{{slot}}}, but that row has no published number")
    if what == "prediction" and (row.audited or row.unit != "%"):
        study.complain(None, f"{key}: {{{slot}}}, but that row is no percentage with a value for each repeat")


def _bound_row(
    study: Study,
    row: PublishedValue,
    groups: Mapping[str, Sequence[dict[str, Any]]],
    optional: Collection[str],
) -> PublishedValue:
    specs = groups["audit" if row.audited else "cell"]
    where = _spelled(study, row, specs)
    for choice in where.choices():
        found = matching_specs(choice, specs)
        if len(found) > 1:
            _ambiguous(study, row, found)
        if found:
            _check_metric(study, row, found[0], optional)
        elif choice.get("pool") not in optional:
            _nothing(study, row, choice, specs)
    return row.model_copy(update={"where": where})


def _spelled(study: Study, row: PublishedValue, specs: Sequence[dict[str, Any]]) -> Where:
    """Return ``where`` with attacks, defenses and training written as in the tasks."""
    canonical: dict[str, Callable[[str], str]] = {
        "attack": plugins.attacks.canonical,
        "defense": plugins.defenses.canonical,
        "training": lambda text: repr(training_config.parse_training(text)),
    }
    assert row.where is not None  # noqa: S101  # derived rows do not come here
    known = {text for spec in specs for text in (*spec["defense"], spec.get("attack"), spec.get("training"))}
    changed: dict[str, Any] = {}
    for axis, spell in canonical.items():
        value = getattr(row.where, axis)
        if value is None:
            continue
        try:
            # A bare name stays as it is: it stands for whatever of that name is there.
            full = {text: spell(text) for text in as_list(value) if "(" in text}
        except UsageError as error:
            study.complain(row, f"where.{axis}: {error}")
        texts = [full[text] if full.get(text, "") in known else text for text in as_list(value)]
        changed[axis] = texts if isinstance(value, list) else texts[0]
    return row.where.model_copy(update=changed)


def _ambiguous(study: Study, row: PublishedValue, found: Sequence[Mapping[str, Any]]) -> NoReturn:
    known = [axis_values(spec) for spec in found]
    apart = {axis: sorted({str(fact[axis]) for fact in known}) for axis in known[0]}
    open_axes = [f"{axis} ({', '.join(values)})" for axis, values in apart.items() if len(values) > 1]
    differ = " and ".join(open_axes) or "the number of repeats"
    study.complain(row, f"where leaves {len(found)} groups of cells, which differ in {differ}; name one")


def _nothing(
    study: Study, row: PublishedValue, choice: Mapping[str, Any], specs: Sequence[dict[str, Any]]
) -> NoReturn:
    known = [axis_values(spec) for spec in specs]
    for axis, value in choice.items():
        if not matching_specs({axis: value}, specs):
            there = sorted({_shown(fact[axis]) for fact in known if axis in fact})
            kind = "defense evaluations have" if row.audited else "this matrix has"
            more = nearest(_shown(value), there) if there else f"{kind} no {axis}"
            study.complain(row, f"where.{axis} = {_shown(value)!r}: nothing in this matrix has it; {more}")
    for axis in reversed(list(choice)):
        rest = matching_specs({name: value for name, value in choice.items() if name != axis}, specs)
        if rest:
            there = sorted({_shown(axis_values(spec)[axis]) for spec in rest})
            study.complain(
                row,
                f"where.{axis} = {_shown(choice[axis])!r}: nothing has it together with the rest of where; "
                f"that comes with {', '.join(there)}",
            )
    study.complain(row, "where: nothing in this matrix has all of it together; loosen it")


def _check_metric(
    study: Study, row: PublishedValue, spec: Mapping[str, Any], optional: Collection[str]
) -> None:
    if row.audited:
        pool = re.sub(r"\.(client|queries_until|auroc)$", "", row.metric.removeprefix("detection."))
        known = ("test", *spec["pools"], *optional)
        if row.metric.startswith("detection.") and pool not in known:
            study.complain(row, f"metric = {row.metric!r}: no detector is measured on that pool; detect it")
        named = re.fullmatch(r"honest\.ood_auroc(?:_lost)?\.(.+)", row.metric)
        if named and named[1] not in known:
            study.complain(row, f"metric = {row.metric!r}: no confidence is known on that pool; detect it")
        return
    family = plugins.attacks.get(parse_call(spec["attack"])[0]).family
    allowed = (f"{family}.", *COST_PREFIXES)
    if not row.metric.startswith(allowed):
        starts = ", ".join(f"{start}…" for start in allowed)
        study.complain(row, f"metric = {row.metric!r}: {spec['attack']} is measured by {starts}")


def _shown(value: Any) -> str:
    return " + ".join(value) or "none" if isinstance(value, tuple) else str(value)
