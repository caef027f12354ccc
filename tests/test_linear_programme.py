"""The solver of the programmes behind the answers: against SciPy's, by hand, and at its limits."""

import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.sparse import csr_matrix

from bench.linear_programme import BLOCK, MARGIN, cheapest

SOLVER = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}


def least(clean, costs, eps, *, keep_label):
    """Return the least cost by HiGHS; variables: the answer, and each entry's distance from the clean one."""
    classes, top = len(clean), clean.argmax()
    one, none = np.eye(classes), np.zeros((classes, classes))
    blocks = [np.hstack([one, -one]), np.hstack([-one, -one]), np.hstack([none[:1], np.ones((1, classes))])]
    limits = [clean, -clean, [eps]]
    if keep_label:
        leads = np.delete(one, top, axis=0)
        leads[:, top] = -1
        blocks.append(np.hstack([leads, none[1:]]))
        limits.append(np.full(classes - 1, -MARGIN))
    solved = linprog(
        np.concatenate([costs, np.zeros(classes)]),
        A_ub=csr_matrix(np.vstack(blocks)),
        b_ub=np.concatenate(limits),
        A_eq=np.concatenate([np.ones(classes), np.zeros(classes)])[None],
        b_eq=[clean.sum()],
        method="highs",
        options=SOLVER,
    )
    assert solved.status == 0, solved.message
    return solved.fun


def programme(number):
    """Return a random clean row, costs and a bound: 2 to 100 classes; zeros, ones and ties in some."""
    rng = np.random.default_rng(number)
    classes = int(rng.integers(2, 101)) if number % 2 else int(rng.integers(2, 12))
    clean = rng.dirichlet(np.full(classes, rng.uniform(0.05, 3)))
    match number % 5:
        case 1:
            clean = np.where(clean < 0.02, 0, clean)
        case 2:
            clean = np.round(clean * 8)
        case 3 if number % 3:
            clean = np.eye(classes)[rng.integers(classes)]
        case 3:
            clean = np.ones(classes)
    clean = clean / clean.sum() if clean.sum() else np.full(classes, 1 / classes)
    costs = np.log(clean + 1e-6) if rng.random() < 0.5 else rng.normal(size=classes)
    return clean, costs, rng.uniform(0.01, 2)


@pytest.mark.parametrize(
    "numbers", [range(200), pytest.param(range(200, 1000), marks=pytest.mark.slow)], ids=["200", "1000"]
)
@pytest.mark.parametrize("keep_label", [True, False])
def test_random_programmes_cost_as_much_as_scipys_optimum(numbers, keep_label):
    for number in numbers:
        clean, costs, eps = programme(number)
        answer = cheapest(clean[None], costs[None], eps, keep_label=keep_label)[0]
        assert abs(costs @ answer - least(clean, costs, eps, keep_label=keep_label)) < 1e-7, number
        assert (answer >= 0).all()
        assert (answer <= 1 + 1e-15).all()
        assert abs(answer.sum() - 1) < 1e-12
        assert np.abs(answer - clean).sum() <= eps, "also after rounding"
        if keep_label:
            top = clean.argmax()
            assert (answer[top] - np.delete(answer, top) >= MARGIN).all(), "also after rounding"


def solved(clean, eps, *, keep_label=True, costs=None):
    clean = np.array(clean, dtype=float)
    costs = np.log(clean + 1e-6) if costs is None else np.array(costs, dtype=float)
    return cheapest(clean[None], costs[None], eps, keep_label=keep_label)[0]


def test_the_top_pays_and_the_cheapest_class_receives_up_to_the_margin():
    """.5 of mass may move: .4899 to the first of equally cheap classes, up to its cap, .0101 to the next."""
    answer = solved([0.991, *[0.001] * 9], 1.0)
    np.testing.assert_allclose(answer, [0.491, 0.4909, 0.0111, *[0.001] * 7], atol=1e-9)


def test_dearest_class_pays_first_without_the_label():
    """Mass .2 moves: .15 from the class of cost 3, .05 from that of cost 2, all of it to that of cost 0."""
    answer = solved([0.5, 0.15, 0.25, 0.1], 0.4, keep_label=False, costs=[2, 3, 0, 1])
    np.testing.assert_allclose(answer, [0.45, 0, 0.45, 0.1], atol=1e-12)


def test_a_receiver_takes_no_more_than_one():
    np.testing.assert_allclose(solved([0.7, 0.3], 2.0, keep_label=False, costs=[1, 0]), [0, 1], atol=1e-12)


def test_two_classes():
    """.2 may move; then .3 is more than may move while the label is kept, so the margin decides."""
    np.testing.assert_allclose(solved([0.9, 0.1], 0.4), [0.7, 0.3], atol=1e-9)
    np.testing.assert_allclose(solved([0.7, 0.3], 1.0), [0.50005, 0.49995], atol=1e-9)


def test_the_top_rises_where_that_is_cheapest():
    np.testing.assert_allclose(solved([0.5, 0.3, 0.2], 0.2, costs=[0, 1, 2]), [0.6, 0.3, 0.1], atol=1e-9)


def test_of_equal_costs_the_first_class_receives_first_and_pays_last():
    answer = solved([0.4, 0.2, 0.2, 0.1, 0.1], 0.2, keep_label=False, costs=[0, 5, 5, -5, -5])
    np.testing.assert_allclose(answer, [0.4, 0.2, 0.1, 0.2, 0.1], atol=1e-12)


@pytest.mark.parametrize("keep_label", [True, False])
def test_nothing_moves_where_it_gains_nothing(keep_label):
    clean = [0.4, 0.3, 0.2, 0.1]
    assert (solved(clean, 1.0, keep_label=keep_label, costs=[7] * 4) == clean).all()
    if not keep_label:
        assert (solved([0, 1, 0], 1.0, keep_label=False, costs=[1, 0, 1]) == [0, 1, 0]).all()


def test_a_tied_clean_row_is_resolved_for_its_first_maximum():
    answer = solved([0.1, 0.45, 0.45], 0.5)
    assert answer.argmax() == 1
    assert answer[1] - answer[2] >= MARGIN


def test_a_lead_that_the_bound_cannot_buy_leaves_the_row_as_it_is():
    """A lead of 1e-4 takes a move of .5e-4 between two tied classes: L1 of 1e-4."""
    tied = [0.5, 0.5, 0]
    assert (solved(tied, 0.99e-4) == tied).all()
    assert solved(tied, 1.01e-4)[0] - solved(tied, 1.01e-4)[1] >= MARGIN


@pytest.mark.parametrize("keep_label", [True, False])
def test_a_bound_of_zero_changes_no_bit(keep_label):
    rows = np.random.default_rng(0).dirichlet([0.3] * 7, size=50)
    assert (cheapest(rows, np.log(rows), 0.0, keep_label=keep_label) == rows).all()


@pytest.mark.parametrize("keep_label", [True, False])
def test_rows_that_are_no_distribution_keep_their_sum_the_bound_and_the_label(keep_label):
    """As other defenses answer: rounded, cut off, with noise below 0 and above 1, nothing, rejected."""
    rng = np.random.default_rng(1)
    rows = rng.dirichlet([0.2] * 6, size=60)
    rows = np.concatenate(
        [
            rows.round(1),
            rows * 0.4,
            rows + rng.normal(0, 0.1, rows.shape),
            np.zeros((1, 6)),
            np.full((1, 6), np.nan),
        ]
    )
    costs = np.log(np.maximum(rows, 0) + 1e-6)
    answers = cheapest(rows, costs, 0.6, keep_label=keep_label)
    assert np.isnan(answers[-1]).all()
    rows, answers = rows[:-1], answers[:-1]
    assert (answers >= np.minimum(rows, 0)).all()
    assert (answers <= np.maximum(rows, 1)).all()
    np.testing.assert_allclose(answers.sum(axis=1), rows.sum(axis=1), atol=1e-12)
    assert (np.abs(answers - rows).sum(axis=1) <= 0.6).all()
    if keep_label:
        assert (answers.argmax(axis=1) == rows.argmax(axis=1)).all()


@pytest.mark.parametrize("unit", [1e-9, 1e6])
def test_the_unit_and_the_zero_of_the_costs_do_not_matter(unit):
    rng = np.random.default_rng(4)
    rows, costs = rng.dirichlet([0.3] * 10, size=100), rng.normal(size=(100, 10))
    for keep_label in (True, False):
        one = cheapest(rows, costs, 0.7, keep_label=keep_label)
        other = cheapest(rows, unit * (costs + 3), 0.7, keep_label=keep_label)
        np.testing.assert_allclose(other, one, atol=1e-9)


@pytest.mark.parametrize("keep_label", [True, False])
@pytest.mark.parametrize("classes", [2, 9, 10, 100])
def test_a_row_is_solved_to_the_same_bits_in_any_company(classes, keep_label):
    rng = np.random.default_rng(2)
    rows = rng.dirichlet([0.3] * classes, size=BLOCK + 40)
    costs = np.where(rows < 0.5, np.log(rows + 1e-6), rng.normal(size=rows.shape))
    together = cheapest(rows, costs, 0.8, keep_label=keep_label)
    for row in (*range(20), BLOCK - 1, BLOCK, BLOCK + 39):
        alone = cheapest(rows[[row]], costs[[row]], 0.8, keep_label=keep_label)
        assert alone.tobytes() == together[row].tobytes()


def test_nothing_given_is_changed():
    rows = np.random.default_rng(3).dirichlet([0.3] * 5, size=20)
    costs = np.log(rows + 1e-6)
    copies = rows.copy(), costs.copy()
    cheapest(rows, costs, 1.0, keep_label=True)
    assert (rows == copies[0]).all()
    assert (costs == copies[1]).all()
