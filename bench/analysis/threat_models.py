"""Threat models and defenses as records have them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench.calls import parse_call
from bench.records import ClaimsRecord, Record, victim_name
from bench.tasks import Cell, Task, ThreatModel

Defense = tuple[str, ...]
"""A stack of defenses as canonical texts; empty for no defense."""
UNDEFENDED: Defense = ()
UNLABELLED = "extraction.unlabelled_inputs"
"""The fact by which attacks say how many inputs they use that were not queried."""
_ACCESS = ("in-distribution", "near", "far", "none")
_KNOWLEDGE = ("none", "family", "full")
_SHOWS = ("labels", "probabilities")


@dataclass(frozen=True)
class VictimThreatModel(ThreatModel):
    """A threat model with its victim: the unit that every finding, table and figure is about."""

    victim: str

    @classmethod
    def of(cls, cell: Cell) -> VictimThreatModel:
        """Return the threat model of a cell."""
        return cls(**vars(cell.threat), victim=victim_of(cell))

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


_HAS = {
    "in-distribution": "has users' data",
    "near": "has similar data",
    "far": "has other data",
    "none": "has no data",
}
_ADAPTS = {"none": "does not adapt", "family": "adapts, parameters unknown", "full": "adapts"}


def attacker(threat: ThreatModel) -> str:
    """Return who the attacker is: ``has users' data, adapts``. :func:`attackers` tells several apart."""
    return f"{_HAS.get(threat.access, f'has {threat.access} data')}, {_adapts(threat)}"


def not_met(threats: Iterable[ThreatModel]) -> list[str]:
    """Return what no attacker among ``threats`` has or does, as :func:`attacker` says it: ``has no data``."""
    every = list(threats)
    lacking = [words for access, words in _HAS.items() if access not in {each.access for each in every}]
    return lacking if any(each.knowledge == "full" for each in every) else [*lacking, _ADAPTS["full"]]


def _adapts(threat: ThreatModel) -> str:
    return _ADAPTS.get(threat.knowledge, f"knows {threat.knowledge}")


def attackers(
    threats: Iterable[VictimThreatModel],
    unlabelled: Mapping[VictimThreatModel, int] | None = None,
    owned: Mapping[VictimThreatModel, int] | None = None,
) -> dict[VictimThreatModel, str]:
    """Return a name for each threat model, unique among those of its victim.

    Pool, surrogate and output type are named only where several threat models of the victim differ in them.
    ``unlabelled``: of those in which surrogates learn from inputs without an answer too, how many these are
    at most. ``owned``: of those in which attacks own inputs like the users' beside their pool, how many at
    most. A stronger attacker can do what a weaker one does, and has as many.
    """
    every = list(threats)
    more, own = (
        {t: max((given or {}).get(each, 0) for each in (t, *t.weaker())) for t in every}
        for given in (unlabelled, owned)
    )
    return {
        threat: _told_apart(threat, [t for t in every if t.victim == threat.victim], own[threat])
        + (_unlabelled(threat, more[threat]) if more[threat] else "")
        for threat in every
    }


def attackers_in(
    threats: Iterable[VictimThreatModel], records: Sequence[Record]
) -> dict[VictimThreatModel, str]:
    """Return the name of each threat model, with the inputs that its attackers had in ``records``."""
    return attackers(threats, unlabelled_inputs(records), owned_inputs(records))


def owned_inputs(records: Iterable[Record]) -> dict[VictimThreatModel, int]:
    """Return the most inputs like the users' that an attack owns beside its pool, by threat model.

    Attacks say so by their parameter ``own`` (:class:`attacks.base.Pool`, ``reference``). With a pool of such
    inputs they are none besides.
    """
    most: dict[VictimThreatModel, int] = {}
    for record in records:
        cell = record.task
        if isinstance(cell, Cell) and cell.threat.access != _ACCESS[0]:
            own = parse_call(cell.attack)[1].get("own")
            if isinstance(own, int) and own > 0:
                threat = VictimThreatModel.of(cell)
                most[threat] = max(most.get(threat, 0), own)
    return most


def _unlabelled(threat: ThreatModel, number: int) -> str:
    made_up = "made-up " if threat.access == "none" else ""
    return f", with up to {number:,} unlabelled {made_up}inputs"


def unlabelled_inputs(records: Iterable[Record]) -> dict[VictimThreatModel, int]:
    """Return the most inputs without an answer that any training or attack used, by threat model.

    Only threat models with a semi-supervised training, or an attack that learns from such inputs, have any;
    older records do not say.
    """
    most: dict[VictimThreatModel, int] = {}
    for record in records:
        number = unlabelled_of(record)
        if number is not None and isinstance(record.task, Cell):
            threat = VictimThreatModel.of(record.task)
            most[threat] = max(most.get(threat, 0), number)
    return most


def unlabelled_of(record: Record) -> int | None:
    """Return how many inputs without an answer the training, or the attack itself, used; None if unknown.

    Of the two numbers the larger one: both are of the same pool.
    """
    stated = record.metrics.get(UNLABELLED)
    found = [record.info.unlabelled, None if stated is None else int(stated)]
    return max((each for each in found if each is not None), default=None)


def _told_apart(threat: VictimThreatModel, others: Sequence[VictimThreatModel], owned: int) -> str:
    has, details = _HAS.get(threat.access, f"has {threat.access} data"), []
    if len({t.pool for t in others if t.access == threat.access}) > 1:
        has = f"{has} ({threat.pool})"
    if owned:
        has = f"{has} {'but' if threat.access == 'none' else 'and'} {owned:,} inputs like the users'"
    if len({t.surrogate for t in others}) > 1:
        details.append(f"trains {threat.surrogate}")
    if len({t.shows for t in others}) > 1:
        details.append(f"sees {threat.shows}")
    return ", ".join([has, _adapts(threat), *details])


def victim_of(task: Task) -> str:
    """Return the name of a task's victim, with its seed where that is not 0."""
    return victim_name(task.victim)


def defense_of(task: Task) -> Defense:
    """Return a task's stack of defenses, without ``none``."""
    return tuple(text for text in task.defense if text != "none")


def is_label_only(defense: Defense, claims: ClaimsRecord | None) -> bool:
    """Return whether the stack is one defense that answers the victim's label and nothing else.

    ``claims``: those in the stack's defense evaluation; None without one.
    """
    if len(defense) != 1:
        return False
    if claims is None or claims.one_hot is None:
        # Older records do not say; the defense of this name was the only one.
        return parse_call(defense[0])[0] == "label_only"
    return claims.one_hot and claims.keeps_label and not claims.may_refuse
