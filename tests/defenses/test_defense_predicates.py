"""Predicates of the shipped defenses: every answer of theirs keeps them, one that was changed breaks them."""

import numpy as np
import pytest

from bench.plugins import defenses
from defenses import predicates
from defenses.base import Answers, Batch, Claims

SHIPPED = {
    "label_only": ["label_only"],
    "rounded": [f"rounded(decimals={decimals})" for decimals in (1, 3, 8, 12, 15)],
    "top_k": ["top_k(k=1)", "top_k(k=3)", "top_k(k=10)", "top_k(k=50)"],
    "high_confidence": ["high_confidence(cutoff=0.25)", "high_confidence(cutoff=1.0)"],
    "reverse_sigmoid": ["reverse_sigmoid(beta=1.0, gamma=0.5)", "reverse_sigmoid(beta=0.001, gamma=10.0)"],
    "softmax_flattening": ["softmax_flattening", "softmax_flattening(low=0.2, high=0.2, bias=1e-9)"],
    "normalise": ["normalise"],
    "none": ["none"],
    "rate_limit": ["rate_limit(limit=3, window=7)"],
    "gaussian_noise": ["gaussian_noise(scale=0.3)"],
    "modelguard_w": ["modelguard_w", "modelguard_w(eps=0.3)", "modelguard_w(eps=2)", "modelguard_w(eps=0)"],
    "random_one_hot": ["random_one_hot", "random_one_hot(eps=0.2)", "random_one_hot(eps=0)"],
    "output_noise": ["output_noise(scale=0.3)", "output_noise(scale=5.0)"],
}


def rows(n=400):
    """Return distributions (n, 10): sure ones, unsure ones, and some that decimals or ties make special."""
    rng = np.random.default_rng(0)
    found = np.concatenate([rng.dirichlet(np.full(10, each), n // 4) for each in (0.05, 0.3, 1.0, 10.0)])
    found[0] = np.eye(10)[3]
    found[1] = 0.1
    found[2] = [0.25, 0.25, 0.5, *[0] * 7]
    found[3] = [0.15, 0.35, 0.45, 0.05, *[0] * 6]
    return found


def answered(defense, before):
    inputs = np.zeros((len(before), 1, 2, 2), dtype=np.float32)
    given = defense.answer(Batch(inputs, before.copy(), before.copy(), seed=5))
    return Answers(
        np.where(given.refused[:, None], np.nan, given.probabilities), given.refused, given.flagged
    )


def broken(predicate, before, given):
    """Return how many answers break a predicate, as the harness counts."""
    violation = predicate.violation(before, given)
    assert violation.shape == (len(before),)
    return int((~(violation <= predicate.tolerance) & ~given.refused).sum())


@pytest.mark.parametrize("text", [text for texts in SHIPPED.values() for text in texts])
def test_every_answer_of_a_shipped_defense_keeps_its_predicates(text):
    defense, before = defenses.build(text), rows()
    given = answered(defense, before)
    claimed = [*predicates.of_claims(defense.claims), *defense.predicates]
    # Answers that are tied already may stay so.
    for each in claimed:
        assert broken(each, before, given) == 0, each.text()


@pytest.mark.parametrize("text", ["rounded(decimals=1)", "top_k(k=2)", "high_confidence", "gaussian_noise"])
@pytest.mark.parametrize(
    "after",
    [
        "normalise",
        "top_k(k=3)",
        "rounded(decimals=2)",
        "label_only",
        "reverse_sigmoid",
        "modelguard_w",
        "random_one_hot",
    ],
)
def test_predicates_of_a_member_hold_whatever_the_defense_before_it_answers(text, after):
    before = answered(defenses.build(text), rows()).probabilities
    defense = defenses.build(after)
    with np.errstate(invalid="ignore"):
        given = answered(defense, before)
    measured = ~np.isnan(given.probabilities).any(axis=1)  # ART divides all-zero rows by their sum
    parts = Answers(given.probabilities[measured], given.refused[measured], given.flagged[measured])
    for each in defense.predicates:
        assert broken(each, before[measured], parts) == 0, each.text()


def leak(row, before, size):
    row = row.copy()
    row[np.argsort(before)[-2]] += size
    return row


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("label_only", 1e-9),
        ("rounded(decimals=1)", 1e-9),
        ("rounded(decimals=3)", 1e-15),
        ("top_k(k=1)", 1e-9),
        ("high_confidence(cutoff=0.9)", 1e-9),
        ("reverse_sigmoid(beta=1.0, gamma=0.5)", 1e-8),
        ("normalise", 1e-9),
        ("none", 1e-15),
        ("rate_limit(limit=3, window=7)", 1e-12),
        ("modelguard_w", 1e-8),
        ("random_one_hot", 1e-9),
    ],
)
def test_a_leak_in_one_answer_is_seen(text, size):
    defense, before = defenses.build(text), rows()
    given = answered(defense, before)
    given.probabilities[98] = leak(given.probabilities[98], before[98], size)
    assert any(broken(each, before, given) for each in defense.predicates)


@pytest.mark.parametrize(
    ("claimed", "actual"),
    [
        ("reverse_sigmoid(beta=1.0, gamma=0.5)", "reverse_sigmoid(beta=0.99, gamma=0.5)"),
        ("reverse_sigmoid(beta=1.0, gamma=0.5)", "reverse_sigmoid(beta=1.0, gamma=0.49)"),
        ("rounded(decimals=1)", "rounded(decimals=2)"),
        ("top_k(k=3)", "top_k(k=4)"),
        ("high_confidence(cutoff=0.5)", "high_confidence(cutoff=0.45)"),
        ("softmax_flattening(bias=0.005)", "softmax_flattening(bias=0.02)"),
        ("softmax_flattening", "softmax_flattening(low=0.01)"),
        ("label_only", "none"),
        ("modelguard_w", "modelguard_w(eps=0.98)"),
        ("modelguard_w(eps=0.5)", "modelguard_w(eps=0.51)"),
        ("modelguard_w(eps=0.5)", "label_only"),
        ("random_one_hot", "random_one_hot(eps=0.99)"),
    ],
)
def test_a_weaker_setting_than_the_one_that_is_claimed_is_seen(claimed, actual):
    before = rows()
    given = answered(defenses.build(actual), before)
    assert any(broken(each, before, given) > 10 for each in defenses.build(claimed).predicates)


def test_names_hold_the_parameters_and_leave_out_one_that_is_searched():
    (only,) = defenses.build("reverse_sigmoid(beta=2.0, gamma=0.5)").predicates
    assert only.text() == "the formula with beta=2, gamma=0.5"
    assert only.text(without="beta") == "the formula with beta=(beta), gamma=0.5"


@pytest.mark.parametrize("wrong", ["top", "tie", "negative", "above", "sum", "label", "rejected", "flagged"])
def test_each_claim_is_a_predicate_that_a_single_answer_can_break(wrong):
    before = rows()[8:]
    given = Answers.of(before.copy())
    row = given.probabilities[7]
    if wrong == "top":
        row[:] = row[::-1].copy()
    elif wrong == "tie":
        row[np.argsort(row)[-2]] = row.max()
    elif wrong == "negative":
        row[row.argmin()] = -1e-300
    elif wrong == "above":
        row[row.argmax()] = 1.00001
    elif wrong == "sum":
        row[row.argmin()] += 1e-5
    elif wrong == "rejected":
        given.refused[7] = True
    elif wrong == "flagged":
        given.flagged[7] = True
    claims = Claims(one_hot=wrong == "label")
    found = [each for each in predicates.of_claims(claims) if broken_or_marked(each, before, given)]
    assert found
    intact = Answers.of(before.copy())
    assert not [each for each in predicates.of_claims(Claims()) if broken_or_marked(each, before, intact)]


def broken_or_marked(predicate, before, given):
    violation = np.nan_to_num(predicate.violation(before, given))
    return bool((violation > predicate.tolerance).any())


def test_log_odds_in_single_precision_keep_a_stated_temperature_and_no_other():
    before = rows()[8:]
    logs = np.log(np.maximum(before, 1e-30)).astype(np.float32)

    def softened(temperature):
        scaled = np.exp((logs - logs.max(axis=1, keepdims=True)) / np.float32(temperature))
        return Answers.of((scaled / scaled.sum(axis=1, keepdims=True)).astype(np.float64))

    claimed = predicates.log_odds(1 / 2)
    assert claimed.text() == "log-odds 0.5 times the victim's"
    assert broken(claimed, before, softened(2)) == 0
    for other in (1.0, 1.9, 2.01, 4.0):
        assert broken(claimed, before, softened(other)) > 0.9 * len(before)
    assert broken(claimed, before, Answers.of(np.eye(10)[before.argmax(axis=1)])) > 0.5 * len(before)
