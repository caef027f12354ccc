"""An adaptive attack recovers the answers of the victim, as far as the defense allows."""

import numpy as np
import pytest
from cases import each_once

from attacks.base import Known
from attacks.recover import recover
from bench.models.interim_surrogates import InterimSurrogates
from bench.plugins import attacks, defenses
from defenses.base import Batch

ROWS = 120


@pytest.fixture(scope="module")
def said(digits_victim, digits_pool):
    """Return inputs and what the undefended victim says of them."""
    x = digits_pool.x[:ROWS]
    return x, digits_victim.probabilities(x)


@pytest.fixture(scope="module")
def learner(digits_victim):
    return InterimSurrogates("mlp", digits_victim.shape, 10, 3)


def told_by(text, raw, x):
    defense = defenses.build(text)
    answers = defense.answer(Batch(inputs=x, raw=raw, probabilities=raw, seed=1)).probabilities
    return answers, Known(defense.name, {key: getattr(defense, key) for key in defense.parameters()})


def l1(a, b):
    return np.abs(a - b).sum(axis=1)


@pytest.mark.parametrize(("beta", "gamma"), each_once([0.5, 1.0], [0.2, 0.5, 2.0]))
def test_reverse_sigmoid_is_undone_but_for_a_few_rows(beta, gamma, said, learner):
    x, raw = said
    told, known = told_by(f"reverse_sigmoid(beta={beta}, gamma={gamma})", raw, x)
    assert l1(told, raw).mean() > 0.1
    made = recover((known,), x, told, learner)
    assert made.explained.mean() > 0.9
    # Where the map turns often, several rows explain an answer, and their mean is taken.
    assert np.median(l1(made.targets, raw)) < (1e-3 if gamma > 0.2 else 0.1)
    assert l1(made.targets, raw).mean() < 0.15 * l1(told, raw).mean()
    assert (made.targets.argmax(axis=1) == raw.argmax(axis=1)).mean() > 0.97
    assert np.allclose(made.forward(raw), told, atol=1e-9)


def test_its_parameters_are_found_from_the_answers(said, learner):
    x, raw = said
    told, _ = told_by("reverse_sigmoid(beta=0.8, gamma=0.3)", raw, x)
    made = recover((Known("reverse_sigmoid"),), x, told, learner)
    assert made.facts["beta"] == pytest.approx(0.8, rel=0.02)
    assert made.facts["gamma"] == pytest.approx(0.3, rel=0.02)
    assert np.median(l1(made.targets, raw)) < 0.01


CUT = ["rounded(decimals=1)", "top_k(k=1)", "top_k(k=2)", "high_confidence(cutoff=0.9)"]


@pytest.mark.parametrize("knowledge", ["full", "family"])
@pytest.mark.parametrize("text", CUT)
def test_what_was_cut_away_is_filled_in_within_the_bounds(text, knowledge, said, learner):
    x, raw = said
    told, known = told_by(text, raw, x)
    made = recover((known if knowledge == "full" else Known(known.name),), x, told, learner)
    assert np.allclose(made.targets.sum(axis=1), 1)
    assert (made.targets >= 0).all()
    if text == "rounded(decimals=1)":
        assert np.abs(made.targets - told).max() < 0.05 + 1e-6
    else:
        kept = told > 0
        assert np.allclose(made.targets[kept], told[kept], atol=1e-6)
        # Nearer to the truth than the answers are, once these are made distributions.
        plain = np.where(told.sum(axis=1, keepdims=True) > 0, told, 0.1)
        plain = plain / plain.sum(axis=1, keepdims=True)
        assert l1(made.targets, raw).mean() < l1(plain, raw).mean()


def test_rows_of_zeros_are_not_taken_for_the_first_class(said, learner):
    x, raw = said
    told, known = told_by("high_confidence(cutoff=0.999)", raw, x)
    dark = ~told.any(axis=1)
    assert dark.sum() >= 5
    made = recover((known,), x, told, learner)
    # These are what the victim itself is least sure of; a guess among ten would be right in a tenth.
    right = made.targets[dark].argmax(axis=1) == raw[dark].argmax(axis=1)
    assert right.mean() > 0.25
    assert (made.targets[dark].argmax(axis=1) == 0).mean() < 0.3


def test_noise_is_weighed_against_what_surrogates_say(said, learner):
    x, raw = said
    told, known = told_by("gaussian_noise(scale=0.5)", raw, x)
    made = recover((known,), x, told, learner)
    truth = raw.argmax(axis=1)
    assert (made.targets.argmax(axis=1) == truth).mean() > (told.argmax(axis=1) == truth).mean()


def test_a_stack_is_undone_from_its_end(said, learner):
    x, raw = said
    first, sigmoid = told_by("reverse_sigmoid(beta=1.0, gamma=0.5)", raw, x)
    told, rounded = told_by("rounded(decimals=4)", first, x)
    made = recover((sigmoid, rounded), x, told, learner)
    assert l1(made.targets, raw).mean() < 0.5 * l1(told, raw).mean()


def test_labels_and_no_defense_are_left_as_they_are(said, learner):
    x, raw = said
    assert (recover((), x, raw, learner).targets == raw).all()
    shown = np.eye(10)[raw.argmax(axis=1)]
    assert (recover((Known("rounded"),), x, shown, learner).targets == shown).all()


def test_against_no_defense_it_is_copycat_bit_for_bit(context, digits_spec):
    from bench.runner import extraction
    from bench.tasks import Cell, ThreatModel

    pool = context.pool(digits_spec, "in-distribution", 0)
    bought = []
    for text, knowledge in (("recover", "full"), ("copycat(use_probability=true)", "none")):
        threat = ThreatModel("in-distribution", "in-distribution", knowledge, "mlp", "probabilities")
        cell = Cell(digits_spec, (), threat, attacks.canonical(text), 60, 0, 1, 0)
        bought.append(extraction.acquire(cell, attacks.build(text), pool, context).transfer_set.digest())
    assert bought[0] == bought[1]
