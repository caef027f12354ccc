"""Checks of the predicates that a stack of defenses claims, on all answers of a defense evaluation."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from bench.errors import PluginError
from bench.models.plugin_guard import PluginCall, describe, generator
from bench.records import PredicateRecord
from defenses import predicates
from defenses.base import Answers, Array, Claims, Defense, DefenseStack, Predicate

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
        self._seen[position].append((before, given))

    def add(self, raw: Array, given: Answers) -> None:
        """Keep final answers of the stack to queries; ``raw``: the victim's answers (n, classes)."""
        self._seen[-1].append((raw, given))

    def add_equal(self, name: str, one: Answers, other: Answers) -> None:
        """Measure the predicate called ``name``: two answers (n, classes) to the same inputs are equal."""
        pairs = np.nan_to_num(np.abs(one.probabilities - other.probabilities).max(axis=1), nan=0.0)
        decided = (one.refused != other.refused) | (one.flagged != other.flagged)
        self._found[name] = _record(np.where(decided, 1.0, pairs), one, 0.0)

    def records(self) -> dict[str, PredicateRecord]:
        """Return what came of every predicate, by its name; raises PluginError where one cannot be called."""
        found = dict(self._found)
        if self._seen[-1]:
            found |= self._measured(-1, "", predicates.of_claims(self._stack.claims), "the stack")
        for position, (name, member) in enumerate(self._members()):
            if not self._seen[position]:
                continue
            searched = None
            if member.effective is not member and member.strength:
                # The value that was found for a target depends on the victim's last bits.
                searched = member.strength.parameter
            who = describe(member)
            with PluginCall(who, "predicates", generator("defense", 0)):
                own = list(member.effective.predicates)
            if len(self._stack.defenses) > 1:
                own += predicates.of_claims(_absolute(member.claims))
            found |= self._measured(position, f"{name}: ", own, who, searched)
        return found

    def _members(self) -> Iterator[tuple[str, Defense]]:
        times: Counter[str] = Counter()
        for defense in self._stack.defenses:
            times[defense.name] += 1
            again = times[defense.name]
            yield (f"{defense.name} ({again})" if again > 1 else defense.name), defense

    def _measured(
        self, position: int, prefix: str, claimed: list[Predicate], who: str, searched: str | None = None
    ) -> dict[str, PredicateRecord]:
        parts = self._seen[position]
        before = np.concatenate([part[0] for part in parts])
        answers = [part[1] for part in parts]
        given = Answers(
            np.concatenate([each.probabilities for each in answers]),
            np.concatenate([each.refused for each in answers]),
            np.concatenate([each.flagged for each in answers]),
        )
        live = ~np.isnan(before).any(axis=1)
        before, given = before[live], Answers(*(part[live] for part in vars(given).values()))
        found = {}
        for each in claimed:
            if not isinstance(each, Predicate):
                raise PluginError(f"{who} must declare predicates as Predicate, but declared {each!r}")
            with PluginCall(who, f"predicate {each.name!r}", generator("defense", 0)):
                name = each.text(without=searched if searched in each.parameters else None)
                violation = np.array(each.violation(before.copy(), _copy(given)), dtype=np.float64)
            if violation.shape != (len(before),):
                raise PluginError(
                    f"{who} must measure predicate {each.name!r} in shape ({len(before)},), "
                    f"but returned {violation.shape}"
                )
            found[prefix + name] = _record(violation, given, each.tolerance)
        return found


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
