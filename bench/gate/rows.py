"""The rows of a comparison: what each is about, what is decided of it, and the short names in it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from bench.analysis.attacker_results import Condition
from bench.analysis.display_names import short_names
from bench.analysis.threat_models import Defense, VictimThreatModel
from bench.metrics.intervals import Interval
from bench.records import Record
from bench.tasks import Cell


class RowKind(StrEnum):
    """What a row compares. Values are those of the JSON output, which other programs read."""

    strength = "strength"
    sentinel = "sentinel"
    claim = "claim"
    detection = "detection"
    honest = "honest cost"
    contract = "contract"

    @property
    def label(self) -> str:
        """The kind as people read it."""
        labels = {
            "sentinel": "tracked attack",
            "detection": "detection rate",
            "honest": "utility loss",
            "contract": "answer statistics",
        }
        return labels.get(self.name, self.value)


class Decision(StrEnum):
    """What is decided about a row; regressions first, then what was not compared."""

    broken = "claim broken"
    weaker = "weaker"
    costlier = "costlier"
    failed = "failed"
    missing = "missing"
    changed = "changed"
    cannot_tell = "cannot tell"
    stronger = "stronger"
    same = "same"


@dataclass(frozen=True)
class ComparisonRow:
    """One line of a comparison.

    ``before``, ``after``: as a share, or in ``unit``; ``difference``: after less before, with its 95 %
    interval where there is one. ``note``: an explanation for the reader.
    """

    kind: RowKind
    condition: str
    what: str
    decision: Decision
    before: float | None = None
    after: float | None = None
    difference: Interval | None = None
    unit: str = "%"
    note: str = ""


class Names:
    """Short names of attacks and defenses, the same for both runs."""

    def __init__(self, records: Iterable[Record]) -> None:
        """Shorten the names of all attacks and defenses of these records."""
        tasks = [record.task for record in records]
        cells = [task for task in tasks if isinstance(task, Cell)]
        self._attacks = short_names(sorted({cell.attack for cell in cells}))
        texts = sorted({text for task in tasks for text in task.defense})
        self._defenses = short_names(texts, limit=40)
        self._threats = {VictimThreatModel.of(cell) for cell in cells}

    def attack(self, attack: str) -> str:
        """Return the short name of an attack; a note in parentheses after it stays."""
        for text, name in self._attacks.items():
            if attack.startswith(text):
                return name + attack[len(text) :]
        return attack

    def stack(self, defense: Defense) -> str:
        """Return the short name of a stack of defenses; "none" for no defense."""
        return " + ".join(self._defenses[text] for text in defense) or "none"

    def condition(self, condition: Condition) -> str:
        """Return a condition as text: defense, budget, and the parts of the threat model that differ."""
        threat, defense, budget = condition
        parts = {
            "victim": threat.victim,
            "pool": threat.pool,
            "surrogate": threat.surrogate,
            "shows": f"sees {threat.shows}",
            "knowledge": f"knowledge {threat.knowledge}",
        }
        differing = [
            text for axis, text in parts.items() if len({getattr(each, axis) for each in self._threats}) > 1
        ]
        return ", ".join([self.stack(defense), f"{budget:,} queries", *differing])
