"""ModelGuard: what its answers are, by hand and by plain loops, on confident and unsure victims."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

from bench.errors import UsageError
from bench.linear_programme import MARGIN
from bench.plugins import defenses
from defenses.base import Batch, Calibration, DefenseStack

INPUTS = np.zeros((1, 1, 2, 2), dtype=np.float32)


def synthetic(number, classes=10, lead=5.0, seed=0):
    """Return answers of a victim: softmax of normal logits, one raised by ``lead`` (5: mean top-1 of .8)."""
    rng = np.random.default_rng(seed)
    logits = 1.5 * rng.normal(size=(number, classes))
    logits[np.arange(number), rng.integers(classes, size=number)] += lead
    rows = np.exp(logits - logits.max(axis=1, keepdims=True))
    return rows / rows.sum(axis=1, keepdims=True)


def batch_of(rows):
    rows = np.array(rows, dtype=np.float64)
    return Batch(np.repeat(INPUTS, len(rows), axis=0), rows, rows.copy())


def calibration(rows, seed=0):
    labels = rows.argmax(axis=1)
    inputs = np.repeat(INPUTS, len(rows), axis=0)
    return Calibration(inputs, labels, inputs, labels, rows, seed=seed)


def answers(text, rows, split=None, seed=0):
    defense = defenses.build(text)
    defense.fit(calibration(synthetic(300) if split is None else split, seed))
    return defense.answer(batch_of(rows)).probabilities


def l1(one, other):
    return np.abs(one - other).sum(axis=1)


# --- ModelGuard-W


def test_on_a_confident_victim_the_top_and_the_least_likely_class_share_half_each():
    row = [0.95, 0.03, 0.01, 0.006, 0.004]
    np.testing.assert_allclose(
        answers("modelguard_w", [row]),
        [[0.45, 0.03, 0.01, 0.0601, 0.4499]],  # .4459 up to the cap of the last, .0541 to the next
        atol=1e-9,
    )
    rows = synthetic(200, lead=9.0)
    given = answers("modelguard_w", rows)
    sure = rows.max(axis=1) > 0.98
    assert sure.mean() > 0.8
    ordered = np.argsort(-given, axis=1)
    assert (ordered[sure, 0] == rows[sure].argmax(axis=1)).all()
    assert (ordered[sure, 1] == rows[sure].argmin(axis=1)).all()
    assert np.abs(np.sort(given[sure], axis=1)[:, -2:] - 0.5).max() < 0.021


def test_of_classes_with_probability_zero_the_first_receives():
    np.testing.assert_allclose(
        answers("modelguard_w(eps=0.5)", [[0, 0, 1, 0]]), [[0.25, 0, 0.75, 0]], atol=1e-9
    )


def test_with_two_classes_the_order_of_unsure_answers_is_lost():
    """With eps of 1, everything with a top-1 of at most .75 (and above) becomes the same answer."""
    rows = [[0.75, 0.25], [0.6, 0.4], [0.51, 0.49]]
    np.testing.assert_allclose(answers("modelguard_w", rows), [[0.50005, 0.49995]] * 3, atol=1e-9)


@pytest.mark.parametrize("classes", [2, 100])
@pytest.mark.parametrize("eps", [0.1, 1.0, 2.0])
def test_quantised_answers_keep_the_bound_the_label_and_the_sum(classes, eps):
    split = np.concatenate([synthetic(200, classes, lead) for lead in (0.5, 5.0)])
    rows = np.concatenate([synthetic(60, classes, lead, seed=1) for lead in (0.5, 5.0, 12.0)])
    rows = np.concatenate([rows, np.eye(classes)[:1], np.full((1, classes), 1 / classes)])
    given = answers(f"modelguard_s(eps={eps})", rows, split)
    assert (l1(given, rows) <= eps + 1e-12).all()
    assert (given.argmax(axis=1) == rows.argmax(axis=1)).all()
    assert (np.count_nonzero(given == given.max(axis=1, keepdims=True), axis=1) == 1).all()
    np.testing.assert_allclose(given.sum(axis=1), 1, atol=1e-12)


@pytest.mark.parametrize("classes", [2, 10, 100])
@pytest.mark.parametrize("eps", [0.1, 1.0, 2.0])
def test_the_bound_the_label_and_the_margin_hold(classes, eps):
    rows = np.concatenate([synthetic(60, classes, lead) for lead in (0.5, 5.0, 12.0)])
    rows = np.concatenate([rows, np.eye(classes)[:1], np.full((1, classes), 1 / classes)])
    given = answers(f"modelguard_w(eps={eps})", rows)
    assert (l1(given, rows) <= eps).all()
    top = rows.argmax(axis=1)
    assert (given.argmax(axis=1) == top).all()
    ordered = np.sort(given, axis=1)
    assert (ordered[:, -1] - ordered[:, -2] >= MARGIN).all()
    np.testing.assert_allclose(given.sum(axis=1), 1, atol=1e-12)


def test_the_whole_bound_is_spent_on_confident_answers():
    rows = synthetic(100, lead=9.0)
    for eps in (0.2, 1.0):
        np.testing.assert_allclose(l1(answers(f"modelguard_w(eps={eps})", rows), rows), eps, atol=1e-9)


@pytest.mark.parametrize(
    "first", ["rounded(decimals=1)", "top_k(k=1)", "high_confidence(cutoff=0.9)", "gaussian_noise(scale=0.1)"]
)
@pytest.mark.parametrize("name", ["modelguard_w", "modelguard_s"])
def test_behind_another_defense_the_bound_and_the_label_hold_of_that_ones_answers(first, name):
    before = defenses.build(first)
    raw = synthetic(120, lead=4.0)
    rows = before.answer(batch_of(raw)).probabilities
    defense = defenses.build(f"{name}(eps=0.5)")
    defense.fit(calibration(synthetic(300)))
    given = defense.answer(replace(batch_of(raw), probabilities=rows)).probabilities
    assert (l1(given, rows) <= 0.5 + 1e-12).all()
    assert (given.argmax(axis=1) == rows.argmax(axis=1)).all()
    if name == "modelguard_w":
        np.testing.assert_allclose(given.sum(axis=1), rows.sum(axis=1), atol=1e-12)


def test_it_takes_part_in_a_stack():
    stack = DefenseStack((defenses.build("modelguard_w"), defenses.build("rounded(decimals=1)")))
    given = stack.answer(batch_of([[0.97, 0.02, 0.01]])).probabilities
    np.testing.assert_allclose(given, [[0.5, 0.1, 0.5]], atol=1e-12)
    assert stack.claims.ties


def test_single_precision_answers_keep_their_sum():
    rows = synthetic(50).astype(np.float32).astype(np.float64)
    given = answers("modelguard_w", rows)
    np.testing.assert_allclose(given.sum(axis=1), rows.sum(axis=1), atol=1e-13)


@pytest.mark.parametrize("name", ["modelguard_w", "modelguard_s"])
@pytest.mark.parametrize("bound", [0.2, 0.6])
def test_a_bound_of_the_largest_l1_finds_eps(name, bound):
    defense = defenses.build(f"{name}(l1_max={bound})")
    defense.fit(calibration(synthetic(300, lead=7.0)))
    assert bound * 0.98 <= defense.effective.eps <= bound * 1.01
    new = synthetic(400, lead=7.0, seed=8)
    assert l1(defense.answer(batch_of(new)).probabilities, new).max() <= bound * 1.01


def test_a_mean_l1_is_that_of_answers_that_are_not_in_the_codebook():
    defense = defenses.build("modelguard_s(l1=0.1)")
    split, new = synthetic(300, lead=7.0), synthetic(2_000, lead=7.0, seed=8)
    defense.fit(calibration(split))
    of_split, of_new = (
        l1(defense.answer(batch_of(rows)).probabilities, rows).mean() for rows in (split, new)
    )
    assert of_new == pytest.approx(0.1, rel=0.15)
    assert of_split < 0.8 * of_new


@pytest.mark.parametrize("name", ["modelguard_w", "modelguard_s", "grad_redirection", "random_one_hot"])
@pytest.mark.parametrize("eps", ["-0.1", "2.1", "nan", "much"])
def test_eps_outside_its_range_is_refused_in_a_sentence(name, eps):
    with pytest.raises(UsageError, match="eps"):
        defenses.build(f"{name}(eps={eps})")


# --- ModelGuard-S


def online_pass(rows, eps):
    """Return the centroids of the authors' ordered quantisation, row by row, and which rows became one."""
    centroids, opened = {}, []
    for row in rows:
        own = centroids.setdefault(int(np.argmax(row)), [])
        opened.append(not any(sum(abs(row - each)) <= eps for each in own))
        if opened[-1]:
            own.append(row)
    return centroids, opened


@pytest.mark.parametrize("eps", [0.2, 0.7, 1.2])
def test_the_codebook_is_that_of_the_ordered_pass(eps):
    split, new = synthetic(250, 4, 2.0), synthetic(80, 4, 2.0, seed=1)
    defense = defenses.build(f"modelguard_s(eps={eps})")
    defense.fit(calibration(split, seed=3))
    order = np.random.default_rng(3).permutation(250)
    centroids, opened = online_pass(split[order], eps)
    for label in range(4):
        assert (defense.centroids_[label] == np.array(centroids[label])).all()
    assert defense.uncovered_ == np.mean(opened[125:])
    for row, given in zip(new, defense.answer(batch_of(new)).probabilities, strict=True):
        own = centroids[int(np.argmax(row))]
        covering = [each for each in own if sum(abs(row - each)) <= eps]
        if covering:
            assert (given == covering[0]).all()
        else:
            nearest = min(own, key=lambda each: sum(abs(row - each)))
            np.testing.assert_allclose(
                given, row + eps * (nearest - row) / sum(abs(nearest - row)), atol=1e-12
            )


def test_the_first_centroid_within_the_bound_answers_not_the_nearest():
    defense = defenses.build("modelguard_s(eps=0.5)")
    defense.fit(calibration(np.eye(2)))
    defense.centroids_[0] = np.array([[1.0, 0.0], [0.7, 0.3]])
    given = defense.answer(batch_of([[0.76, 0.24], [0.7, 0.3]])).probabilities
    assert (given == [[1.0, 0.0], [0.7, 0.3]]).all()


def test_an_answer_that_no_centroid_covers_moves_by_the_bound_towards_the_nearest():
    split = np.array([[0.9, 0.1, 0.0]])
    given = answers("modelguard_s(eps=0.2)", [[0.5, 0.3, 0.2]], split)
    np.testing.assert_allclose(given, [[0.6, 0.25, 0.15]], atol=1e-12)


def test_a_class_that_is_not_in_the_calibration_split_moves_towards_its_label():
    split = np.array([[0.9, 0.1, 0.0]])
    rows = [[0.1, 0.9, 0.0], [0.2, 0.4, 0.4]]
    given = answers("modelguard_s(eps=0.3)", rows, split)
    np.testing.assert_allclose(given, [[0, 1, 0], [0.15, 0.55, 0.3]], atol=1e-12)


def test_a_tied_calibration_answer_becomes_no_centroid():
    """Or it would tie answers that were not."""
    split = np.array([[0.5, 0.5], [0.5, 0.5], [0.4, 0.6]])
    given = answers("modelguard_s(eps=0.4)", [[0.6, 0.4]], split)
    np.testing.assert_allclose(given, [[0.8, 0.2]], atol=1e-12)


def test_few_centroids_are_left_at_a_bound_of_one():
    """On synthetic victims, 4 to 5 a class at eps of 1 and dozens at .5: little but the label is told."""
    counts = {}
    for eps in (0.5, 1.0):
        defense = defenses.build(f"modelguard_s(eps={eps})")
        defense.fit(calibration(synthetic(5_000)))
        counts[eps] = np.mean([len(each) for each in defense.centroids_])
    assert 3 <= counts[1.0] <= 7
    assert 25 <= counts[0.5] <= 90


def test_another_secret_gives_another_codebook():
    rows = synthetic(100, lead=2.0)
    one, other = (answers("modelguard_s", rows, seed=seed) for seed in (0, 1))
    assert (one != other).any()
    assert (one.argmax(axis=1) == other.argmax(axis=1)).all()


def test_it_has_to_be_fitted():
    with pytest.raises(NotFittedError, match="calibration"):
        defenses.build("modelguard_s").answer(batch_of([[0.5, 0.5]]))


@pytest.mark.parametrize("name", ["modelguard_w", "modelguard_s"])
def test_rejected_rows_stay_rejected(name):
    given = answers(name, [[np.nan] * 10, [1.0, *[0.0] * 9]])
    assert np.isnan(given[0]).all()
    assert np.isfinite(given[1]).all()


def test_a_codebook_of_another_bound_breaks_the_predicates():
    rows = synthetic(200, lead=3.0)
    defense, other = (defenses.build(f"modelguard_s(eps={eps})") for eps in (0.5, 0.4))
    for each in (defense, other):
        each.fit(calibration(synthetic(300, lead=3.0, seed=1)))
    batch = batch_of(rows)
    for predicate in defense.predicates:
        assert (predicate.violation(rows, defense.answer(batch)) <= predicate.tolerance).all(), (
            predicate.text()
        )
    (_, moved) = defense.predicates
    assert (moved.violation(rows, other.answer(batch)) > moved.tolerance).sum() > 10
