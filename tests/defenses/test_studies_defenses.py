"""The defenses of the published studies: what each one does to answers of real victims."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from cases import slow_unless
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.exceptions import NotFittedError

from bench.errors import NotApplicable, UsageError
from bench.models.defended_api import DefendedAPI
from bench.models.victim_training import _with_noise
from bench.models.victims import Victim
from bench.plugins import defenses
from bench.tasks import VictimSpec
from defenses.base import Batch, Calibration, Claims, DefenseStack, as_distributions

KINDS = ("mlp", "cnn", "logistic")


def batch_of(rows, inputs=None, *, number=0, seed=11):
    raw = np.array(rows, dtype=np.float64)
    if inputs is None:
        inputs = np.random.default_rng(2).random((len(raw), 1, 3, 3), dtype=np.float32)
    return Batch(inputs, raw, raw.copy(), "client", number, seed)


def calibration_of(victim, seed=0):
    train, held_out = victim.splits.train, victim.splits.calibration
    answers = victim.probabilities(held_out.x)
    return Calibration(
        train.x, train.y, held_out.x, held_out.y, answers, victim.features, seed, victim.perturb
    )


def fitted(text, victim, seed=0):
    defense = defenses.build(text)
    defense.fit(calibration_of(victim, seed))
    return defense


@pytest.fixture
def asked(digits_victim):
    """What honest clients ask the digits victim: its test split, as one batch."""
    x = digits_victim.splits.test.x
    return batch_of(digits_victim.probabilities(x), x)


@pytest.fixture
def victim_of(context):
    return lambda kind: context.victim(VictimSpec("digits", kind, 0))


def accuracy(answers, victim):
    return (answers.argmax(axis=1) == victim.splits.test.y).mean()


# --- parameters


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("softmax_flattening(low=0.2, high=0.1)", ("low=0.2", "high=0.1", "[0, high]")),
        ("softmax_flattening(low=-0.1)", ("low=-0.1", "[0, 1]")),
        ("softmax_flattening(high=1.5)", ("high=1.5", "[0, 1]")),
        ("softmax_flattening(bias=0)", ("bias=0", "[1e-09, 1]")),
        ("rate_limit(limit=0)", ("limit=0", "[1, inf)")),
        ("rate_limit(window=0)", ("window=0", "[1, inf)")),
        ("rate_limit(limit=2.5)", ("limit=2.5", "integer")),
        ("rate_limit(limit=101)", ("limit=101", "window=100", "[1, window]")),
        ("normalise(axis=1)", ("normalise", "'axis'", "takes none")),
        ("output_noise(scale=-0.1)", ("scale=-0.1", "(0, 10]")),
        ("output_noise(scale=0)", ("scale=0", "(0, 10]")),
        ("output_noise(keep_label=1)", ("keep_label=1", "boolean")),
        ("model_switch(rule=coin)", ("rule='coin'", "random, input_hash, confidence")),
        ("model_switch(share=1.1)", ("share=1.1", "[0, 1]")),
        ("model_switch(threshold=-1)", ("threshold=-1", "[0, 1]")),
        ("parameter_noise(scale=-1)", ("scale=-1", "(0, 10]")),
    ],
)
def test_a_wrong_parameter_is_named_with_its_value_and_range(text, said):
    with pytest.raises(UsageError) as error:
        defenses.build(text)
    for part in said:
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("text", "claims"),
    [
        ("softmax_flattening", Claims(normalises=True, stochastic=True, continuous=True)),
        ("softmax_flattening(low=0.1)", Claims(normalises=True)),
        ("rate_limit", Claims(counts_queries=True, may_refuse=True)),
        ("rate_limit(limit=7, window=7)", Claims()),
        ("normalise", Claims(normalises=True)),
        ("output_noise", Claims(normalises=True, stochastic=True, continuous=True)),
        (
            "output_noise(keep_label=false, consistent=true)",
            Claims(
                keeps_label=False,
                ties=True,
                normalises=True,
                stochastic=True,
                consistent_noise=True,
                continuous=True,
            ),
        ),
        ("model_switch", Claims(keeps_label=False, ties=True, stochastic=True)),
        ("model_switch(rule=input_hash)", Claims(keeps_label=False, ties=True)),
        ("model_switch(rule=confidence)", Claims(keeps_label=False, ties=True)),
        ("parameter_noise", Claims(keeps_label=False, ties=True, normalises=True)),
    ],
)
def test_a_defense_claims_what_its_parameters_allow(text, claims):
    assert defenses.build(text).claims == claims


# --- distributions


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.lists(st.floats(0, 10), min_size=2, max_size=12))
@example(
    [0.44930248394730277, 0.4493024839473028, 0.19616706775524603]
)  # division rounds the first two alike
@example([0.0, 5e-324, 0.0])
@example([0.0, 0.0])
def test_weights_become_a_distribution_that_keeps_a_sole_maximum(weights):
    weights = np.array([weights])
    rows = as_distributions(weights)
    assert (rows >= 0).all()
    assert rows.sum() == pytest.approx(1, abs=1e-9)
    if np.count_nonzero(weights == weights.max()) == 1:
        assert (rows == rows.max()).tolist() == (weights == weights.max()).tolist()


# --- softmax_flattening


def test_flattened_answers_keep_every_label_and_tell_nothing_else(asked, digits_victim):
    flat = fitted("softmax_flattening", digits_victim)
    answers = flat.answer(asked).probabilities
    assert (answers.argmax(axis=1) == asked.raw.argmax(axis=1)).all()
    one_hot = replace(asked, probabilities=np.eye(10)[asked.raw.argmax(axis=1)])
    assert flat.answer(one_hot).probabilities.tobytes() == answers.tobytes()


def test_the_top_stands_the_bias_above_a_band_drawn_evenly():
    flat = defenses.build("softmax_flattening(low=0.2, high=0.4, bias=0.05)")
    rng = np.random.default_rng(0)
    drawn = np.array([flat.weights(np.array([0.1, 0.2, 0.7]), rng) for _ in range(2_000)])
    assert (drawn[:, 2] > drawn[:, :2].max(axis=1) + 0.05 - 1e-12).all()
    # The top-1's own entry may be the largest drawn: its lift starts from there, a third of the time.
    assert (drawn[:, 2] > drawn[:, :2].max(axis=1) + 0.05 + 1e-12).mean() == pytest.approx(1 / 3, abs=0.05)
    # Fails for a correct defense with a chance of 1 in 1,000, for a fixed seed: never or always.
    assert stats.kstest(drawn[:, 0], stats.uniform(0.2, 0.2).cdf).pvalue > 1e-3
    assert drawn[:, 2].max() <= 0.45


def test_the_published_band_gives_every_class_about_a_tenth(asked, digits_victim):
    answers = fitted("softmax_flattening", digits_victim).answer(asked).probabilities
    assert 0.08 < answers.min() < answers.max() < 0.12


def test_flattening_draws_afresh_for_a_repeated_query():
    answers = defenses.build("softmax_flattening").answer(batch_of([[0.5, 0.3, 0.2]] * 3)).probabilities
    assert len(np.unique(answers, axis=0)) == 3


# --- rate_limit


def test_a_window_answers_its_first_queries_and_rejects_the_rest(digits_victim):
    x = digits_victim.splits.test.x[:25]
    api = DefendedAPI(
        digits_victim, DefenseStack((defenses.build("rate_limit(limit=3, window=5)"),)), budget=50, seed=0
    )
    answers = np.concatenate([api.predict(x[start : start + 4]) for start in range(0, 25, 4)])
    answered = ~np.isnan(answers).any(axis=1)
    assert answered.tolist() == [True, True, True, False, False] * 5
    assert (answers[answered] == digits_victim.probabilities(x)[answered]).all()
    assert (api.account.answered, api.account.refused, api.account.flagged) == (15, 10, 0)


def test_every_client_has_a_quota_of_its_own(digits_victim):
    x = digits_victim.splits.test.x[:3]
    api = DefendedAPI(
        digits_victim, DefenseStack((defenses.build("rate_limit(limit=3, window=9)"),)), budget=50, seed=0
    )
    assert not api.query(x, "one").refused.any()
    assert api.query(x, "one").refused.all()
    assert not api.query(x, "two").refused.any()


def test_the_published_lab_answers_60_of_100():
    refused = defenses.build("rate_limit").answer(batch_of([[0.9, 0.1]] * 300)).refused
    assert refused.reshape(3, 100).sum(axis=1).tolist() == [40, 40, 40]
    assert not refused[:60].any()


# --- normalise


def test_normalise_cuts_divides_and_levels():
    rows = np.array(
        [[0.5, 0.25, 0.0], [-0.2, 0.2, 0.2], [0.0, 0.0, 0.0], [-1.0, -2.0, -3.0], [2.0, 1.0, 1.0]]
    )
    expected = [[2 / 3, 1 / 3, 0], [0, 0.5, 0.5], [1 / 3] * 3, [1 / 3] * 3, [0.5, 0.25, 0.25]]
    np.testing.assert_allclose(defenses.get("normalise")()(rows), expected, atol=1e-15)


@pytest.mark.parametrize("before", ["rounded(decimals=1)", "top_k(k=2)", "high_confidence(cutoff=0.9)"])
def test_normalise_behind_another_makes_its_answers_distributions(before, asked, digits_victim):
    alone = DefenseStack((fitted(before, digits_victim),))
    whole = DefenseStack((fitted(before, digits_victim), fitted("normalise", digits_victim)))
    broken, mended = alone.answer(asked).probabilities, whole.answer(asked).probabilities
    assert not alone.claims.distribution
    assert whole.claims.distribution
    assert not np.allclose(broken.sum(axis=1), 1)
    np.testing.assert_allclose(mended.sum(axis=1), 1)
    assert (mended.argmax(axis=1) == broken.argmax(axis=1)).all()


def test_normalise_alone_changes_no_more_than_rounding_errors(asked, digits_victim):
    answers = fitted("normalise", digits_victim).answer(asked).probabilities
    np.testing.assert_allclose(answers, asked.raw, rtol=1e-14)


def test_normalise_passes_a_rejected_row_on():
    answers = defenses.build("normalise").answer(batch_of([[np.nan, np.nan], [0.2, 0.2]])).probabilities
    assert np.isnan(answers[0]).all()
    assert answers[1].tolist() == [0.5, 0.5]


# --- output_noise


def test_noise_is_normal_with_the_scale_asked_for():
    noise = defenses.build("output_noise(scale=0.02, keep_label=false)")
    rng = np.random.default_rng(0)
    row = np.array([0.4, 0.3, 0.3])  # 15 standard deviations from the clip
    drawn = np.array([noise.weights(row, rng) - row for _ in range(2_000)]).ravel()
    assert stats.kstest(drawn, stats.norm(0, 0.02).cdf).pvalue > 1e-3


def test_a_label_is_kept_by_swapping_not_by_lifting():
    keeps, loses = (
        defenses.build("output_noise(scale=0.3)"),
        defenses.build("output_noise(scale=0.3, keep_label=false)"),
    )
    batch = batch_of(np.random.default_rng(0).dirichlet(np.ones(10), 500))
    kept, lost = keeps.answer(batch).probabilities, loses.answer(batch).probabilities
    labels = batch.raw.argmax(axis=1)
    assert (kept.argmax(axis=1) == labels).all()
    assert (lost.argmax(axis=1) != labels).mean() > 0.3
    some = (lost != 0.1).any(axis=1)  # rows that noise has not clipped away
    assert some.mean() > 0.95
    np.testing.assert_allclose(np.sort(kept[some], axis=1), np.sort(lost[some], axis=1), atol=1e-15)
    same = some & (lost.argmax(axis=1) == labels)
    assert (kept[same] == lost[same]).all()


def test_a_row_that_noise_clips_away_is_answered_with_what_is_left():
    rows = [[0.4, 0.6]] * 400
    kept = defenses.build("output_noise(scale=10)").answer(batch_of(rows)).probabilities
    lost = defenses.build("output_noise(scale=10, keep_label=false)").answer(batch_of(rows)).probabilities
    clipped = (lost == 0.5).all(axis=1)
    assert clipped.mean() == pytest.approx(0.25, abs=0.1)
    assert (kept[clipped] == [0, 1]).all()
    assert (kept.argmax(axis=1) == 1).all()


def test_averaging_repeats_undoes_fresh_noise_and_not_consistent_noise():
    batch = batch_of([[0.5, 0.3, 0.2]] * 400, np.zeros((400, 1, 3, 3), dtype=np.float32))
    fresh = defenses.build("output_noise(scale=0.05)").answer(batch).probabilities
    consistent = defenses.build("output_noise(scale=0.05, consistent=true)").answer(batch).probabilities
    assert len(np.unique(fresh, axis=0)) == 400
    np.testing.assert_allclose(fresh.mean(axis=0), [0.5, 0.3, 0.2], atol=0.01)
    assert len(np.unique(consistent, axis=0)) == 1
    assert np.abs(consistent[0] - [0.5, 0.3, 0.2]).max() > 0.01


def test_consistent_noise_knows_the_input_and_the_client_alone(asked, digits_victim):
    noise = fitted("output_noise(consistent=true)", digits_victim)
    answers = noise.answer(asked).probabilities
    order = np.random.default_rng(0).permutation(len(asked))
    shuffled = replace(
        asked, inputs=asked.inputs[order], raw=asked.raw[order], probabilities=asked.raw[order], number=7
    )
    assert (noise.answer(shuffled).probabilities == answers[order]).all()
    assert (noise.answer(replace(asked, seed=12)).probabilities != answers).any(axis=1).all()


def test_benign_users_keep_their_labels_only_where_promised(asked, digits_victim):
    plain = accuracy(asked.raw, digits_victim)
    kept = fitted("output_noise(scale=0.5)", digits_victim).answer(asked).probabilities
    lost = fitted("output_noise(scale=0.5, keep_label=false)", digits_victim).answer(asked).probabilities
    assert accuracy(kept, digits_victim) == plain
    assert accuracy(lost, digits_victim) < plain - 0.1


@pytest.mark.parametrize("text", ["softmax_flattening", "output_noise", "output_noise(consistent=true)"])
def test_inside_art_draws_come_from_numpys_global_generator_and_are_fresh(text):
    defense, rows = defenses.build(text), np.full((2, 4), 0.25, dtype=np.float32)
    state = np.random.get_state()
    try:
        np.random.seed(0)
        first, second = defense(rows), defense(rows)
        np.random.seed(0)
        again = defense(rows)
    finally:
        np.random.set_state(state)
    assert (first == again).all()
    assert len(np.unique(np.concatenate([first, second]), axis=0)) == 4
    assert defense(rows[:0]).shape == (0, 4)


# --- model_switch

SWITCHES = [
    "model_switch(share=0.3)",
    "model_switch(rule=input_hash, share=0.3)",
    "model_switch(rule=confidence)",
]


@pytest.mark.parametrize("text", SWITCHES)
def test_the_tree_answers_the_rows_of_the_rule_and_no_other(text, asked, digits_victim):
    switch = fitted(text, digits_victim)
    before = replace(asked, probabilities=np.round(asked.raw, 1))
    chosen, answers = switch.switched(before), switch.answer(before).probabilities
    assert 0 < chosen.mean() < 1
    tree = switch.tree_.predict_proba(asked.inputs.reshape(len(asked), -1))
    assert (answers[chosen] == tree[chosen]).all()
    assert (answers[~chosen] == before.probabilities[~chosen]).all()


def test_the_random_rule_draws_for_every_query_and_the_hash_rule_never_again(asked, digits_victim):
    random, hashed = (fitted(text, digits_victim) for text in SWITCHES[:2])
    for other in (replace(asked, number=1000), replace(asked, seed=99)):
        assert (random.switched(other) != random.switched(asked)).mean() == pytest.approx(0.42, abs=0.1)
        assert (hashed.switched(other) == hashed.switched(asked)).all()
    order = np.random.default_rng(0).permutation(len(asked))
    shuffled = replace(asked, inputs=asked.inputs[order], raw=asked.raw[order])
    assert (hashed.switched(shuffled) == hashed.switched(asked)[order]).all()
    resealed = fitted(SWITCHES[1], digits_victim, seed=1)
    assert (resealed.switched(asked) != hashed.switched(asked)).mean() == pytest.approx(0.42, abs=0.1)


@pytest.mark.parametrize("rule", ["random", "input_hash"])
@pytest.mark.parametrize("share", [0, 0.1, 0.8, 1])
def test_the_tree_answers_its_share(rule, share, digits_victim):
    x = np.random.default_rng(0).random((4_000, 1, 8, 8), dtype=np.float32)
    switch = fitted(f"model_switch(rule={rule}, share={share})", digits_victim)
    chosen = switch.switched(batch_of(np.full((4_000, 10), 0.1), x))
    # A binomial share of 4,000 is more than 4 standard deviations off with a chance under 1e-4.
    assert chosen.mean() == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / 4_000) + 1e-12)


def test_the_confidence_rule_hands_over_what_the_victim_is_unsure_of(asked, digits_victim):
    switch = fitted("model_switch(rule=confidence, threshold=0.8)", digits_victim)
    rows = np.array([[0.8, 0.2], [0.79, 0.21], [0.5, 0.5]])
    assert switch.switched(batch_of(rows)).tolist() == [False, True, True]
    flattened = replace(asked, probabilities=np.full_like(asked.raw, 0.1))
    assert (switch.switched(flattened) == (asked.raw.max(axis=1) < 0.8)).all()
    assert not fitted("model_switch(rule=confidence, threshold=0)", digits_victim).switched(asked).any()


def test_the_tree_is_another_model_that_is_not_always_sure(asked, digits_victim):
    alone = fitted("model_switch(share=1)", digits_victim).answer(asked).probabilities
    assert 0.6 < accuracy(alone, digits_victim) < 0.85
    assert (alone.max(axis=1) < 1).mean() > 0.1
    half = fitted("model_switch", digits_victim).answer(asked).probabilities
    assert accuracy(alone, digits_victim) < accuracy(half, digits_victim) < accuracy(asked.raw, digits_victim)


def test_every_rule_switches_to_the_one_tree_of_its_seed(digits_victim):
    trees = [fitted(text, digits_victim).tree_ for text in SWITCHES]
    assert trees[0] is trees[1] is trees[2]
    assert fitted(SWITCHES[0], digits_victim, seed=1).tree_ is not trees[0]
    assert trees[0].random_state == 0


def test_a_class_that_was_never_trained_gets_nothing_from_the_tree(digits_victim):
    data = calibration_of(digits_victim)
    rows = ~np.isin(data.train_labels, (0, 4))
    switch = defenses.build("model_switch(share=1)")
    switch.fit(replace(data, train_inputs=data.train_inputs[rows], train_labels=data.train_labels[rows]))
    answers = switch.answer(batch_of(np.full((len(data.inputs), 10), 0.1), data.inputs)).probabilities
    assert (answers[:, [0, 4]] == 0).all()
    np.testing.assert_allclose(answers.sum(axis=1), 1)
    right = answers.argmax(axis=1) == data.labels
    assert right[~np.isin(data.labels, (0, 4))].mean() > 0.6


@pytest.mark.parametrize("name", ["model_switch", "parameter_noise"])
def test_a_defense_that_needs_fitting_says_so(name):
    with pytest.raises(NotFittedError, match=f"call fit .* {name}"):
        defenses.build(name).answer(batch_of([[0.5, 0.5]]))


# --- parameter_noise


@pytest.mark.parametrize("kind", slow_unless(lambda kind: kind != "cnn", KINDS))
def test_more_noise_on_the_parameters_is_a_worse_model(kind, victim_of):
    victim = victim_of(kind)
    x = victim.splits.test.x
    batch = batch_of(victim.probabilities(x), x)
    copies = [fitted(f"parameter_noise(scale={scale})", victim) for scale in (1e-6, 0.1, 3)]
    nearly, slightly, badly = (copy.answer(batch).probabilities for copy in copies)
    np.testing.assert_allclose(nearly, batch.raw, atol=1e-3)
    assert 0 < np.abs(slightly - batch.raw).sum(axis=1).mean() < np.abs(badly - batch.raw).sum(axis=1).mean()
    assert accuracy(slightly, victim) > victim.accuracy() - 0.15
    assert accuracy(badly, victim) < victim.accuracy() - 0.3


@pytest.mark.parametrize("kind", slow_unless(lambda kind: kind != "cnn", KINDS))
def test_a_perturbed_victim_answers_one_by_one_as_in_a_batch_to_the_last_bit(kind, victim_of):
    victim = victim_of(kind)
    x = victim.splits.test.x[:60]
    whole = victim.perturb(0.2, 3)(x)
    one_by_one = victim.perturb(0.2, 3)
    assert (np.concatenate([one_by_one(row[None]) for row in x[::-1]])[::-1] == whole).all()
    assert one_by_one(x[:0]).shape == (0, 10)


@pytest.mark.parametrize("kind", slow_unless(lambda kind: kind != "cnn", KINDS))
def test_perturbing_the_victim_leaves_the_victim_and_the_global_generators_alone(kind, victim_of):
    victim = victim_of(kind)
    x = victim.splits.test.x[:20]
    before, state = replace(victim).probabilities(x), torch.get_rng_state()
    legacy = np.random.get_state()[1].copy()
    copy, other = victim.perturb(1.0, 0)(x), victim.perturb(1.0, 1)(x)
    assert (replace(victim).probabilities(x) == before).all()
    assert (copy != before).any(axis=1).all()
    assert (copy != other).any(axis=1).all()
    assert torch.equal(state, torch.get_rng_state())
    assert (legacy == np.random.get_state()[1]).all()


def test_noise_is_measured_in_the_tensors_own_standard_deviation():
    tensor = np.random.default_rng(0).normal(5, 3, (200, 100)).astype(np.float32)
    noise = _with_noise(tensor, 0.5, np.random.default_rng(1)) - tensor
    assert noise.dtype == np.float32
    # The standard deviation of 20,000 normal draws is known to half a percent.
    assert noise.std() == pytest.approx(1.5, rel=0.025)
    assert abs(noise.mean()) < 0.05
    double = _with_noise(tensor, 1.0, np.random.default_rng(1)) - tensor
    np.testing.assert_allclose(double, 2 * noise, atol=1e-5)
    assert (_with_noise(np.ones(3), 10, np.random.default_rng(0)) == 1).all()


def test_every_tensor_of_a_network_gets_noise(victim_of, monkeypatch):
    shapes = []
    monkeypatch.setattr(
        "bench.models.victim_training._with_noise", lambda tensor, *_: shapes.append(tensor.shape) or tensor
    )
    victim = victim_of("mlp")
    x = victim.splits.test.x[:5]
    assert (victim.perturb(1, 0)(x) == victim.probabilities(x)).all()
    assert shapes == [(128, 64), (128,), (64, 128), (64,), (10, 64), (10,)]
    shapes.clear()
    victim_of("logistic").perturb(1, 0)
    assert shapes == [(10, 64), (10,)]


def test_parameter_noise_is_the_same_model_for_every_client_and_repeat(context, digits_spec):
    stack = ("parameter_noise(scale=0.2)",)
    first, second = (context.api(digits_spec, stack, 0, repeat) for repeat in (0, 1))
    x = context.victim(digits_spec).splits.test.x[:30]
    answers = first.predict(x, client="one")
    assert (answers == second.predict(x, client="two")).all()
    assert (answers != context.victim(digits_spec).probabilities(x)).any(axis=1).all()
    assert (answers != context.api(digits_spec, stack, 1, 0).predict(x)).any(axis=1).all()


def test_a_victim_without_parameters_to_perturb_is_told_which_have_them(context, victim_of):
    assert victim_of("tree").perturb is None
    own = Victim(lambda x: np.full((len(x), 10), 0.1), victim_of("mlp").splits)
    assert own.perturb is None
    with pytest.raises(NotApplicable, match=r"a built-in network or logistic.*Victim\(perturb=…\)"):
        fitted("parameter_noise", own)
    with pytest.raises(NotApplicable, match="a tree has none"):
        context.stack(VictimSpec("digits", "tree", 0), ("parameter_noise",), 0)


def test_a_victim_of_the_users_own_may_bring_its_perturbed_copies(victim_of):
    mlp = victim_of("mlp")
    calls = []
    own = Victim(mlp.model, mlp.splits, perturb=lambda *given: calls.append(given) or mlp.perturb(*given))
    fitted("parameter_noise(scale=0.3)", own, seed=5)
    assert calls == [(0.3, 5)]


# --- in concert


def test_the_published_stack_keeps_its_promises(asked, digits_victim):
    texts = ("rate_limit", "output_noise", "rounded(decimals=1)", "label_only", "normalise")
    whole = DefenseStack(tuple(fitted(text, digits_victim) for text in texts))
    answers = whole.answer(asked)
    given_out = answers.probabilities[~answers.refused]
    assert answers.refused.mean() == pytest.approx(160 / 447)
    assert whole.claims.distribution
    assert set(np.unique(given_out)) == {0, 1}
    assert (given_out.argmax(axis=1) == asked.raw[~answers.refused].argmax(axis=1)).mean() > 0.97
