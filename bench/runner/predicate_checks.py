"""Checks of the predicates that a stack of defenses claims, on all answers of a defense evaluation."""

from __future__ import annotations

from collections import Counter, defaultdict
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bench.errors import PluginError
from bench.models.plugin_guard import PluginCall, describe, generator
from bench.records import PredicateRecord
from defenses import predicates
from defenses.base import Answers, Array, Claims, Defense, DefenseStack, Predicate

STACK = -1
"""Position of the whole stack among its members."""
TOGETHER = 1 << 24
"""Entries of answers that are measured together: whole evaluations, but of victims with many classes."""
LARGEST = 1e300
"""Violation of an answer for which a predicate cannot be measured."""


class PredicateChecks:
    """Collects answers, and measures on them every predicate that the stack or one of its members claims.

    A member's predicates are measured on what it got and what it answered, and are named "member: predicate";
    those that follow from the claims of the stack, on the victim's answers and the final ones.
    """

    def __init__(self, stack: DefenseStack) -> None:
        self._stack = stack
        self._seen: dict[int, list[tuple[Array, Answers]]] = defaultdict(list)
        self._found: dict[str, PredicateRecord] = {}

    def watch(self, position: int, before: Array, given: Answers) -> None:
        """Keep what the member at ``position`` answered to queries; (n, classes) were the answers before."""
        parts = self._seen[position]
        parts.append((before, given))
        if sum(part[0].size for part in parts) >= TOGETHER:
            self._measure(position)

    def add(self, raw: Array, given: Answers) -> None:
        """Keep final answers of the stack to queries; ``raw``: the victim's answers (n, classes)."""
        self.watch(STACK, raw, given)

    def add_equal(self, name: str, one: Answers, other: Answers) -> None:
        """Measure the predicate called ``name``: two answers (n, classes) to the same inputs are equal."""
        pairs = np.nan_to_num(np.abs(one.probabilities - other.probabilities).max(axis=1), nan=0.0)
        decided = (one.refused != other.refused) | (one.flagged != other.flagged)
        self._found[name] = _record(np.where(decided, 1.0, pairs), one, 0.0)

    def records(self) -> dict[str, PredicateRecord]:
        """Return what came of every predicate, by its name; raises PluginError where one cannot be called."""
        for position in list(self._seen):
            self._measure(position)
        return self._found

    @cached_property
    def _claimed(self) -> dict[int, tuple[str, list[tuple[str, Predicate]]]]:
        """Who claims at each position, and which predicates, each with its name in records."""
        own = [(each.text(), each) for each in predicates.of_claims(self._stack.claims)]
        found = {STACK: ("the stack", own)}
        times: Counter[str] = Counter()
        for position, member in enumerate(self._stack.defenses):
            times[member.name] += 1
            again = f" ({times[member.name]})" if times[member.name] > 1 else ""
            who, named = describe(member), []
            for each in _declared(who, member, alone=len(self._stack.defenses) == 1):
                # A strength that was found for a target depends on the victim's last bits.
                searched = member.effective is not member and member.strength
                without = member.strength.parameter if searched and member.strength else None
                with PluginCall(who, f"predicate {each.name!r}", generator("defense", 0)):
                    text = each.text(without=without if without in each.parameters else None)
                named.append((f"{member.name}{again}: {text}", each))
            found[position] = who, named
        return found

    def _measure(self, position: int) -> None:
        """Measure the predicates of a position on the answers that are kept, and forget these."""
        parts = self._seen.pop(position)
        before = np.concatenate([part[0] for part in parts])
        given = Answers(
            np.concatenate([part[1].probabilities for part in parts]),
            np.concatenate([part[1].refused for part in parts]),
            np.concatenate([part[1].flagged for part in parts]),
        )
        live = ~np.isnan(before).any(axis=1)
        before, given = before[live], Answers(*(part[live] for part in vars(given).values()))
        who, claimed = self._claimed[position]
        for name, each in claimed:
            with PluginCall(who, f"predicate {each.name!r}", generator("defense", 0)):
                violation = np.array(each.violation(before.copy(), _copy(given)), dtype=np.float64)
            if violation.shape != (len(before),):
                raise PluginError(
                    f"{who} must measure predicate {each.name!r} in shape ({len(before)},), "
                    f"but returned {violation.shape}"
                )
            record = _record(violation, given, each.tolerance)
            if name in self._found:
                record = _together(self._found[name], record)
            self._found[name] = record


def _declared(who: str, member: Defense, *, alone: bool) -> list[Predicate]:
    """Return the predicates of a member of a stack; ``alone``: its claims are those of the stack."""
    with PluginCall(who, "predicates", generator("defense", 0)):
        declared = list(member.effective.predicates)
    for each in declared:
        if not isinstance(each, Predicate):
            raise PluginError(f"{who} must declare predicates as Predicate, but declared {each!r}")
    return declared if alone else [*declared, *predicates.of_claims(_absolute(member.claims))]


def _absolute(claims: Claims) -> Claims:
    """Return the claims that hold whatever the defenses before a member answer."""
    return Claims(
        keeps_label=False,
        ties=True,
        distribution=False,
        normalises=claims.normalises,
        one_hot=claims.one_hot,
        may_refuse=True,
        may_flag=True,
    )


def _copy(given: Answers) -> Answers:
    return Answers(given.probabilities.copy(), given.refused.copy(), given.flagged.copy())


def _record(violation: NDArray[np.float64], given: Answers, tolerance: float) -> PredicateRecord:
    unmeasured = np.where(given.refused, 0.0, LARGEST)
    size = np.where(np.isfinite(violation), np.abs(violation), unmeasured)
    return PredicateRecord(
        worst=float(size.max(initial=0.0)),
        broken=int((size > tolerance).sum()),
        answers=len(size),
        tolerance=float(tolerance),
    )


def _together(one: PredicateRecord, other: PredicateRecord) -> PredicateRecord:
    return PredicateRecord(
        worst=max(one.worst, other.worst),
        broken=one.broken + other.broken,
        answers=one.answers + other.answers,
        tolerance=one.tolerance,
    )
