"""The attack that knows the defense: what it learns, from which answers, and what it says of it."""

from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import pytest
from attacked_api import Setting
from cases import each_once, slow_unless

from attacks.base import Known, Pool
from attacks.copycat import Copycat
from attacks.inverse import INVERSES, inverse_of
from attacks.inverse.base import Inverse, StackPosition
from attacks.inverse.numerics.intervals import one_hot
from attacks.recover import FEW, FOLDS, ROUNDS, InverseStack, Recover, recover
from bench.models.interim_surrogates import InterimSurrogates
from bench.plugins import attacks, defenses
from bench.runner.cells import run_cells
from bench.tasks import Cell

GUIDED = [
    "reverse_sigmoid(gamma=0.3)",
    "rounded(decimals=1)",
    "top_k(k=1)",
    "high_confidence(cutoff=0.9)",
    "gaussian_noise(scale=0.2)",
    "output_noise(scale=0.2)",
    "normalise",
    "random_one_hot",
]
SURE = [
    "label_only",
    "modelguard_w",
    "modelguard_s",
    "softmax_flattening",
    "parameter_noise",
    "model_switch",
    "mahalanobis(action=noise)",
    "mahalanobis(action=label_only)",
    "mahalanobis(action=refuse)",
    "rate_limit(limit=6, window=10)",
]
STACKED = [
    "rounded(decimals=1) + normalise",
    "reverse_sigmoid + rounded(decimals=3)",
    "top_k(k=3) + normalise",
    "model_switch + reverse_sigmoid(gamma=0.3)",
    "top_k(k=2) + gaussian_noise(scale=0.3) + rounded(decimals=2)",
    "reverse_sigmoid(gamma=0.3) + mahalanobis(action=refuse)",
    "modelguard_w + rounded(decimals=2)",
    "random_one_hot(eps=0.5) + normalise",
    "rounded(decimals=3) + grad_redirection(eps=0.5)",
]
EVERY = GUIDED + SURE + STACKED
# Each takes seconds; what it consists of is in a quick case.
LONG = {
    "model_switch + reverse_sigmoid(gamma=0.3)",
    "reverse_sigmoid(gamma=0.3) + mahalanobis(action=refuse)",
}
# The quick cases alternate, but those with a sigmoid, of which the parameters take longest to fit, know them.
QUICK = {
    (stack, "full" if "sigmoid" in stack else ("full", "family")[place % 2])
    for place, stack in enumerate(EVERY)
    if stack not in LONG
}


def l1(a, b):
    return np.abs(a - b).sum(axis=1)


def parts(stack):
    return tuple(defenses.canonical(text) for text in stack.split(" + ") if text)


@pytest.fixture(scope="module")
def surrogates(digits_victim):
    return InterimSurrogates("mlp", digits_victim.shape, 10, 3)


@pytest.fixture
def acquire(context, digits_spec, digits_pool, surrogates):
    """Return the transfer set, and the API that was queried."""
    setting = Setting(context, digits_spec, digits_pool, surrogates)

    def run(stack, knowledge="full", budget=60, shows="probabilities", attack=None, pool=None):
        return setting.acquire(
            attack or Recover(), parts(stack), budget, pool=pool, shows=shows, knowledge=knowledge
        )

    return run


class Unexplained(Inverse):
    """The inverse of a defense whose answers leave their label alone."""

    def invert(self, answers, estimate, position):
        return one_hot(answers), np.zeros(len(answers), dtype=bool)


@dataclass
class Parrot:
    """Trains nothing: every copy says the same of everything."""

    row: np.ndarray
    trained: int = 0

    def fit(self, sets, effort=1.0):
        self.trained += 1
        return [lambda x: np.tile(self.row, (len(x), 1)) for _ in sets]


def test_every_defense_has_its_inversion():
    # One without would be learnt by its label; that is for other people's.
    assert set(INVERSES) == set(defenses.names())


@pytest.mark.parametrize("shows", ["probabilities", "labels"])
def test_where_there_is_no_defense_it_is_copycat_bit_for_bit(shows, acquire):
    mine, api = acquire("", shows=shows)
    plain, _ = acquire("", "none", shows=shows, attack=Copycat(use_probability=True))
    assert api.known == ()
    assert mine.digest() == plain.digest()


@pytest.mark.parametrize(
    ("stack", "knowledge"), slow_unless(lambda *case: case in QUICK, product(EVERY, ["full", "family"]))
)
def test_targets_are_distributions_and_the_same_every_time(stack, knowledge, acquire):
    transfer_set, api = acquire(stack, knowledge)
    again, _ = acquire(stack, knowledge)
    assert transfer_set.digest() == again.digest()
    assert api.account.sent == 60
    assert len(transfer_set.x) == len(transfer_set.y) <= api.account.answered
    assert transfer_set.y.dtype == np.float32
    assert (transfer_set.y >= 0).all()
    np.testing.assert_allclose(transfer_set.y.sum(axis=1), 1, atol=1e-5)
    assert 0 <= transfer_set.facts["recovered"] <= 1


@pytest.mark.parametrize(
    ("stack", "knowledge", "budget"),
    each_once(
        [
            "reverse_sigmoid",
            "rounded(decimals=1)",
            "high_confidence(cutoff=0.9)",
            "gaussian_noise",
            "output_noise",
            "model_switch",
            "softmax_flattening",
        ],
        ["family", "full"],
        [0, 1, 2, 10, FEW],
    ),
)
def test_few_answers_or_none_are_no_problem(stack, knowledge, budget, acquire):
    transfer_set, _ = acquire(stack, knowledge, budget)
    assert len(transfer_set.x) <= budget
    assert np.isfinite(transfer_set.y).all()


def test_where_everything_is_rejected_nothing_is_learnt(acquire, context, digits_spec):
    noise = context.pool(digits_spec, "noise", 0)
    transfer_set, api = acquire("reverse_sigmoid + mahalanobis(action=refuse)", pool=noise)
    assert api.account.refused == 60
    assert transfer_set.x.shape == (0, 1, 8, 8)
    assert transfer_set.y.shape == (0, 10)
    assert transfer_set.facts["recovered"] is None


@pytest.mark.parametrize("stack", GUIDED)
def test_labels_hold_nothing_to_invert(stack, acquire):
    transfer_set, _ = acquire(stack, shows="labels")
    plain, _ = acquire(stack, "none", shows="labels", attack=Copycat())
    assert transfer_set.digest() == plain.digest()


@pytest.mark.parametrize("defense", ["modelguard_w", "modelguard_s", "grad_redirection(keep_label=true)"])
def test_labels_through_a_perturbation_that_keeps_them_are_those_of_no_defense(defense, acquire):
    for shows in ("labels", "probabilities"):
        defended, _ = acquire(defense, "none", shows=shows, attack=Copycat(use_probability=False))
        plain, _ = acquire("", "none", shows=shows, attack=Copycat(use_probability=False))
        assert defended.digest() == plain.digest()


def test_answers_come_to_the_same_inputs_as_copycats(acquire):
    transfer_set, _ = acquire("rounded(decimals=1)")
    plain, _ = acquire("rounded(decimals=1)", "none", attack=Copycat(use_probability=True))
    assert transfer_set.x.tobytes() == plain.x.tobytes()
    assert transfer_set.y.tobytes() != plain.y.tobytes()


@pytest.mark.slow
def test_the_fitted_parameters_of_a_sigmoid_are_facts(acquire):
    transfer_set, _ = acquire("reverse_sigmoid(beta=0.7, gamma=0.3)", "family", 300)
    assert transfer_set.facts["beta"] == pytest.approx(0.7, rel=0.01)
    assert transfer_set.facts["gamma"] == pytest.approx(0.3, rel=0.01)


def test_the_fitted_parameters_are_facts(acquire):
    assert acquire("top_k(k=3)", "family")[0].facts["k"] == 3
    assert acquire("rounded(decimals=2)", "family")[0].facts["decimals"] == 2
    assert set(acquire("rounded(decimals=2)", "full")[0].facts) == {"recovered"}


@pytest.fixture(scope="module")
def said(digits_victim, digits_pool):
    return digits_pool.x[:150], digits_victim.probabilities(digits_pool.x[:150])


def told_of(stack, raw):
    """Return the defenses' answers to the rows, and the knowledge of their names and parameters."""
    known = []
    for text in parts(stack):
        defense = defenses.build(text)
        raw = np.asarray(defense(raw))
        known.append(Known(defense.name, {key: getattr(defense, key) for key in defense.parameters()}))
    return raw, tuple(known)


@pytest.mark.parametrize(
    "stack",
    slow_unless(
        lambda stack: stack != "reverse_sigmoid(gamma=0.3)",
        [
            "top_k(k=1)",
            "reverse_sigmoid(gamma=0.3)",
            "reverse_sigmoid(gamma=0.3) + normalise",
            "modelguard_w",
        ],
    ),
)
def test_what_it_makes_of_answers_is_nearer_to_what_was_said(stack, said, surrogates):
    x, raw = said
    told, known = told_of(stack, raw)
    made = recover(known, x, told, surrogates)
    plain = told / told.sum(axis=1, keepdims=True)
    assert l1(made.targets, raw).mean() < 0.95 * l1(plain, raw).mean()
    np.testing.assert_allclose(made.forward(raw), told, atol=1e-6)


def test_what_was_rounded_before_it_was_divided_is_found_again(said):
    _, raw = said
    rounded = np.round(raw, 1)
    told, known = told_of("rounded(decimals=1) + normalise", raw)
    before = inverse_of(known[0].name)(known[0].parameters)
    back, found = inverse_of(known[1].name)().invert(
        told, None, StackPosition(sums_to_one=False, resolution=before.resolution)
    )
    assert (rounded.sum(axis=1) != 1).any()
    assert found.all()
    np.testing.assert_allclose(back * 10, np.round(back * 10), atol=1e-9)
    np.testing.assert_allclose(back / back.sum(axis=1, keepdims=True), told, atol=1e-12)
    # Of a row that kept one entry alone, whatever it was, the division leaves 1.
    several = (rounded > 0).sum(axis=1) > 1
    assert several.sum() > 10
    np.testing.assert_allclose(back[several], rounded[several], atol=1e-9)


def test_a_round_of_surrogates_makes_recovery_better(said, surrogates, monkeypatch):
    x, raw = said
    told, known = told_of("reverse_sigmoid(gamma=0.2)", raw)
    guided = recover(known, x, told, surrogates)
    monkeypatch.setattr("attacks.recover.ROUNDS", 0)
    alone = recover(known, x, told, surrogates)
    assert l1(guided.targets, raw).mean() < 0.8 * l1(alone.targets, raw).mean()


def test_no_surrogate_judges_rows_it_was_trained_on(said):
    x, raw = said
    told, known = told_of("top_k(k=1)", raw)
    seen = []

    class Spy(Parrot):
        def fit(self, sets, effort=1.0):
            learnt = [{row.tobytes() for row in part} for part, _ in sets]

            def judge(rows, learnt):
                seen.append(sum(row.tobytes() in learnt for row in rows))
                return np.tile(self.row, (len(rows), 1))

            return [lambda rows, one=one: judge(rows, one) for one in learnt]

    recover(known, x, told, Spy(np.full(10, 0.1)))
    assert seen == [0] * (FOLDS * ROUNDS)


def test_the_guess_fills_in_what_was_cut(said):
    x, raw = said
    told, known = told_of("top_k(k=1)", raw)
    row = np.array([0.4, 0.2, 0.1, 0.05, 0.05, 0.05, 0.05, 0.04, 0.03, 0.03])
    made = recover(known, x, told, Parrot(row))
    sure = raw.max(axis=1) > 0.9
    cut = np.where(told[sure] > 0, 0, row)
    expected = told[sure] + cut / cut.sum(axis=1, keepdims=True) * (1 - told[sure].max(axis=1, keepdims=True))
    np.testing.assert_allclose(made.targets[sure], expected, atol=1e-9)


@pytest.mark.parametrize("stack", ["label_only", "softmax_flattening", "parameter_noise", "rate_limit"])
def test_where_a_guess_is_of_no_use_nothing_is_trained(stack, said):
    x, raw = said
    defense = defenses.build(stack)
    parrot = Parrot(np.full(10, 0.1))
    known = Known(defense.name, {key: getattr(defense, key) for key in defense.parameters()})
    recover((known,), x, raw, parrot)
    assert parrot.trained == 0


def test_rows_that_a_tree_answered_are_left_out(acquire, digits_victim):
    transfer_set, api = acquire("model_switch(share=0.4)", budget=200)
    assert 90 < len(transfer_set.x) < 150
    np.testing.assert_allclose(transfer_set.y, digits_victim.probabilities(transfer_set.x), atol=1e-6)
    assert transfer_set.facts["recovered"] == pytest.approx(len(transfer_set.x) / api.account.answered)


def test_if_a_tree_answered_everything_it_is_learnt(acquire):
    transfer_set, _ = acquire("model_switch(share=1.0)")
    assert len(transfer_set.x) == 60


def test_rows_drawn_by_a_gate_are_left_out(acquire, context, digits_spec, digits_pool, digits_victim):
    noise = context.pool(digits_spec, "noise", 0)
    mixed = Pool(
        "mixed",
        np.concatenate([digits_pool.x[:100], noise.x[:100]]),
        np.zeros(200, np.int64),
        "near",
        same_classes=False,
    )
    transfer_set, api = acquire("mahalanobis(action=noise)", budget=200, pool=mixed)
    assert api.account.flagged > 80
    right = l1(transfer_set.y, digits_victim.probabilities(transfer_set.x)) < 1e-5
    assert right.sum() > 85
    assert right.mean() > 0.93


def test_rows_that_cannot_be_explained_are_learnt_by_their_label(said, surrogates):
    x, raw = said
    told, known = told_of("reverse_sigmoid(gamma=0.3)", raw)
    told[::10] = np.eye(10)[3] * 0.9 + 0.01
    told[5::10] = np.eye(10)[4]
    made = recover(known, x, told, surrogates)
    lost = ~made.explained
    assert lost[5::10].all()
    assert (made.targets[lost] == one_hot(told)[lost]).all()
    assert made.usable.all()


def test_another_peoples_defense_is_learnt_by_its_label(said, surrogates):
    x, raw = said
    made = recover((Known("homemade", {"strength": 3}),), x, raw, surrogates)
    assert (made.targets == one_hot(raw)).all()
    assert made.forward is None


NOT_SIMULATED = {"diverse_ensemble"}
"""Defenses whose answers are of other models, which no map of the victim's answers gives."""


@pytest.mark.parametrize("name", sorted(INVERSES))
def test_forward_gives_distributions_or_what_the_defense_gives(name, said):
    _, raw = said
    defense = defenses.build(name)
    parameters = {key: getattr(defense, key) for key in defense.parameters()}
    step = inverse_of(name)(parameters)
    given = step.forward(raw)
    assert given.shape == raw.shape
    assert step.has_forward is (name not in NOT_SIMULATED)
    if step.sums_to_one:
        np.testing.assert_allclose(given.sum(axis=1), 1)
    if not defense.claims.stochastic and callable(defense):
        np.testing.assert_allclose(given, defense(raw), atol=1e-9)


def test_forward_of_flattening_is_its_mean_answer(said):
    _, raw = said
    defense = defenses.build("softmax_flattening(low=0.05, high=0.1, bias=0.02)")
    known = {"low": 0.05, "high": 0.1, "bias": 0.02}
    step = inverse_of("softmax_flattening")(known)
    rng = np.random.default_rng(0)
    drawn = np.array([defense.weights(raw[0], rng) for _ in range(4000)])
    mean = (drawn / drawn.sum(axis=1, keepdims=True)).mean(axis=0)
    np.testing.assert_allclose(step.forward(raw[:1])[0], mean, atol=1e-3)
    found = step.fit(drawn / drawn.sum(axis=1, keepdims=True), lambda: raw)
    np.testing.assert_allclose(inverse_of("softmax_flattening")(found).forward(raw[:1])[0], mean, atol=4e-3)


@pytest.mark.parametrize(
    ("knowledge", "repeats"),
    slow_unless(lambda _, repeats: repeats == 1, [("full", 1), ("full", 3), ("family", 3)], long=True),
)
def test_it_extracts_more_from_a_known_defense(knowledge, repeats, context, digits_spec, threat):
    sigmoid = (defenses.canonical("reverse_sigmoid(gamma=0.5)"),)

    def fidelity(attack, knowledge, defense):
        cell = Cell(digits_spec, defense, replace(threat, knowledge=knowledge), attack, 200, 0, repeats, 0)
        return np.mean([each.metrics["extraction.fidelity"] for each in run_cells(cell.group(), context)])

    plain = attacks.canonical("copycat(use_probability=true)")
    undefended, poisoned = fidelity(plain, "none", ()), fidelity(plain, "none", sigmoid)
    assert undefended - poisoned > 0.2
    assert undefended - fidelity("recover", knowledge, sigmoid) < 0.1 * (undefended - poisoned)


def test_what_it_can_use_is_declared():
    assert Recover.knowledge == ("family", "full")
    assert not Recover.parameters()


@pytest.mark.parametrize(
    ("known", "swapped"),
    [
        ([Known("random_one_hot", {"eps": 2.0})], True),
        ([Known("random_one_hot", {"eps": 1.0})], True),
        ([Known("random_one_hot", {"eps": 0.9})], False),
        ([Known("mad", {"eps": 1.0})], True),
        ([Known("mad", {"eps": 0.9})], False),
        ([Known("mad", None)], False),
        ([Known("mad", {"eps": 1.0}), Known("label_only", {})], True),
        ([Known("mad", {"eps": 1.0}), Known("random_one_hot", {"eps": 2.0})], False),
        ([Known("modelguard_w", {"eps": 2.0})], False),
        ([Known("unheard_of", {})], False),
    ],
)
def test_two_labels_that_a_defense_swaps_are_swapped_back(known, swapped):
    labels = np.eye(2)[[0, 1, 1, 0]]
    found = recover(known, np.zeros((4, 1, 2, 2), np.float32), labels, None)
    np.testing.assert_array_equal(found.targets, 1 - labels if swapped else labels)
    assert found.usable.all()
    if swapped:
        np.testing.assert_array_equal(found.forward(found.targets), labels)


def test_labels_of_answers_that_nothing_explains_are_swapped_back_too():
    """What ModelGuard has moved of a swapped answer cannot be found, and its label is the other one's."""
    stack = InverseStack([inverse_of("mad")({"eps": 1.0}), Unexplained()])
    found = stack.invert(np.array([[0.6, 0.4], [0.3, 0.7]]), None)
    assert not found.explained.any()
    assert found.targets.tolist() == [[0, 1], [1, 0]]


def test_parameters_that_were_fitted_swap_nothing():
    labels = np.eye(2)
    stack = InverseStack([inverse_of("mad")({"eps": 1.0}, fitted=True)])
    assert stack.relabelled(labels) == (labels, 0)


def test_of_more_classes_no_label_is_swapped():
    labels = np.eye(3)[[0, 1, 2]]
    known = [Known("random_one_hot", {"eps": 2.0})]
    assert recover(known, np.zeros((3, 1, 2, 2), np.float32), labels, None).targets is labels
