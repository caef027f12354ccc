"""Every defense names the attacks that know it, and each of them is run against it."""

import numpy as np
import pytest
from cases import slow_unless

from bench.plugins import attacks, defenses
from bench.runner import extraction
from bench.tasks import Cell, ThreatModel

DEFENDING = [name for name in defenses.names() if name != "none"]
PAIRS = [(defense, attack) for defense in DEFENDING for attack in defenses.get(defense).known_by]
BUDGET, QUICK_BUDGET = 200, 100


@pytest.mark.parametrize("defense", DEFENDING)
def test_every_defense_names_an_attack_that_knows_it(defense):
    named = defenses.get(defense).known_by
    assert named
    assert len(set(named)) == len(named)
    assert set(named) <= set(attacks.names())


def test_no_defense_names_none():
    assert defenses.get("none").known_by == ()


@pytest.mark.parametrize("attack", sorted({attack for _, attack in PAIRS}))
def test_an_attack_that_knows_a_defense_can_be_told_of_it(attack):
    assert "family" in attacks.get(attack).knowledge
    assert "full" in attacks.get(attack).knowledge


def cell(digits_spec, defense, attack, knowledge, budget):
    stack = () if defense == "none" else (defenses.canonical(defense),)
    threat = ThreatModel("in-distribution", "in-distribution", knowledge, "mlp", "probabilities")
    return Cell(digits_spec, stack, threat, attacks.canonical(attack), budget, 0, 1, 0)


def quick_pairs():
    """Return pairs in which each defense and each attack occurs; the knowledge alternates."""
    known = [defenses.get(defense).known_by for defense in DEFENDING]
    pairs = [(name, known[i][i % len(known[i])]) for i, name in enumerate(DEFENDING)]
    missing = {attack: (name, attack) for name, attack in PAIRS if attack not in dict(pairs).values()}
    return {pair: ("family", "full")[i % 2] for i, pair in enumerate([*pairs, *missing.values()])}


QUICK = quick_pairs()


@pytest.mark.parametrize(
    ("defense", "attack", "knowledge"),
    slow_unless(
        lambda defense, attack, knowledge: QUICK.get((defense, attack)) == knowledge,
        [(*pair, knowledge) for pair in PAIRS for knowledge in ("family", "full")],
    ),
)
def test_an_attack_that_knows_a_defense_extracts_through_it(defense, attack, knowledge, context, digits_spec):
    budget = QUICK_BUDGET if QUICK.get((defense, attack)) == knowledge else BUDGET
    one = cell(digits_spec, defense, attack, knowledge, budget)
    (outcome,) = extraction.run([one], attacks.build(attack), context)
    assert outcome.info.queries.sent <= budget
    # The undefended copy of the same draw has above .95; half of that is far above chance.
    assert outcome.metrics["extraction.fidelity"] > 0.5
    assert np.isfinite(outcome.metrics["extraction.loss"])
