"""Attacks that solve for what a victim of a table is: the leaves of a tree, the weights of a linear model."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier

from attacks.base import Pool, RandomSeeds, Target
from attacks.equation_solving import EquationSolving
from attacks.line_search import LineSearch
from attacks.path_finding import PathFinding
from bench.encoding import Encoding
from bench.inputs import Column, InputSpace

SEEDS = RandomSeeds(order=1, choices=2)
COLUMNS = (
    Column("age", "integer", 17, 90),
    Column.of_categories("work", ("none", "private", "state", "own"), missing=True),
    Column("income", "integer", 0, 100_000),
    Column("score", "number", -1.0, 3.0),
    Column("married", "boolean", 0, 1),
)
SPACE = InputSpace.of_columns(COLUMNS)


def rows(number, seed, space=SPACE):
    """Return inputs of the space, some values missing where they may be."""
    rng = np.random.default_rng(seed)
    x = space.uniform(number, rng)
    x[(rng.random(x.shape) < 0.1) & space.missing] = np.nan
    return x


@dataclass
class Api:
    """A model of encoded rows with a budget; ``show``: what it shows of its answers."""

    model: object
    budget: int
    encoding: Encoding
    show: object = staticmethod(lambda answers: answers)
    nb_classes: int = 2
    known: object = None
    sent: list = field(default_factory=list)

    @property
    def inputs(self):
        return self.encoding.space

    def predict(self, x, batch_size=256, client="attacker"):
        assert self.inputs.problem(x) == ""
        self.sent += [row.tobytes() for row in x]
        assert len(self.sent) <= self.budget
        return self.show(self.model.predict_proba(self.encoding.flat(x)))


def victim(model, space=SPACE, seed=0, rule=None):
    """Return a fitted model and the encoding of its inputs."""
    x = rows(600, seed, space)
    encoding = Encoding.fit(space, x)
    flat = encoding.flat(x)
    rng = np.random.default_rng(seed + 1)
    score = flat @ rng.normal(size=flat.shape[1]) if rule is None else rule(x)
    return model.fit(flat, (score > np.median(score)).astype(int)), encoding


def pool(seed=5, number=400, space=SPACE):
    return Pool("pool", rows(number, seed, space), np.zeros(number, np.int64), "none", same_classes=False)


def labels(answers):
    return np.eye(answers.shape[1])[answers.argmax(axis=1)]


def answered(model, encoding, x):
    return model.predict_proba(encoding.flat(x))


def steal(attack, model, encoding, budget, show=lambda answers: answers, source=None):
    api = Api(model, budget, encoding, show)
    found = attack.acquire(api, source or pool(space=encoding.space), None, SEEDS)
    assert len(api.sent) == budget
    return found, api


def tree(leaves=12):
    """Return a tree whose leaves all have answers of their own."""
    model, encoding = victim(
        DecisionTreeClassifier(max_leaf_nodes=leaves, min_samples_leaf=9, random_state=0)
    )
    ends = np.flatnonzero(model.tree_.children_left < 0)
    model.tree_.value[ends, 0, 0] = np.linspace(0.05, 0.95, len(ends))
    model.tree_.value[ends, 0, 1] = 1 - model.tree_.value[ends, 0, 0]
    return model, encoding


class TestPathFinding:
    def test_a_tree_whose_leaves_have_answers_of_their_own_is_found_exactly(self):
        model, encoding = tree()
        found, _ = steal(PathFinding(), model, encoding, 2_000)
        fresh = rows(3_000, 9)
        np.testing.assert_allclose(found.surrogate(fresh), answered(model, encoding, fresh), atol=2e-3)
        assert found.facts["leaves"] == model.get_n_leaves()

    def test_a_larger_budget_starts_with_the_queries_of_a_smaller_one(self):
        model, encoding = tree()
        _, small = steal(PathFinding(), model, encoding, 150)
        _, large = steal(PathFinding(), model, encoding, 400)
        assert large.sent[:150] == small.sent

    @pytest.mark.parametrize("show", [labels, lambda answers: answers + np.random.default_rng(0).normal()])
    def test_where_answers_name_no_leaves_it_is_no_worse_than_a_tree_on_random_inputs(self, show):
        model, encoding = tree()
        found, _ = steal(PathFinding(), model, encoding, 600, show)
        fresh = rows(2_000, 9)
        agrees = found.surrogate(fresh).argmax(1) == answered(model, encoding, fresh).argmax(1)
        assert agrees.mean() > 0.75

    def test_an_api_that_rejects_everything_leaves_a_uniform_surrogate(self):
        model, encoding = tree()
        found, _ = steal(PathFinding(), model, encoding, 100, lambda answers: np.full_like(answers, np.nan))
        assert len(found.x) == 0
        np.testing.assert_array_equal(found.surrogate(rows(3, 1)), np.full((3, 2), 0.5))

    def test_it_says_where_it_does_not_apply(self):
        assert "no decision tree" in PathFinding().applicable(pool(), Target(2, False, SPACE, tree=False))
        assert PathFinding().applicable(pool(), Target(2, False, SPACE, tree=True)) == ""
        assert PathFinding().applicable(pool(), Target(2, None, SPACE)) == ""

    @settings(deadline=None, max_examples=25)
    @given(
        seed=st.integers(0, 99),
        kinds=st.lists(st.sampled_from(["integer", "number", "boolean", "category"]), min_size=1, max_size=4),
        budget=st.integers(0, 300),
    )
    def test_any_table_is_queried_within_its_space_and_budget(self, seed, kinds, budget):
        space = InputSpace.of_columns(
            [
                Column.of_categories(f"c{place}", ("a", "b", "c"), missing=True)
                if kind == "category"
                else Column(f"c{place}", kind, 0, 1 if kind == "boolean" else 7, missing=place % 2 == 1)
                for place, kind in enumerate(kinds)
            ]
        )
        model, encoding = victim(DecisionTreeClassifier(max_leaf_nodes=5, random_state=0), space, seed)
        if len(model.classes_) < 2:
            return
        found, _ = steal(PathFinding(), model, encoding, budget)
        given_back = found.surrogate(rows(20, seed, space))
        assert given_back.shape == (20, 2)
        np.testing.assert_allclose(given_back.sum(axis=1), 1)


class TestLinear:
    def test_exact_answers_give_the_weights_of_a_logistic_regression_on_encoded_columns(self):
        model, encoding = victim(LogisticRegression(max_iter=500))
        found, _ = steal(EquationSolving(), model, encoding, 60)
        fresh = rows(500, 9)
        np.testing.assert_allclose(found.surrogate(fresh), answered(model, encoding, fresh), atol=1e-4)
        assert found.facts["queries_needed"] < 30

    def test_a_value_that_comes_last_does_not_make_exact_answers_inexact(self):
        model, encoding = victim(LogisticRegression(max_iter=500))
        x = rows(60, 5)
        rare = x[:, 1] == 3
        common, last = x[~rare & ~np.isnan(x[:, 1])], x[rare][:1]
        order = np.random.RandomState(SEEDS.order).permutation(len(common) + 1)
        arranged = np.empty((len(common) + 1, 5), np.float32)
        arranged[order] = np.concatenate([common, last])
        source = Pool("pool", arranged, np.zeros(len(arranged), np.int64), "none", same_classes=False)
        found, _ = steal(EquationSolving(), model, encoding, len(arranged), source=source)
        assert found.facts["queries_needed"] is None
        np.testing.assert_allclose(found.surrogate(last), answered(model, encoding, last), atol=1e-4)
        np.testing.assert_allclose(found.surrogate(common), answered(model, encoding, common), atol=1e-4)

    def test_labels_alone_give_the_boundary_of_a_linear_victim(self):
        model, encoding = victim(LogisticRegression(max_iter=500), rule=lambda x: x[:, 2] + 400 * x[:, 0])
        found, _ = steal(LineSearch(), model, encoding, 1_500, labels)
        fresh = rows(3_000, 9)
        agrees = found.surrogate(fresh).argmax(1) == answered(model, encoding, fresh).argmax(1)
        assert found.facts["equations"] > 30
        assert agrees.mean() > 0.995

    def test_more_lines_begin_with_the_queries_of_fewer(self):
        model, encoding = victim(LogisticRegression(max_iter=500))
        _, small = steal(LineSearch(), model, encoding, 90, labels)
        _, large = steal(LineSearch(), model, encoding, 333, labels)
        assert large.sent[:90] == small.sent

    def test_line_search_says_where_it_does_not_apply(self):
        applicable = LineSearch().applicable
        assert "not linear" in applicable(pool(), Target(2, False, SPACE))
        assert "a table" in applicable(pool(), Target(2, True, None))
        assert "3 classes" in applicable(pool(), Target(3, True, SPACE))
        assert applicable(pool(), Target(2, None, SPACE)) == ""
