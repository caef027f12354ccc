"""Metrics of two classes and of groups, against cases counted by hand and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kendalltau
from sklearn.metrics import f1_score

from bench.inputs import Column, InputSpace
from bench.metrics.extraction import extraction, macro_f1
from bench.metrics.groups import SMALLEST, groups_of, more_lost
from bench.metrics.two_classes import area_under_roc, average_precision, likeness, log_odds

SPACE = InputSpace.of_columns([Column.of_categories("sex", ("F.", "M")), Column("age", "integer", 0, 9)])


def pair(second):
    second = np.asarray(second, dtype=float)
    return np.column_stack([1 - second, second])


def test_a_surrogate_that_only_rescales_the_log_odds_has_the_victims_ranking():
    victim = pair(np.random.default_rng(0).beta(0.3, 2, 500))
    surrogate = pair(1 / (1 + np.exp(-(0.2 * log_odds(victim) - 3))))  # never says the second class
    found = likeness(surrogate, victim)
    assert found == pytest.approx({"extraction.auc": 1.0, "extraction.spearman": 1.0})
    assert extraction(surrogate, victim, victim.argmax(1), victim)["extraction.macro_f1"] < 0.5


def test_auc_counts_pairs_and_ties_half():
    label, score = np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.4, 0.8])
    assert area_under_roc(label, score) == pytest.approx(3.5 / 4)
    assert average_precision(label, score) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


def test_what_one_label_alone_cannot_show_is_none():
    assert area_under_roc(np.zeros(3, int), np.arange(3.0)) is None
    assert average_precision(np.ones(3, int), np.arange(3.0)) is None
    assert likeness(pair([0.2, 0.3]), pair([0.1, 0.1])) == {
        "extraction.auc": None,
        "extraction.spearman": None,
    }


def test_spearman_has_the_sign_of_kendall_and_nothing_is_said_of_more_classes():
    rng = np.random.default_rng(1)
    one, other = rng.random(80), rng.random(80)
    found = likeness(pair(one), pair(0.5 * one + 0.5 * other))["extraction.spearman"]
    assert found > 0
    assert kendalltau(one, 0.5 * one + 0.5 * other).statistic > 0
    assert likeness(np.full((4, 3), 1 / 3), np.full((4, 3), 1 / 3)) == {}


def test_macro_f1_is_scikit_learns():
    rng = np.random.default_rng(2)
    label, guess = rng.integers(3, size=90), rng.integers(3, size=90)
    assert macro_f1(label, guess, 5) == pytest.approx(f1_score(label, guess, average="macro"))


def test_groups_are_named_by_column_and_value_without_dots():
    x = np.zeros((3 * SMALLEST, 2), np.float32)
    x[:SMALLEST, 0] = 1
    x[:3, 1] = 5
    found = groups_of(x, SPACE, ["sex", "age"])
    assert set(found) == {"sex=F_", "sex=M"}
    assert found["sex=M"].sum() == SMALLEST


def test_a_group_that_loses_more_has_an_interval_above_zero_and_one_that_does_not_has_none():
    rng = np.random.default_rng(3)
    before, group = np.ones((2, 1_000)), np.arange(1_000) < 300
    hit = before * np.where(group, rng.random(1_000) > 0.2, rng.random(1_000) > 0.02)
    found = more_lost(before, hit, group, 2)
    assert 0.05 < found.low < found.value < found.high < 0.3
    same = more_lost(before, before * (rng.random(1_000) > 0.1), group, 2)
    assert same.low < 0 < same.high
