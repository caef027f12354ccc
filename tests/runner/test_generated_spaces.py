"""Whatever the space of inputs: pools and attacks keep to it, and attacks spend their budget."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spaces import spec_of, victim_of

from attacks.base import Extraction
from bench.data.made_inputs import OWNED
from bench.data.query_pools import POOLS
from bench.errors import NotApplicable
from bench.inputs import Column, InputSpace
from bench.plugins import attacks
from bench.runner import extraction
from bench.runner.context import WorkerContext
from bench.tasks import Cell, ThreatModel

SIZES = (40, 40, 60, 30)
MADE = [name for name in POOLS if name.endswith("noise") or name in ("marginals", "perturbed")]
STACKS = [(), ("rounded(decimals=1)",), ("mahalanobis(fpr=0.2, action=refuse, layers=all)",)]
SENDING = [
    name
    for name in attacks.names()
    if issubclass(attacks.get(name), Extraction) and attacks.get(name).queries and name != "auto"
]

whole = st.integers(-1_000_000, 1_000_000)
numbers = st.floats(-1e6, 1e6, width=32)


@st.composite
def columns(draw, place):
    """A column of any kind, constant ones and ranges of one value included."""
    kind, missing = draw(st.sampled_from(["number", "integer", "boolean", "category"])), draw(st.booleans())
    name = f"column {place}"
    if kind == "category":
        names = [f"value {number}" for number in range(draw(st.integers(1, 6)))]
        return Column.of_categories(name, names, missing=missing)
    if kind == "boolean":
        return Column(name, "boolean", 0, 1, missing=missing)
    low, high = sorted(draw(st.tuples(whole, whole) if kind == "integer" else st.tuples(numbers, numbers)))
    return Column(name, kind, low, high, missing=missing)


@st.composite
def spaces(draw):
    """A table, images or sequences."""
    layout = draw(st.sampled_from(["table", "table", "images", "sequences"]))
    if layout == "table":
        return InputSpace.of_columns([draw(columns(place)) for place in range(draw(st.integers(1, 5)))])
    low, high = sorted(draw(st.tuples(whole, whole).filter(lambda both: both[0] != both[1])))
    if layout == "images":
        return InputSpace((draw(st.integers(1, 3)), 4, 5), (low,), (high,))
    return InputSpace((3, 2), (low, 0.0), (high, 1.0))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(space=spaces(), name=st.sampled_from(MADE), seed=st.integers(0, 99))
def test_every_made_pool_belongs_to_the_space(space, name, seed, tmp_path):
    context = WorkerContext(tmp_path)
    context.add({spec_of("any"): victim_of(space, sizes=SIZES)})
    try:
        pool = context.pool(spec_of("any"), name, seed)
    except NotApplicable:
        assert space.layout == "table"
        return
    assert space.problem(pool.x[:500]) == ""
    assert pool.x.dtype == np.float32
    assert pool.y.min() >= 0
    assert pool.y.max() < 3


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    space=spaces(),
    name=st.sampled_from(SENDING),
    pool=st.sampled_from(["in-distribution", "perturbed"]),
    stack=st.sampled_from(STACKS),
)
def test_every_attack_keeps_to_the_space_and_spends_its_budget(space, name, pool, stack, tmp_path):
    attack = attacks.get(name)
    text = attacks.canonical(f"{name}(own=20)" if name == "evade" else name)
    if name == "jbda":
        text = attacks.canonical("jbda(seeds=5)")
    context = WorkerContext(tmp_path)
    victim = victim_of(space, sizes=SIZES)
    context.add({spec_of("any"): victim})
    knowledge = attack.knowledge[0]
    threat = ThreatModel(pool, "any", knowledge, "logistic", "probabilities")
    cell = Cell(spec_of("any"), stack, threat, text, 30, 0, 1, 0)
    victim.model.seen.clear()
    built, own = attacks.build(text), context.pool(cell.victim, pool, 0)
    try:
        extraction.require_applicable(built, own, victim)
        acquired = extraction.acquire(cell, built, own, context)
    except NotApplicable:
        return
    assert [space.problem(x) for x in victim.model.seen] == [""] * len(victim.model.seen)
    assert space.problem(acquired.transfer_set.x) == ""
    assert acquired.account.sent == 30


def test_perturbed_inputs_come_from_fifty_own_rows_and_their_values(tmp_path):
    space = InputSpace.of_columns([Column.of_categories("a", [str(n) for n in range(400)])] * 2)
    context = WorkerContext(tmp_path)
    context.add({spec_of("any"): victim_of(space, sizes=SIZES)})
    victim, pool = context.victim(spec_of("any")), context.pool(spec_of("any"), "perturbed", 0)
    for place in range(2):
        values = set(pool.x[:, place])
        assert values <= set(victim.splits.pool.x[:, place])
        assert len(values) <= OWNED
    rows = Counter(map(bytes, pool.x))
    assert len(rows) > OWNED  # changed ones among them
    assert sum(count for _, count in rows.most_common(OWNED)) > 0.4 * len(pool.x)


def test_marginals_keep_the_frequencies_of_each_column_and_not_what_they_have_to_do_with_each_other(tmp_path):
    space = InputSpace.of_columns([Column("a", "number", 0, 1, missing=True), Column("b", "number", 0, 1)])
    context = WorkerContext(tmp_path)
    victim = victim_of(space, sizes=(40, 40, 4_000, 30))
    own = victim.splits.pool.x
    own[:, 1] = np.nan_to_num(own[:, 0], nan=0.5)
    context.add({spec_of("any"): victim})
    made = context.pool(spec_of("any"), "marginals", 0).x
    assert np.isnan(made[:, 0]).mean() == pytest.approx(np.isnan(own[:, 0]).mean(), abs=0.02)
    assert np.nanmean(made, axis=0) == pytest.approx(np.nanmean(own, axis=0), abs=0.02)
    there = ~np.isnan(made[:, 0])
    assert abs(np.corrcoef(made[there].T)[0, 1]) < 0.1
