"""Threat models and defenses as records have them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from bench.calls import parse_call
from bench.tasks import ThreatModel

Defense = tuple[str, ...]
"""A stack of defenses as canonical texts; empty for no defense."""
UNDEFENDED: Defense = ()
_ACCESS = ("in-distribution", "near", "far", "none")
_KNOWLEDGE = ("none", "family", "full")
_SHOWS = ("labels", "probabilities")


@dataclass(frozen=True)
class VictimThreatModel(ThreatModel):
    """A threat model with its victim: the unit that every finding, table and figure is about."""

    victim: str

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> VictimThreatModel:
        """Read the threat model from a cell's spec."""
        names = (field.name for field in fields(ThreatModel))
        return cls(victim=victim_of(spec), **{name: str(spec[name]) for name in names})

    @property
    def order(self) -> tuple[Any, ...]:
        """What threat models are sorted by: victim, then the stronger threat model first."""
        access = _ACCESS.index(self.access) if self.access in _ACCESS else len(_ACCESS)
        shows, knowledge = _rank(_SHOWS, self.shows), _rank(_KNOWLEDGE, self.knowledge)
        return self.victim, access, self.pool, self.surrogate, -shows, -knowledge, self.shows, self.knowledge

    def weaker(self) -> Iterator[VictimThreatModel]:
        """Give the weaker threat models: an output type and a knowledge that this one includes.

        An attacker under this threat model can do all that an attacker under those can.
        """
        shows = _SHOWS[: _rank(_SHOWS, self.shows)]
        knowledge = _KNOWLEDGE[: _rank(_KNOWLEDGE, self.knowledge)]
        for shown in (self.shows, *shows):
            for known in (self.knowledge, *knowledge):
                if (shown, known) != (self.shows, self.knowledge):
                    yield replace(self, shows=shown, knowledge=known)


def _rank(order: Sequence[str], value: str) -> int:
    return order.index(value) if value in order else 0


def victim_of(spec: Mapping[str, Any]) -> str:
    """Return the victim's name, with its seed where that is not 0."""
    seed = spec.get("victim_seed", 0)
    return f"{spec['victim']} (seed {seed})" if seed else str(spec["victim"])


def defense_of(spec: Mapping[str, Any]) -> Defense:
    """Return the stack in the spec of a cell or defense evaluation, without ``none``."""
    return tuple(text for text in spec["defense"] if text != "none")


def is_label_only(defense: Defense, claims: Mapping[str, Any]) -> bool:
    """Return whether the stack is one defense that answers the victim's label and nothing else.

    ``claims``: those in the stack's defense evaluation; empty without one.
    """
    if len(defense) != 1:
        return False
    if "one_hot" not in claims:
        # Older records do not say; the defense of this name was the only one.
        return parse_call(defense[0])[0] == "label_only"
    return bool(claims["one_hot"] and claims.get("keeps_label") and not claims.get("may_refuse"))
