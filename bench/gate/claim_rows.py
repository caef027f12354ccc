"""Rows on what a stack of defenses claims: predicates on its answers, and noise that is drawn anew.

A claim that the baseline makes and keeps has to be made and kept by the candidate. A predicate is a fact. The
independence of noise is tested, so its p-values join the family of all alarms.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from bench.gate.decisions import RowTest
from bench.gate.rows import ComparisonRow, Decision, Names, RowKind
from bench.gate.runs import Run
from bench.records import ClaimsRecord, PredicateRecord, Record

Evaluations = Mapping[tuple[str, tuple[str, ...]], Record]

PROMISES = {
    "keeps_label": "the label is kept",
    "distribution": "answers are distributions",
    "normalises": "answers are normalised",
    "one_hot": "answers are one-hot",
    "consistent_noise": "noise is the same for the same input",
    "continuous": "no two answers with other noise are equal",
}
"""Claims that promise something where they are true."""
PERMISSIONS = {
    "ties": "no ties",
    "stochastic": "answers do not depend on the seed",
    "counts_queries": "answers do not depend on the number of queries",
    "may_refuse": "no query is rejected",
    "may_flag": "no query is flagged",
}
"""Claims that promise something where they are false."""
SHOWN_BY = {
    "keeps_label": ("the victim's top-1",),
    "distribution": ("no entry below 0", "no entry above 1", "entries sum to 1"),
    "normalises": ("no entry below 0", "no entry above 1", "entries sum to 1"),
    "one_hot": ("one-hot",),
    "ties": ("one entry has the maximum",),
    "stochastic": ("the same for any seed",),
    "may_refuse": ("no query rejected",),
    "may_flag": ("no query flagged",),
}
"""The predicates that show whether a promise is kept, as :mod:`defenses.predicates` names them."""
EXPORT = "export the baseline again"


def claim_rows(before: Run, after: Run, names: Names) -> Iterator[RowTest]:
    """Yield the rows on claims for all stacks that both runs have evaluated."""
    shared = [condition for condition in before.evaluations if condition in after.evaluations]
    for victim in dict.fromkeys(condition[0] for condition in shared):
        own = [condition for condition in shared if condition[0] == victim]
        old, new = ([run.evaluations[condition] for condition in own] for run in (before, after))
        yield from _lacking(victim, old, new)
        known = any(each.info.predicates for each in old) and any(each.info.predicates for each in new)
        for condition, was, now in zip(own, old, new, strict=True):
            where = ", ".join([victim, names.stack(condition[1])])
            rows = [*_dropped(where, was, now)]
            if known:
                rows += _predicates(where, was, now)
            found = [row for row in rows if row.decision is not Decision.same]
            kept = sum(row.decision is Decision.same for row in rows)
            if kept and not found:
                note = f"{kept} predicate{'s' if kept > 1 else ''}"
                found = [ComparisonRow(RowKind.claim, where, "all predicates", Decision.same, note=note)]
            yield from (RowTest(row, settled=True) for row in found)
            yield from _noise(where, was, now)


def _lacking(victim: str, old: list[Record], new: list[Record]) -> Iterator[RowTest]:
    """Yield a row for what the records of all stacks lack, as those of older versions do."""
    row = ComparisonRow(RowKind.claim, victim, "all claims", Decision.cannot_tell)
    if not any(each.info.predicates for each in old):
        text = f"the baseline does not say which predicates its answers keep; {EXPORT}"
        yield RowTest(replace(row, note=text), settled=True)
    elif not any(each.info.predicates for each in new):
        text = "the candidate does not say which predicates its answers keep"
        yield RowTest(replace(row, decision=Decision.missing, note=text), settled=True)
    for was, now in zip(old, new, strict=True):
        if now.info.independence and _fresh(was.info.claims) and not was.info.independence:
            text = f"the baseline has no tests of the independence of noise; {EXPORT}"
            yield RowTest(replace(row, what="independence of noise", note=text), settled=True)
            return


def _fresh(claims: ClaimsRecord) -> bool:
    """Return whether noise is claimed to be new for every query."""
    return claims.stochastic and not claims.consistent_noise


def _predicates(where: str, old: Record, new: Record) -> Iterator[ComparisonRow]:
    before, after = old.info.predicates, new.info.predicates
    found = {name: _predicate(before.get(name), after.get(name)) for name in {**before, **after}}
    for name, (decision, note) in found.items():
        _, colon, what = name.partition(": ")
        if colon and decision is not Decision.same and found.get(what, (None,))[0] is decision:
            # The stack claims what this member claims, which is one thing.
            continue
        worst, now = (None if name not in each else each[name].worst for each in (before, after))
        yield ComparisonRow(RowKind.claim, where, name, decision, worst, now, unit="", note=note)


def _predicate(was: PredicateRecord | None, now: PredicateRecord | None) -> tuple[Decision, str]:
    """Return what is decided of a predicate, and why."""
    if was is None:
        # A claim that is new and broken: nothing that the baseline had is lost.
        broken = now is not None and now.broken > 0
        return (Decision.cannot_tell, "broken, and new in the candidate") if broken else (Decision.same, "")
    if was.broken:
        if now is None or now.broken:
            return Decision.cannot_tell, f"the baseline breaks it itself, in {_share(was)}"
        return Decision.stronger, f"the baseline broke it in {_share(was)}"
    return (Decision.broken, "no longer claimed") if now is None else _kept(was, now)


def _kept(was: PredicateRecord, now: PredicateRecord) -> tuple[Decision, str]:
    """Return the same of a predicate that the baseline keeps and the candidate claims."""
    if now.broken:
        return Decision.broken, f"by {_share(now)}, by up to {now.worst:.2g}"
    if now.worst > was.tolerance:
        return Decision.broken, f"by up to {now.worst:.2g}; its tolerance was {was.tolerance:.2g} before"
    if was.answers and not now.answers:
        return Decision.cannot_tell, "the candidate has no answers to check it on"
    return Decision.same, ""


def _share(predicate: PredicateRecord) -> str:
    return f"{predicate.broken:,} of {predicate.answers:,} answers"


def _dropped(where: str, old: Record, new: Record) -> Iterator[ComparisonRow]:
    """Yield a row for each promise that the baseline makes and the candidate does not.

    Promises that a predicate of the baseline shows have rows of their own. For others, it is enough that the
    candidate's answers keep them.
    """
    if not all("claims" in each.info.model_fields_set for each in (old, new)):
        return
    before, after = old.info.claims, new.info.claims
    for texts, promised in ((PROMISES, True), (PERMISSIONS, False)):
        for name, text in texts.items():
            was, now = getattr(before, name), getattr(after, name)
            shown = SHOWN_BY.get(name, ())
            if was is not promised or now is not (not promised) or old.info.predicates.keys() & set(shown):
                continue
            found = [new.info.predicates.get(each) for each in shown]
            if not found or any(each is None or each.broken for each in found):
                note = f"no longer claimed ({name})"
                yield ComparisonRow(RowKind.claim, where, text, Decision.broken, unit="", note=note)


def _noise(where: str, old: Record, new: Record) -> Iterator[RowTest]:
    """Yield the rows on the independence of noise."""
    before, after = old.info.independence, new.info.independence
    row = ComparisonRow(RowKind.claim, where, "noise is new for every query", Decision.same, unit="")
    if before and not _fresh(new.info.claims):
        if new.info.claims.stochastic:
            note, decision = "the same input gets the same noise now, as claimed", Decision.changed
        else:
            note, decision = "answers have no noise any more", Decision.broken
        yield RowTest(replace(row, decision=decision, note=note), settled=True)
        return
    for name, was in before.items():
        now = after.get(name)
        row = ComparisonRow(
            RowKind.claim, where, f"noise is independent across {name}", Decision.same, was.agreement, unit=""
        )
        if now is None:
            yield RowTest(replace(row, decision=Decision.missing), settled=True)
            continue
        row = replace(row, after=now.agreement, note=f"{now.inputs:,} inputs, p = {now.chance:.2g}")
        if was.equal == 0 and now.equal is None:
            note = "no longer claimed to be continuous, so that answers may repeat"
            yield RowTest(replace(row, decision=Decision.broken, note=note), settled=True)
        elif was.equal == 0 and now.equal:
            note = f"{now.equal:,} of {now.inputs:,} answers are equal to the bit"
            yield RowTest(replace(row, decision=Decision.broken, note=note), settled=True)
        else:
            yield RowTest(row, worse=now.chance, already=was.chance, apart=0.0)
