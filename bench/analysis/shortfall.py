"""How far an attack that claims to match all others is below the best of them, over several runs.

A place is one condition (victim, threat model, defense, budget) and one training configuration. The rival is
chosen on other repeats than those that compare (:mod:`bench.analysis.held_out_rival`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from bench.analysis.adaptive_check import SMALL, universal_attacks
from bench.analysis.attacker_results import AttackerResult, agreement_of
from bench.analysis.display_names import TRAINED, weaker_note
from bench.analysis.findings import Findings
from bench.analysis.held_out_rival import HeldOut, averaged, mean_interval
from bench.analysis.multiple_tests import holm
from bench.analysis.threat_models import Defense, VictimThreatModel
from bench.calls import parse_call
from bench.metrics.intervals import Interval

MEAN_LIMIT = 0.01
"""Largest mean shortfall that the attack claims, a fraction."""
PLACE_LIMIT = 0.03
"""Largest shortfall at a place that the attack claims, a fraction."""

PlaceKey = tuple[VictimThreatModel, Defense, int, str]
"""Threat model, defense, budget, and the attack's text with its training configuration."""


@dataclass(frozen=True, eq=False)
class Entry:
    """An attack at a place.

    ``text``: with all parameters and its training configuration. ``note``: how it comes to be there, "" for
    one that was run under this very condition. ``name``: for readers, with the note.
    """

    text: str
    note: str
    name: str
    result: AttackerResult

    @property
    def training(self) -> str:
        """Its training configuration; "" is the rule of the data set."""
        return self.text.partition(TRAINED)[2]


@dataclass(frozen=True, eq=False)
class Place:
    """A place where the attack and others were run.

    ``run``: the matrix. ``repeats``: those that all attacks share. ``own``: the attack. ``same``: against
    rivals of its own training configuration, None without any; ``every``: against rivals of any. ``small``:
    the attack reports that it has too few queries.
    """

    run: str
    threat: VictimThreatModel
    defense: Defense
    budget: int
    repeats: tuple[int, ...]
    own: Entry
    same: HeldOut | None
    every: HeldOut
    small: bool


@dataclass(frozen=True, eq=False)
class Places:
    """Places that are tested together."""

    places: tuple[Place, ...]

    @cached_property
    def tested(self) -> list[Place]:
        """The places with rivals of the attack's own training configuration."""
        return [place for place in self.places if place.same is not None]

    def mean(self, *, any_training: bool = False) -> Interval:
        """Return the mean shortfall over these places with its 95 % interval; NaN without any.

        The places themselves are fixed. Repeats and test inputs are what another run would draw anew: places
        of one victim share both, so their tables are averaged before the interval is made; see
        :func:`bench.analysis.held_out_rival.mean_interval` for several victims.
        """
        groups: dict[tuple[str, str, tuple[int, ...], int], list[HeldOut]] = defaultdict(list)
        for place in self.places:
            compared = place.every if any_training else place.same
            if compared is not None:
                data = place.own.result.records[0].cell.victim.data
                key = data, place.threat.victim, place.repeats, compared.own.shape[1]
                groups[key].append(compared)
        return mean_interval([(key[0], averaged(found), len(found)) for key, found in groups.items()])

    @cached_property
    def beyond(self) -> list[Place]:
        """The places that are shown to be below by more than :data:`PLACE_LIMIT`, by Holm's procedure."""
        compared = [(place, place.same) for place in self.places if place.same is not None]
        chances = [each.chance_of_at_most(PLACE_LIMIT) for _, each in compared]
        return [place for (place, _), found in zip(compared, holm(chances), strict=True) if found]

    @cached_property
    def not_excluded(self) -> list[Place]:
        """The other places whose own 95 % interval holds a shortfall of more than :data:`PLACE_LIMIT`."""
        return [
            place
            for place in self.places
            if place.same and place.same.interval.high > PLACE_LIMIT and place not in self.beyond
        ]


@dataclass(frozen=True, eq=False)
class Shortfall:
    """The shortfall of ``attacks`` at all places.

    ``claimed``: where the attack claims to keep up. ``small``: where it reports that it has too few queries.
    ``left_out``: how many places have no comparison, by the reason, a clause.
    """

    attacks: tuple[str, ...]
    claimed: Places
    small: Places
    left_out: Mapping[str, int]

    @property
    def every(self) -> Places:
        """All places, those with too few queries too."""
        return Places((*self.claimed.places, *self.small.places))


def shortfall(runs: Sequence[tuple[str, Findings]]) -> Shortfall:
    """Return the shortfall of the attacks that claim to match all others, over runs with their names.

    A place that several runs have counts once: the attack is that of the run with most repeats (the first of
    equals), and its rivals are those of all runs.
    """
    universal = set().union(*(universal_attacks(findings) for _, findings in runs))
    owned: dict[PlaceKey, tuple[str, Entry]] = {}
    entries: dict[PlaceKey, list[tuple[str, Entry]]] = defaultdict(list)
    for name, findings in runs:
        for key, entry in _own(findings, universal):
            before = owned.get(key)
            if before is None or len(before[1].result.repeats) < len(entry.result.repeats):
                owned[key] = name, entry
    for name, findings in runs:
        for key in owned:
            entries[key] += ((name, entry) for entry in _rivals(findings, key, universal))
    places: list[Place] = []
    left_out: Counter[str] = Counter()
    for key, (name, own) in owned.items():
        made = _place(key, name, own, entries[key])
        if isinstance(made, Place):
            places.append(made)
        else:
            left_out[made] += 1
    return Shortfall(
        tuple(sorted(universal)),
        Places(tuple(place for place in places if not place.small)),
        Places(tuple(place for place in places if place.small)),
        dict(left_out),
    )


def _own(findings: Findings, universal: set[str]) -> Iterator[tuple[PlaceKey, Entry]]:
    for (threat, defense, budget), results in findings.raw_results.items():
        for text, result in sorted(results.items()):
            if budget and _plugin(text) in universal:
                yield (threat, defense, budget, text), _entry(findings, text, "", result)


def _rivals(findings: Findings, key: PlaceKey, universal: set[str]) -> Iterator[Entry]:
    """Give what the attacker at a place could have run instead: by their knowledge, or less."""
    threat, defense, budget, _ = key
    stacks = [(defense, "")]
    if findings.carries_over(threat, defense):
        stacks += [
            (stack, f", carried over from {findings.defense_name(stack)}")
            for stack in findings.label_only_stacks
        ]
    for stack, carried in stacks:
        for source in (threat, *threat.weaker()):
            note = weaker_note(source, threat) + carried
            for text, result in sorted(findings.raw_results.get((source, stack, budget), {}).items()):
                if _plugin(text) not in universal and result.ranked:
                    yield _entry(findings, text, note, result)


def _entry(findings: Findings, text: str, note: str, result: AttackerResult) -> Entry:
    return Entry(text, note, findings.attack_name(text) + note, result)


def _place(key: PlaceKey, run: str, own: Entry, rivals: Sequence[tuple[str, Entry]]) -> Place | str:
    """Return the place, or why it has no comparison."""
    threat, defense, budget, _ = key
    if not own.result.ranked:
        return "the attack is near chance without a defense"
    found: dict[tuple[str, str], Entry] = {}
    repeats = set(own.result.repeats)
    # Of the same run all take part, so that no rival with a failed repeat is lost; others need all repeats.
    for _, entry in (each for each in rivals if each[0] == run):
        if _fits(entry, own):
            found.setdefault((entry.text, entry.note), entry)
            repeats &= set(entry.result.repeats)
    for _, entry in (each for each in rivals if each[0] != run):
        if _fits(entry, own) and repeats <= set(entry.result.repeats):
            found.setdefault((entry.text, entry.note), entry)
    if not found:
        return "no other attack was run there"
    if len(repeats) < 2:
        return "fewer than two repeats are shared by all attacks"
    shared = sorted(repeats)
    shown = Counter(entry.name for entry in found.values())
    # Short names are unique in one run alone.
    names = {key: e.name if shown[e.name] == 1 else e.text + e.note for key, e in found.items()}
    tables = {names[key]: agreement_of(entry.result, shared) for key, entry in found.items()}
    same = {names[key]: tables[names[key]] for key, entry in found.items() if entry.training == own.training}
    mine = agreement_of(own.result, shared)
    return Place(
        run=run,
        threat=threat,
        defense=defense,
        budget=budget,
        repeats=tuple(shared),
        own=own,
        same=HeldOut.of(mine, same) if same else None,
        every=HeldOut.of(mine, tables),
        small=any(record.metrics.get(SMALL) for record in own.result.records),
    )


def _fits(entry: Entry, own: Entry) -> bool:
    return entry.result.agreement.shape[1:] == own.result.agreement.shape[1:]


def _plugin(text: str) -> str:
    return parse_call(text.partition(TRAINED)[0])[0]
