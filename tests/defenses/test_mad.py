"""MAD and MAD-argmax: the closed form against gradients, the search against trying all, answers."""

import itertools
import tracemalloc

import numpy as np
import pytest
import torch

from bench.plugins import defenses
from defenses.base import Batch, Calibration
from defenses.gradient_angle.angle import (
    LEAD,
    best_set,
    best_vertex,
    cosines,
    set_targets,
    towards,
    with_sole_maximum,
)
from defenses.networks import softmax

SHAPE = (1, 4, 4)


def rows_of(number, classes, seed, spread=0.3):
    return np.random.default_rng(seed).dirichlet(np.full(classes, spread), number)


def random_proxy(number, classes, seed):
    """The softmax of a network at its random initial weights: nearly even."""
    return softmax(np.random.default_rng(seed).normal(0, 0.1, (number, classes)))


def calibration(classes=4, number=60, seed=7):
    rng = np.random.default_rng(0)
    x = rng.random((number, *SHAPE), dtype=np.float32)
    y = rng.integers(0, classes, number)
    return Calibration(x, y, x, y, rows_of(number, classes, 1), seed=seed)


def fitted(text, **words):
    defense = defenses.build(text)
    defense.fit(calibration(**words))
    return defense


def batch_of(rows, seed=3):
    x = np.random.default_rng(seed).random((len(rows), *SHAPE), dtype=np.float32)
    return Batch(x, np.asarray(rows, dtype=float), np.asarray(rows, dtype=float))


# --- the closed form


@pytest.mark.parametrize("bias", [False, True])
def test_the_angle_is_that_of_the_gradients_of_the_last_layer(bias):
    torch.manual_seed(1)
    hidden = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh()).double()
    last = torch.nn.Linear(5, 4, bias=bias).double()
    x = torch.randn(8, 6, dtype=torch.float64)
    clean, answers = torch.from_numpy(rows_of(8, 4, 2)), torch.from_numpy(rows_of(8, 4, 3))
    proxy = torch.softmax(last(hidden(x)), dim=1).detach().numpy()

    def gradient(row, target):
        loss = -(target * torch.log_softmax(last(hidden(x[row : row + 1])), dim=1)[0]).sum()
        parts = torch.autograd.grad(loss, list(last.parameters()))
        flat = torch.cat([part.flatten() for part in parts])
        return flat / flat.norm()

    found = cosines(answers.numpy(), clean.numpy(), proxy)
    for row in range(8):
        apart = (gradient(row, answers[row]) - gradient(row, clean[row])).square().sum().item()
        assert 2 - 2 * found[row] == pytest.approx(apart, abs=1e-9)


def test_a_gradient_of_zero_has_no_direction():
    row = np.array([[0.25, 0.25, 0.5]])
    assert cosines(row, row, row).tolist() == [0]
    assert best_vertex(row, row).tolist() == [0]
    assert best_vertex(np.array([[0.0, 1.0]]), np.array([[0.0, 1.0]])).tolist() == [0]


# --- the search


def test_the_best_vertex_is_that_of_trying_each():
    clean, proxy = rows_of(200, 5, 4), random_proxy(200, 5, 5)
    tried = [cosines(np.tile(vertex, (200, 1)), clean, proxy) for vertex in np.eye(5)]
    assert best_vertex(clean, proxy).tolist() == np.argmin(tried, axis=0).tolist()


@pytest.mark.parametrize("classes", [2, 3, 6])
def test_the_best_set_is_that_of_trying_each(classes):
    clean, proxy = rows_of(40, classes, 6), random_proxy(40, classes, 7)
    found = best_set(clean, proxy)
    for row in range(40):
        top = clean[row].argmax()
        others = [k for k in range(classes) if k != top]
        values = {}
        for size in range(classes):
            for members in itertools.combinations(others, size):
                target = np.zeros(classes)
                target[[top, *members]] = 1 / (size + 1)
                target[top] += LEAD
                target /= target.sum()
                one = slice(row, row + 1)
                values[frozenset((top, *members))] = cosines(target[None], clean[one], proxy[one])[0]
        assert values[frozenset(np.flatnonzero(found[row]))] == pytest.approx(min(values.values()), abs=1e-12)


def test_of_many_classes_the_greedy_search_starts_at_the_label_and_stops_at_its_best():
    clean, proxy = rows_of(3, 12, 8), random_proxy(3, 12, 9)
    found = best_set(clean, proxy)
    for row in range(3):
        one = slice(row, row + 1)

        def value(members, one=one):
            inside = np.zeros((1, 12), dtype=bool)
            inside[0, list(members)] = True
            return cosines(set_targets(inside, clean[one].argmax(axis=1)), clean[one], proxy[one])[0]

        members = [clean[row].argmax()]
        path = [(value(members), list(members))]
        while len(members) < 12:
            members.append(min(set(range(12)) - set(members), key=lambda k: value([*members, k])))
            path.append((value(members), list(members)))
        assert set(np.flatnonzero(found[row])) == set(min(path)[1])


@pytest.mark.parametrize("most", [10, 1])
def test_of_sets_that_turn_the_gradient_equally_the_label_alone_is_taken(most, monkeypatch):
    """Two classes: all answers lie on a line, so that both sets are on one side of the proxy's, or on two."""
    monkeypatch.setattr("defenses.gradient_angle.angle.MOST_ENUMERATED", most)
    clean, proxy = rows_of(500, 2, 21), random_proxy(500, 2, 22)
    top = clean.argmax(axis=1)
    own, even = proxy[np.arange(500), top], (0.5 + LEAD) / (1 + LEAD)
    across = (own > even) & (clean.max(axis=1) > own)
    assert 0.3 < across.mean() < 0.7
    assert (best_set(clean, proxy).sum(axis=1) == np.where(across, 2, 1)).all()


def test_of_equally_good_sets_of_many_the_first_classes_are_taken():
    """Against an even network four of the five other classes are best, and each of them is as good."""
    row = np.full((1, 6), 0.3 / 5)
    row[0, 3] = 0.7
    found = best_set(np.repeat(row, 3, axis=0), np.full((3, 6), 1 / 6))
    assert found.tolist() == [[True, True, True, True, True, False]] * 3


def test_greedy_and_trying_all_nearly_agree_where_both_can_run(monkeypatch):
    clean, proxy = rows_of(60, 7, 10), random_proxy(60, 7, 11)
    top = clean.argmax(axis=1)
    exact = cosines(set_targets(best_set(clean, proxy), top), clean, proxy)
    monkeypatch.setattr("defenses.gradient_angle.angle.MOST_ENUMERATED", 1)
    greedy = cosines(set_targets(best_set(clean, proxy), top), clean, proxy)
    assert (greedy >= exact - 1e-12).all()
    assert (greedy - exact).mean() < 0.05


def test_ten_thousand_rows_of_ten_classes_need_little_memory():
    clean, proxy = rows_of(10_000, 10, 12), random_proxy(10_000, 10, 13)
    tracemalloc.start()
    try:
        best_set(clean, proxy)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 * 2**20


# --- the step


def test_a_step_is_as_long_as_allowed_and_ends_at_its_target():
    clean, target = np.array([[0.7, 0.2, 0.1]]), np.array([[0.0, 0.0, 1.0]])
    # Their distance is 1.8; half of it moves half way.
    np.testing.assert_allclose(towards(clean, target, 0.9), [[0.35, 0.1, 0.55]], atol=1e-15)
    np.testing.assert_array_equal(towards(clean, target, 1.9), target)
    np.testing.assert_array_equal(towards(clean, clean, 0.5), clean)


def test_a_sole_maximum_is_made_by_one_bit_and_only_where_it_is_lost():
    rows = np.array([[0.5, 0.5], [0.4, 0.6], [0.6, 0.4]])
    found = with_sole_maximum(rows, np.array([0, 0, 0]))
    assert found[2].tolist() == [0.6, 0.4]
    assert found[:2, 0].tolist() == [np.nextafter(0.5, 1), np.nextafter(0.6, 1)]


# --- the defenses


@pytest.mark.parametrize("text", ["mad", "mad_argmax"])
@pytest.mark.parametrize("proxy", ["scratch", "trained", "identity"])
@pytest.mark.parametrize("classes", [2, 4])
def test_answers_are_distributions_within_the_bound(text, proxy, classes):
    defense = fitted(f"{text}(eps=0.8, proxy={proxy})", classes=classes)
    rows = np.vstack([rows_of(50, classes, 14), np.eye(classes), np.full((1, classes), 1 / classes)])
    answers = defense.answer(batch_of(rows)).probabilities
    distance = np.abs(answers - rows).sum(axis=1)
    assert (distance <= 0.8 + 1e-12).all()
    # Of two classes, where the proxy has the label below one half, the best set is often the label alone.
    assert distance[:-1].mean() > (0.2 if (text, classes) == ("mad_argmax", 2) else 0.5)
    assert (answers >= 0).all()
    np.testing.assert_allclose(answers.sum(axis=1), 1, atol=1e-12)


def test_mad_argmax_keeps_a_sole_label_at_every_strength():
    close = np.nextafter(0.5, 1)
    rows = np.vstack([rows_of(300, 4, 15, 5.0), [[close, 1 - close, 0, 0], [0, 1 - close, 0, close]]])
    for eps in (1e-12, 0.3, 1, 2):
        defense = fitted(f"mad_argmax(eps={eps})")
        answers = defense.answer(batch_of(rows)).probabilities
        assert (answers.argmax(axis=1) == rows.argmax(axis=1)).all()
        assert ((answers == answers.max(axis=1, keepdims=True)).sum(axis=1) == 1).all()


def test_without_strength_nothing_changes_and_with_most_the_answer_is_the_target():
    rows = rows_of(30, 4, 16)
    for text in ("mad", "mad_argmax"):
        np.testing.assert_array_equal(fitted(f"{text}(eps=0)").answer(batch_of(rows)).probabilities, rows)
    answers = fitted("mad(eps=2)").answer(batch_of(rows)).probabilities
    np.testing.assert_allclose(np.sort(answers, axis=1), np.tile([0, 0, 0, 1], (30, 1)), atol=1e-12)


def test_the_identity_control_mixes_in_the_least_likely_class():
    """With G = I the angle is that between the answers: the furthest vertex is the smallest entry."""
    rows = rows_of(50, 4, 17)
    answers = fitted("mad(eps=1, proxy=identity)").answer(batch_of(rows)).probabilities
    moved = (answers - rows) > 1e-9
    assert (moved.sum(axis=1) == 1).all()
    assert (moved.argmax(axis=1) == rows.argmin(axis=1)).all()


def test_with_a_random_proxy_mad_argmax_is_label_smoothing_on_a_confident_victim():
    """The sets have 8 to 10 of 10 classes, so that the answer is nearly (1 - a) y + a / 10."""
    rng = np.random.default_rng(18)
    logits = rng.normal(size=(500, 10))
    logits[np.arange(500), rng.integers(0, 10, 500)] += 6
    clean = softmax(logits)
    clean = clean[clean.max(axis=1) >= 0.9]
    defense = fitted("mad_argmax", classes=10)
    batch = batch_of(clean)
    sets = best_set(clean, defense.proxy_rows(batch.inputs, 10))
    assert len(clean) > 300
    assert (sets.sum(axis=1) >= 8).mean() > 0.95
    answers = defense.answer(batch).probabilities
    smoothed = towards(clean, np.full(clean.shape, 0.1), 1.0)
    assert np.abs(answers - smoothed).sum(axis=1).mean() < 0.2


def test_mad_mixes_in_few_classes_where_its_proxy_is_random():
    """A random network prefers one class to the others on all inputs, and so does the defense."""
    rows = np.tile([0.97, 0.01, 0.01, 0.01], (100, 1))
    answers = fitted("mad(eps=0.5)").answer(batch_of(rows)).probabilities
    chosen = (answers - rows).argmax(axis=1)
    assert np.bincount(chosen, minlength=4).max() > 60


def test_the_proxy_is_secret_and_the_same_at_every_strength():
    rows, batch = rows_of(40, 4, 19), batch_of(rows_of(40, 4, 19))
    one, other = fitted("mad", seed=1), fitted("mad", seed=2)
    assert not np.array_equal(one.answer(batch).probabilities, other.answer(batch).probabilities)
    trained = fitted("mad(proxy=trained)", seed=1)
    assert not np.allclose(trained.proxy_rows(batch.inputs, 4), one.proxy_rows(batch.inputs, 4), atol=1e-3)
    weaker = one.at(0.25, calibration(seed=1))
    assert repr(weaker) == "mad(eps=0.25, proxy=scratch)"
    fresh = fitted("mad(eps=0.25)", seed=1)
    np.testing.assert_array_equal(weaker.answer(batch).probabilities, fresh.answer(batch).probabilities)
    assert np.abs(weaker.answer(batch).probabilities - rows).sum(axis=1).max() <= 0.25 + 1e-12


def test_a_trained_proxy_knows_the_answers_it_was_trained_on():
    defense = fitted("mad(proxy=trained)")
    data = calibration()
    trained = defense.proxy_rows(data.inputs, 4)
    scratch = fitted("mad").proxy_rows(data.inputs, 4)
    near, far = (np.abs(rows - data.probabilities).sum(axis=1).mean() for rows in (trained, scratch))
    assert near < 0.7 * far


def test_a_hundred_classes_work():
    rows = rows_of(20, 100, 20, 0.05)
    for text in ("mad", "mad_argmax"):
        defense = fitted(text, classes=100)
        answers = defense.answer(batch_of(rows)).probabilities
        assert (np.abs(answers - rows).sum(axis=1) <= 1 + 1e-12).all()
    assert (answers.argmax(axis=1) == rows.argmax(axis=1)).all()


def test_a_target_for_the_utility_loss_is_reached():
    defense = fitted("mad_argmax(l1_max=0.5)")
    assert defense.effective.eps == pytest.approx(0.5, abs=0.01)
