"""Which defenses take more from one group of benign users than from all others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bench.analysis.findings import Findings
from bench.analysis.threat_models import Defense
from bench.metrics.intervals import Interval
from bench.records import Record

PREFIX = "honest.group."
LOSSES = ("accuracy_lost", "changed")
"""What a group is compared by with all others: accuracy lost, and decisions changed at thresholds."""


@dataclass(frozen=True)
class GroupLoss:
    """A group that loses more than all others: how much more, and the interval of that.

    ``what``: one of :data:`LOSSES`. The intervals of all groups of a defense together miss in 5 %.
    """

    defense: Defense
    group: str
    what: str
    more: Interval


def groups(record: Record) -> list[str]:
    """Return the groups that a defense evaluation measures, as "COLUMN=VALUE", in order."""
    names = (name.removeprefix(PREFIX) for name in record.metrics if name.startswith(PREFIX))
    return list(dict.fromkeys(name.rpartition(".")[0] for name in names))


def unequal(findings: Findings, victim: str) -> Iterator[GroupLoss]:
    """Yield the group that a defense of a victim takes most from, where its interval is above 0."""
    for defense, record in findings.evaluations_of(victim):
        for what in LOSSES:
            found = []
            for group in groups(record):
                name = f"{PREFIX}{group}.{what}_more"
                value, limits = record.metrics.get(name), record.info.intervals.get(name)
                if value is not None and limits and limits[0] > 0:
                    found.append(GroupLoss(defense, group, what, Interval(value, *limits)))
            if found:
                yield max(found, key=lambda loss: loss.more.value)
