"""Whether a defense met the adaptive attackers that its measured behaviour asks for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from bench.analysis.confirmed_reduction import AttackTable, paired, strongest
from bench.analysis.eligibility import criterion
from bench.analysis.verdicts import Criterion
from bench.calls import parse_call
from bench.metrics.intervals import Interval
from bench.records import Record

ALWAYS = ("auto", "labels")
"""Plugins that every defense has to meet."""
WITHOUT_KNOWLEDGE = frozenset({"labels"})
"""Plugins that gain nothing by knowing the defense: it is enough that they ran."""


UNMOVED = "does nothing else when told of the defense"
"""The reason why an attack does not count that has no inverse of the defense."""


@dataclass(frozen=True)
class Behaviour:
    """What a defense was seen to do, or claims to do.

    ``varies``: an input that is sent again gets another answer. ``rejects``: it rejects or flags queries.
    ``counts``: answers depend on how many queries a client has sent. ``unchanged``: what it answers is the
    victim's own answer, on every query of its evaluation, so that nothing can be inverted.
    """

    varies: bool = False
    rejects: bool = False
    counts: bool = False
    unchanged: bool = False

    @classmethod
    def of(cls, evaluation: Record) -> Behaviour:
        """Return the behaviour that a defense evaluation measured."""
        claims, metrics = evaluation.info.claims, evaluation.metrics
        again = metrics.get("contract.again")
        marked = [value for name, value in metrics.items() if name.startswith(_MARKS)]
        return cls(
            varies=(claims.stochastic and not claims.consistent_noise) or (again is not None and again < 1),
            rejects=claims.may_refuse or claims.may_flag or any(value for value in marked),
            counts=claims.counts_queries,
            unchanged=_answers_unchanged(evaluation),
        )


_MARKS = ("honest.refused", "honest.flagged", "contract.refused.")
_UNCHANGED = (
    ("unchanged where not rejected",),
    ("unchanged where not flagged", "rejected where flagged"),
)
"""Predicates of a member of a stack that changes no answer: all of one of these."""


def _answers_unchanged(evaluation: Record) -> bool:
    """Return whether every member claims so by predicates that held on all answers, and benign users saw it.

    The second is measured by this program alone, whatever a plugin's predicate computes.
    """
    found, times = evaluation.info.predicates, Counter[str]()

    def held(member: str) -> bool:
        times[member] += 1
        again = f" ({times[member]})" if times[member] > 1 else ""
        names = [[f"{member}{again}: {text}" for text in texts] for texts in _UNCHANGED]
        return any(all(each in found and not found[each].broken for each in one) for one in names)

    members = [parse_call(text)[0] for text in evaluation.task.defense]
    return all(held(member) for member in members) and evaluation.metrics.get("honest.l1_max") == 0


@dataclass(frozen=True)
class Need:
    """An attack that has to be run.

    ``accounts``: from several accounts. ``standard``: not by declaration. ``inverts``: whether knowledge of
    the defense can change what it learns from the answers; it need not be proven to adapt where it cannot.
    """

    plugin: str
    accounts: bool = False
    standard: bool = True
    inverts: bool = True

    def __str__(self) -> str:
        return f"{self.plugin} from several accounts" if self.accounts else self.plugin


def needs(behaviour: Behaviour, known_by: Iterable[str] = ()) -> tuple[Need, ...]:
    """Return the attacks that a defense of this behaviour has to meet.

    ``known_by``: attacks that the defense itself names; they add to the others, and replace none.
    """
    # Against a detector that changes no answer, the attack that adapts is the one that evades it.
    inverts = not (behaviour.unchanged and (behaviour.rejects or behaviour.counts))
    found = [Need(plugin, inverts=inverts) for plugin in ALWAYS]
    if behaviour.varies:
        found.append(Need("average"))
    if behaviour.counts:
        found.append(Need("evade", accounts=True))
    elif behaviour.rejects:
        found.append(Need("evade"))
    named = {each.plugin for each in found}
    return (*found, *(Need(name, standard=False) for name in dict.fromkeys(known_by) if name not in named))


@dataclass(frozen=True, eq=False)
class AttackRun:
    """One attack that was run against a defense, with what it knew.

    ``can_use_knowledge``: whether the attack declares that it can use full knowledge of the defense.
    ``informed``: whether it had it. ``adapts``: whether it is on record that this changes what it queries or
    learns; None where the record does not say. ``finished``: all repeats. ``ranked``: not near chance.
    ``accounts``: whether it queries from several. ``carried_over``: from ``label_only``, by argument.
    ``small``: whether it reports that the budget is too small for it. ``simulates``: whether it declares that
    it adapts to any defense that it can simulate. ``restoration``: by how much L1 its restored answers are
    nearer to the victim's own than those it obtained, over repeats; None where that is not on record.
    """

    plugin: str
    table: AttackTable
    can_use_knowledge: bool = False
    informed: bool = False
    adapts: bool | None = None
    finished: bool = True
    ranked: bool = True
    accounts: bool = False
    carried_over: bool = False
    small: bool = False
    simulates: bool = False
    restoration: Interval | None = None

    @property
    def restores(self) -> bool:
        """Whether it simulated this very defense in all repeats, to restore answers, well or badly."""
        return self.simulates and self.adaptive and self.finished and self.ranked

    @property
    def stands_in(self) -> bool:
        """Whether it counts as the adaptive attack to a defense for which no other attack was written.

        Only where what it restored is shown to be nearer to the victim's answers than what it obtained: else
        it may have learnt labels, as one that knows nothing does.
        """
        return self.restores and self.restoration is not None and self.restoration.low > 0

    @property
    def why_not_instead(self) -> str:
        """Why it does not stand in although it simulated the defense, a clause."""
        if self.restoration is None:
            return f"{self.plugin} has no restored answers on record"
        if self.restoration.high <= 0:
            return f"{self.plugin} did not undo it"
        return f"{self.plugin} is not shown to undo it"

    @property
    def adaptive(self) -> bool:
        """Whether it is proven to be adaptive to this very defense."""
        return self.informed and bool(self.adapts) and not self.carried_over and not self.small

    def meets(self, need: Need) -> bool:
        """Return whether it is the attack that is needed, with the knowledge that it can use.

        Of what is carried over, only that which needs no knowledge: the others were not run.
        """
        if self.plugin != need.plugin or (need.accounts and not self.accounts):
            return False
        if self.carried_over and self.plugin not in WITHOUT_KNOWLEDGE:
            return False
        return self.plugin in WITHOUT_KNOWLEDGE or not self.can_use_knowledge or self.informed


@dataclass(frozen=True)
class Lacking:
    """Why a needed attack does not count, a clause for readers."""

    need: Need
    reason: str

    def __str__(self) -> str:
        return f"{self.need} {self.reason}"


def lacking(runs: Collection[AttackRun], wanted: Sequence[Need]) -> list[Lacking]:
    """Return the needed attacks that do not count, with the reason.

    One of :data:`ALWAYS` that was told of the defense and does nothing else counts where another one
    simulates the defense, adapts to it and is shown to restore answers: nobody may have written an inverse of
    a defense from outside.
    """
    found, simulated = [], any(run.stands_in for run in runs)
    instead = dict.fromkeys(run.why_not_instead for run in runs if run.restores and not run.stands_in)
    for need in wanted:
        met = [run for run in runs if run.meets(need)]
        ran = any(run.plugin == need.plugin and not run.carried_over for run in runs)
        reason = _why_not(need, met, ran)
        # Restoring answers is no substitute for queries that average noise or evade a detector.
        if reason == UNMOVED and need.plugin in ALWAYS:
            if simulated:
                continue
            reason = ", and ".join([reason, *instead])
        if reason:
            found.append(Lacking(need, reason))
    return found


def _why_not(need: Need, met: Sequence[AttackRun], ran: bool) -> str:
    if not met:
        return "was not run with full knowledge of the defense" if ran else "was not run"
    usable = [run for run in met if run.finished and run.ranked]
    if not usable:
        return "lacks repeats" if all(run.ranked for run in met) else "is near chance without defense"
    knowing = [run for run in usable if run.can_use_knowledge and need.plugin not in WITHOUT_KNOWLEDGE]
    if not need.standard or not knowing or any(run.adaptive for run in usable):
        return ""
    if all(run.adapts is None for run in knowing):
        return "does not record whether it adapts: run again"
    if all(run.small for run in knowing):
        return "has too few queries to adapt"
    return UNMOVED if need.inverts else ""


def adaptive_criterion(
    runs: Sequence[AttackRun], wanted: Sequence[Need], limit: float, inputs: int | None = None
) -> Criterion:
    """Return whether the best adaptive attack counts as the best there is.

    Too dear where a needed attack is lacking, or where the best adaptive attack is more than ``limit`` below
    the best other one; its loss is that shortfall, a fraction.
    """
    without = lacking(runs, wanted)
    ranked = [run for run in runs if run.ranked]
    adaptive = [run.table for run in ranked if run.adaptive]
    if not adaptive and not without:
        without = [Lacking(Need("auto"), "does not adapt")]
    if without:
        detail = f"not evaluated against an adaptive attacker: {'; '.join(map(str, without))}"
        return Criterion("adaptive", "too dear", None, limit, detail=detail)
    others = [run.table for run in ranked if not run.adaptive]
    if not others:
        return Criterion("adaptive", "affordable", None, limit, detail="all attacks adapt")
    best, other = strongest(adaptive), strongest(others)
    shortfall = paired(other, best)
    detail = f"{best.name} adapts, {other.name} is the best that does not"
    return criterion("adaptive", shortfall, limit, inputs, detail=detail)
