"""What defenses did to rows, undone: against the defenses themselves."""

import numpy as np
import pytest
from cases import each_once, slow_unless
from scipy.optimize import minimize

from attacks.inverse.numerics import intervals, normal_noise
from attacks.inverse.numerics.sigmoid import SigmoidMap, invert, perturbed_rows, plausibility, solutions
from attacks.inverse.numerics.sigmoid_fit import fit_parameters, tied_values
from bench.plugins import defenses
from bench.seeds import legacy_numpy

GAMMAS = (0.05, 0.1, 0.2, 0.5, 1.0, 5.0)


def softmax(odds):
    rows = np.exp(odds - odds.max(axis=1, keepdims=True))
    return rows / rows.sum(axis=1, keepdims=True)


def victim(number, classes=10, spread=3.0, seed=0):
    return softmax(np.random.default_rng(seed).normal(0, spread, (number, classes)))


def told_by(text, rows):
    with legacy_numpy(0):
        return np.asarray(defenses.build(text)(rows), dtype=np.float64)


def l1(a, b):
    return np.abs(a - b).sum(axis=1)


@pytest.fixture(scope="module")
def raw(digits_victim, digits_pool):
    return digits_victim.probabilities(digits_pool.x[:150])


# --- cells: the likeliest row within bounds


def test_a_projection_stays_within_its_bounds_and_sums_to_one():
    guess, raw = victim(50), victim(50, seed=1)
    low, high = np.clip(raw - 0.03, 0, 1), np.clip(raw + 0.03, 0, 1)
    p = intervals.project(guess, low, high)
    assert (p >= low - 1e-9).all()
    assert (p <= high + 1e-9).all()
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-12)


def test_no_row_within_the_bounds_is_nearer_to_the_guess():
    guess = np.array([[0.5, 0.3, 0.15, 0.05]])
    low, high = np.array([[0.0, 0.0, 0.3, 0.0]]), np.array([[0.4, 1.0, 0.5, 0.1]])
    found = intervals.project(guess, low, high)[0]

    def divergence(p):
        return float((p * np.log(p / guess[0])).sum())

    best = minimize(
        divergence,
        np.array([0.35, 0.25, 0.35, 0.05]),
        bounds=list(zip(low[0] + 1e-9, high[0], strict=True)),
        constraints={"type": "eq", "fun": lambda p: p.sum() - 1},
        method="SLSQP",
        options={"ftol": 1e-14},
    )
    np.testing.assert_allclose(found, best.x, atol=1e-5)


def test_a_guess_within_the_bounds_stays_as_it_is():
    guess = victim(20)
    np.testing.assert_allclose(
        intervals.project(guess, np.zeros((20, 10)), np.ones((20, 10))), guess, atol=1e-9
    )


def test_bounds_that_no_distribution_meets_still_give_one():
    p = intervals.project(np.full((1, 3), 1 / 3), np.full((1, 3), 0.5), np.full((1, 3), 0.6))
    np.testing.assert_allclose(p, 1 / 3)


@pytest.mark.parametrize(
    "text",
    [
        "rounded(decimals=1)",
        "rounded(decimals=3)",
        "top_k(k=1)",
        "top_k(k=4)",
        "high_confidence(cutoff=0.3)",
        "high_confidence(cutoff=0.95)",
    ],
)
def test_what_the_victim_said_lies_within_the_bounds(text):
    raw = victim(300)
    told, defense = told_by(text, raw), defenses.build(text)
    if defense.name == "rounded":
        low, high = intervals.rounding_bounds(told, defense.decimals)
    elif defense.name == "top_k":
        low, high = intervals.top_k_bounds(told, defense.k)
    else:
        low, high = intervals.cutoff_bounds(told, defense.cutoff)
    assert ((low - 1e-12 <= raw) & (raw <= high + 1e-12)).all()
    assert (high - low).min() >= 0


@pytest.mark.parametrize("decimals", [1, 2, 5, 9])
def test_the_number_of_decimals_shows(decimals):
    assert intervals.decimals_of(told_by(f"rounded(decimals={decimals})", victim(200))) == decimals


def test_exact_answers_have_all_decimals():
    assert intervals.decimals_of(victim(5)) == intervals.DECIMALS


def test_k_and_the_cutoff_show():
    raw = victim(200)
    assert intervals.k_of(told_by("top_k(k=4)", raw)) == 4
    assert intervals.cutoff_of(told_by("high_confidence(cutoff=0.5)", raw)) == raw[raw >= 0.5].min()
    assert intervals.cutoff_of(np.zeros((3, 4))) == 1
    assert intervals.k_of(np.zeros((3, 4))) == 1


# --- reverse_sigmoid


@pytest.mark.parametrize(("beta", "gamma"), each_once([0.5, 1.0, 2.0, 10.0], GAMMAS))
def test_the_map_is_the_defense_and_every_solution_gives_the_answer(beta, gamma, raw):
    raw = raw[:60]
    told = told_by(f"reverse_sigmoid(beta={beta}, gamma={gamma})", raw)
    np.testing.assert_allclose(perturbed_rows(raw, beta, gamma), told, atol=1e-12)
    row, p = solutions(told, SigmoidMap.of(beta, gamma))
    assert len(p)
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-6)
    wrong = np.abs(perturbed_rows(p, beta, gamma) - told[row]).max(axis=1)
    # Steep places of the map make more of a last digit; a step (gamma 5) makes most.
    assert np.quantile(wrong, 0.9) < 1e-6
    assert wrong.max() < (1e-5 if gamma < 5 else 1e-4)


@pytest.mark.parametrize(
    ("beta", "gamma"),
    slow_unless(
        lambda *case: case in {(1, 0.05), (0.5, 0.2), (2, 0.5)},
        [(1, 0.05), (1, 0.2), (1, 0.5), (0.5, 0.2), (2, 0.2), (2, 0.5)],
    ),
)
def test_what_the_victim_said_is_among_the_solutions(beta, gamma, raw):
    row, p = solutions(perturbed_rows(raw, beta, gamma), SigmoidMap.of(beta, gamma), raw)
    nearest = np.full(len(raw), np.inf)
    np.minimum.at(nearest, row, l1(p, raw[row]))
    # Missed: rows with an entry at a turning point, where two solutions fall together.
    assert (nearest < 1e-4).mean() > 0.93


@pytest.mark.parametrize(("beta", "gamma"), [(2.0, 0.5), (2.0, 1.0), (0.5, 1.0)])
def test_a_monotone_map_is_undone_exactly(beta, gamma, raw):
    curve = SigmoidMap.of(beta, gamma)
    assert curve.turn is None
    rows, found = invert(perturbed_rows(raw, beta, gamma), curve)
    assert found.all()
    np.testing.assert_allclose(rows, raw, atol=1e-5)


@pytest.mark.parametrize("gamma", slow_unless(lambda gamma: gamma == 0.2, [0.05, 0.2, 0.5]))
def test_a_sure_victim_is_undone_without_a_guess(gamma):
    raw = victim(100, spread=9)
    rows, found = invert(perturbed_rows(raw, 1.0, gamma), SigmoidMap.of(1.0, gamma))
    assert found.mean() > 0.95
    assert np.median(l1(rows, raw)) < 1e-3


@pytest.mark.parametrize("gamma", slow_unless(lambda gamma: gamma in (0.2, 5), [0.05, 0.1, 0.2, 0.5, 5.0]))
def test_a_guess_chooses_among_the_solutions(gamma, raw):
    told, curve = perturbed_rows(raw, 1.0, gamma), SigmoidMap.of(1.0, gamma)
    near = softmax(np.log(raw) + np.random.default_rng(0).normal(0, 1.5, raw.shape))
    alone, _ = invert(told, curve)
    guided, found = invert(told, curve, near)
    assert found.mean() > 0.95
    assert l1(guided, raw).mean() < 0.11
    assert l1(guided, raw).mean() <= l1(alone, raw).mean()
    assert (guided.argmax(axis=1) == raw.argmax(axis=1)).mean() > 0.97


def test_a_map_that_is_level_leaves_the_guess(raw):
    told = perturbed_rows(raw, 1.0, 1.0)
    assert np.abs(told - 0.1).max() < 1e-8
    near = softmax(np.log(raw) + np.random.default_rng(0).normal(0, 0.5, raw.shape))
    rows, found = invert(told, SigmoidMap.of(1.0, 1.0), near)
    assert found.all()
    assert np.median(l1(rows, near)) < 1e-3


def test_clipping_leaves_the_label_and_bounds(raw):
    told = perturbed_rows(raw, 10.0, 0.2)
    assert (told == told.max(axis=1, keepdims=True)).sum(axis=1).min() > 4
    rows, found = invert(told, SigmoidMap.of(10.0, 0.2))
    assert found.all()
    assert (rows.argmax(axis=1) == raw.argmax(axis=1)).all()
    assert l1(rows, raw).mean() < 0.35


@pytest.mark.parametrize("classes", [2, 3, 40])
def test_any_number_of_classes(classes):
    raw = victim(60, classes, spread=4)
    told = perturbed_rows(raw, 1.0, 0.3)
    near = softmax(np.log(raw) + np.random.default_rng(0).normal(0, 0.5, raw.shape))
    rows, found = invert(told, SigmoidMap.of(1.0, 0.3), near)
    assert found.mean() > 0.9
    assert l1(rows, raw).mean() < 0.3 * l1(told, raw).mean()


def test_what_nothing_explains_comes_back_as_it_is():
    told = np.eye(10)[:3]
    rows, found = invert(told, SigmoidMap.of(1.0, 0.2))
    assert not found.any()
    assert (rows == told).all()


def test_no_answer_is_no_row():
    rows, found = invert(np.zeros((0, 10)), SigmoidMap.of(1.0, 0.2))
    assert rows.shape == (0, 10)
    assert found.shape == (0,)


def test_elasticity_is_the_slope_of_the_logarithms():
    curve, p, step = SigmoidMap.of(0.8, 0.3), np.array([[1e-6, 1e-3, 0.2, 0.7]]), 1e-6
    numeric = (np.log(curve(p * (1 + step))) - np.log(curve(p * (1 - step)))) / (2 * step)
    np.testing.assert_allclose(curve.elasticity(p), numeric, rtol=1e-4)


def test_plausibility_changes_variables_rightly():
    curve, p = SigmoidMap.of(0.8, 0.3), softmax(np.array([[2.0, 0.1, -1.3, -3.0]]))

    def seen(odds):
        logs = np.log(perturbed_rows(softmax(odds[None]), 0.8, 0.3))[0]
        return logs[:-1] - logs[-1]

    odds, step = np.log(p[0]), 1e-6
    slopes = [(seen(odds + step * unit) - seen(odds - step * unit)) / (2 * step) for unit in np.eye(4)[:-1]]
    volume = np.log(abs(np.linalg.det(np.array(slopes))))
    # With the row itself as the guess nothing but the change of variables is left.
    np.testing.assert_allclose(plausibility(p, curve, p), -volume, rtol=1e-5)


@pytest.mark.parametrize(
    ("beta", "gamma"),
    slow_unless(lambda beta, _: beta == 0.8, [(1.0, 0.1), (1.0, 0.5), (0.5, 0.2), (0.8, 0.3)]),
)
def test_entries_next_to_zero_give_the_parameters_away(beta, gamma):
    told = perturbed_rows(victim(120, spread=6), beta, gamma)
    assert np.isfinite(tied_values(told)).sum() >= 3

    def never():
        raise AssertionError

    np.testing.assert_allclose(fit_parameters(told, never), (beta, gamma), rtol=1e-3)


@pytest.mark.parametrize("gamma", slow_unless(lambda gamma: gamma == 0.2, [0.2, 0.5]))
def test_a_victim_that_is_never_that_sure_gives_them_away_roughly(gamma):
    raw = victim(200, spread=2)
    told = perturbed_rows(raw, 1.0, gamma)
    assert not np.isfinite(tied_values(told)).any()
    near = softmax(np.log(raw) + np.random.default_rng(1).normal(0, 1, raw.shape))
    beta_found, gamma_found = fit_parameters(told, lambda: near)
    assert beta_found == pytest.approx(1, rel=0.35)
    assert gamma_found == pytest.approx(gamma, rel=0.35)


# --- noise


@pytest.mark.parametrize("text", ["gaussian_noise", "output_noise"])
@pytest.mark.parametrize("scale", [0.1, 0.3, 1.0])
def test_the_scale_of_the_noise_shows(text, scale, raw):
    told = told_by(f"{text}(scale={scale})", raw)
    assert normal_noise.most_likely_scale(told) == pytest.approx(scale, rel=0.45)


@pytest.mark.parametrize("keep_label", [True, False])
def test_whether_labels_are_kept_shows(keep_label, raw):
    told = told_by(f"output_noise(scale=0.5, keep_label={str(keep_label).lower()})", raw)
    assert normal_noise.keeps_label(told, 0.5, raw**0.5) == keep_label


@pytest.mark.parametrize(
    "text",
    [
        "gaussian_noise(scale=0.2)",
        "gaussian_noise(scale=0.5)",
        "output_noise(scale=0.1)",
        "output_noise(scale=0.5)",
    ],
)
def test_the_posterior_mean_is_nearer_than_answer_and_guess(text, raw):
    told, defense = told_by(text, raw), defenses.build(text)
    near = softmax(np.log(raw) + np.random.default_rng(0).normal(0, 3, raw.shape))
    kept = getattr(defense, "keep_label", False)
    rows = normal_noise.denoise(told, defense.scale, near, label_kept=kept)
    np.testing.assert_allclose(rows.sum(axis=1), 1)
    far = l1(rows, raw).mean()
    assert far < l1(told, raw).mean()
    assert far < l1(near, raw).mean()
    if kept:
        assert (rows.argmax(axis=1) == raw.argmax(axis=1)).all()


def test_the_likelihood_of_noise_is_that_of_its_density():
    rng, row, other = np.random.default_rng(0), np.array([0.5, 0.3, 0.2]), np.array([0.4, 0.35, 0.25])
    drawn = np.clip(row + rng.normal(0, 0.2, (20_000, 3)), 0, None)
    told = intervals.normalised(drawn[drawn.any(axis=1)])
    first, second = normal_noise.log_likelihoods(told, np.stack([np.stack([row, other])] * len(told)), 0.2).T
    # The mean of a likelihood ratio is 1 under its denominator.
    assert np.exp(second - first).mean() == pytest.approx(1, abs=0.02)
    assert 0.02 < (first - second).mean() < 0.5


@pytest.mark.parametrize("scale", [0.05, 0.3])
def test_the_mean_answer_is_that_of_many_draws(scale):
    rows = victim(3, 5)
    rng = np.random.default_rng(0)
    drawn = np.clip(rows + rng.normal(0, scale, (20_000, 3, 5)), 0, None).mean(axis=0)
    np.testing.assert_allclose(
        normal_noise.mean_answer(rows, scale), drawn / drawn.sum(axis=1, keepdims=True), atol=0.01
    )
