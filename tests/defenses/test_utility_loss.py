"""Defenses given by a target utility loss: the strength that is found, claims, and messages."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Annotated

import numpy as np
import pytest
from art.estimators.classification import BlackBoxClassifier
from cases import each_once, slow_unless
from pydantic import Field
from sklearn.exceptions import NotFittedError

from bench.cli import listing
from bench.errors import NotApplicable, UsageError
from bench.plugins import Plugin, defenses
from bench.runner.context import WorkerContext
from bench.tasks import VictimSpec
from defenses.base import Answers, Batch, Calibration, Defense, DefenseStack, OutputDefense, StrengthRange
from defenses.tuning.utility_loss import UtilityLossTarget, with_utility_loss

CONTINUOUS = ["reverse_sigmoid", "gaussian_noise", "output_noise", "parameter_noise", "model_switch"]
WITH_PATH = [name for name in defenses.names() if defenses.get(name).strength]
NUMBERS = (int, float)


@pytest.fixture
def calibration(context, digits_spec):
    # With the data that some defenses ask for: any kind will do.
    return replace(
        context.calibration(digits_spec, 0), auxiliary=context.auxiliary(digits_spec, 0, "permuted")
    )


@pytest.fixture
def quick_calibration(calibration, monkeypatch):
    """The same, on which a randomized defense is measured by 1,000 answers, not by 10,000."""
    monkeypatch.setattr("defenses.tuning.utility_loss.ANSWERS", 1_000)
    return replace(calibration, costs={})


def found(text, calibration):
    defense = defenses.build(text)
    defense.fit(calibration)
    return defense


def distances(defense, calibration, draws=1):
    """Return the L1 of every answer, by its own lights: row by row, with noise nobody fitted to."""
    raw = calibration.probabilities
    read = calibration.read_features
    batches = (
        Batch(calibration.inputs, raw, raw.copy(), seed=draw, read_features=read) for draw in range(draws)
    )
    told = [defense.answer(batch).probabilities for batch in batches]
    return np.abs(np.concatenate(told) - np.tile(raw, (draws, 1))).sum(axis=1)


# --- the contract of paths: every registered defense, tomorrow's included


@pytest.mark.parametrize("name", defenses.names())
def test_a_defense_has_a_path_or_is_a_single_point(name):
    cls = defenses.get(name)
    numeric = [key for key, parameter in cls.parameters().items() if type(parameter.default) in NUMBERS]
    assert cls.strength or not numeric, (
        f"{name} has numeric parameters and no strength range from weak to strong"
    )
    if cls.strength:
        assert cls.strength.parameter in numeric


@pytest.mark.parametrize("name", WITH_PATH)
def test_the_ends_of_a_path_are_allowed_and_the_strong_one_costs_benign_users_more(name, calibration):
    cls = defenses.get(name)
    values = {key: parameter.default for key, parameter in cls.parameters().items()}
    paid = []
    for end in cls.strength.ends(values):
        defense = found(f"{name}({cls.strength.parameter}={end!r})", calibration)
        assert getattr(defense, cls.strength.parameter) == end
        raw = calibration.probabilities
        answers = defense.answer(
            Batch(calibration.inputs, raw, raw.copy(), read_features=calibration.read_features)
        )
        told = np.abs(answers.probabilities - raw).sum(axis=1)[~answers.refused]
        paid.append((float(told.mean()), answers.refused.mean(), answers.flagged.mean()))
    weak, strong = paid
    assert all(more >= less for less, more in zip(weak, strong, strict=True))
    assert strong > weak


# --- what is found


@pytest.mark.parametrize(("name", "cost"), each_once(CONTINUOUS, [0.3, 0.03]))
def test_the_mean_cost_on_the_calibration_split_is_what_was_asked_for(name, cost, quick_calibration):
    defense = found(f"{name}(l1={cost})", quick_calibration)
    mean, _ = quick_calibration.costs[repr(defense.effective)]
    assert 0.99 * cost <= mean <= cost


@pytest.mark.parametrize("text", ["reverse_sigmoid(l1=0.3)", "parameter_noise(l1=0.1)"])
def test_a_fixed_defense_costs_what_was_measured(text, calibration):
    defense = found(text, calibration)
    paid = distances(defense, calibration).mean()
    assert paid == pytest.approx(calibration.costs[repr(defense.effective)][0], abs=1e-12)


@pytest.mark.parametrize(
    "name",
    slow_unless(lambda name: name == "model_switch", ["gaussian_noise", "output_noise", "model_switch"]),
)
def test_a_random_defense_costs_about_that_with_other_noise_too(name, calibration):
    paid = distances(found(f"{name}(l1=0.3)", calibration), calibration, draws=40)
    # The mean of 6,000 answers, each with a standard deviation below 0.75: 4 of its own errors.
    assert paid.mean() == pytest.approx(0.3, abs=4 * paid.std() / np.sqrt(len(paid)) + 0.003)


@pytest.mark.parametrize(
    ("name", "cost"),
    slow_unless(
        lambda name, cost: name == "reverse_sigmoid" and cost != 0.1,
        product(["reverse_sigmoid", "gaussian_noise"], [0.1, 0.3, 1.0]),
    ),
)
def test_benign_users_of_the_test_split_pay_about_as_much(name, cost, context, digits_spec, digits_victim):
    stack = (defenses.canonical(f"{name}(l1={cost})"),)
    x = digits_victim.splits.test.x
    told = context.api(digits_spec, stack, 0, 0).predict(x)
    paid = np.abs(told - digits_victim.probabilities(x)).sum(axis=1).mean()
    assert paid == pytest.approx(cost, rel=0.05)


@pytest.mark.parametrize("name", ["reverse_sigmoid", "parameter_noise", "high_confidence"])
def test_no_answer_to_the_calibration_split_costs_more_than_the_bound(name, calibration):
    paid = distances(found(f"{name}(l1_max=0.3)", calibration), calibration)
    assert 0.9 * 0.3 <= paid.max() <= 0.3
    assert paid.mean() < 0.28


def test_a_bound_on_a_random_defense_holds_for_what_was_drawn(quick_calibration, monkeypatch):
    calibration = quick_calibration
    monkeypatch.setattr("defenses.tuning.utility_loss.ANSWERS", 3_000)
    bounded, meant = (found(f"gaussian_noise({key}=0.3)", calibration) for key in ("l1_max", "l1"))
    assert bounded.effective.scale < meant.effective.scale / 2
    paid = distances(bounded, calibration, draws=5)
    assert paid.max() < 0.33
    assert paid.mean() < 0.15


@pytest.mark.parametrize(
    ("text", "parameter", "stronger"),
    [
        ("rounded(l1=0.03)", "decimals", -1),
        ("top_k(l1=0.03)", "k", -1),
        ("top_k(l1_max=0.3)", "k", -1),
    ],
)
def test_of_whole_numbers_the_strongest_that_benign_users_can_bear(text, parameter, stronger, calibration):
    cost, which = (0.3, np.max) if "max" in text else (0.03, np.mean)
    defense = found(text, calibration)
    value = getattr(defense.effective, parameter)
    assert isinstance(value, int)
    assert 0 < which(distances(defense, calibration)) <= cost
    next_one = found(f"{defense.name}({parameter}={value + stronger})", calibration)
    assert which(distances(next_one, calibration)) > cost


def test_other_parameters_are_kept_and_the_strength_depends_on_them(calibration):
    one, other = (found(f"reverse_sigmoid(gamma={gamma}, l1=0.3)", calibration) for gamma in (0.1, 0.5))
    assert (one.effective.gamma, other.effective.gamma) == (0.1, 0.5)
    assert one.effective.beta > 1.5 * other.effective.beta


def test_cheaper_defenses_are_weaker_ones(calibration):
    betas = [found(f"reverse_sigmoid(l1={e})", calibration).effective.beta for e in (0.01, 0.1, 1.0, 1.7)]
    assert betas == sorted(betas)
    assert len(set(betas)) == 4


def test_a_gate_is_moved_without_being_fitted_again(quick_calibration):
    calibration = quick_calibration
    gate = found("mahalanobis(fpr=0.5)", calibration)
    moved, fitted = gate.at(0.2, calibration), found("mahalanobis(fpr=0.2)", calibration)
    assert repr(moved) == repr(fitted)
    assert (moved.thresholds_ == fitted.thresholds_).all()
    assert moved.flagged_ == fitted.flagged_
    assert gate.fpr == 0.5
    assert found("mahalanobis(l1=0.3)", calibration).effective.fpr < 0.5


@pytest.mark.parametrize(
    "text",
    slow_unless(
        lambda text: "mahalanobis" not in text,
        ["gaussian_noise(l1=0.1)", "model_switch(l1=0.1)", "mahalanobis(l1=0.3)"],
    ),
)
def test_the_same_cost_on_the_same_victim_finds_the_same_bits(text, quick_calibration):
    calibration = quick_calibration
    state = np.random.get_state()[1].copy()  # what we guard
    afresh = replace(calibration, costs={})
    assert repr(found(text, afresh).effective) == repr(found(text, calibration).effective)
    assert (np.random.get_state()[1] == state).all()


def test_costs_that_were_measured_are_not_measured_again(quick_calibration, monkeypatch):
    calibration = quick_calibration
    found("output_noise(l1=0.1)", calibration)
    monkeypatch.setattr("defenses.tuning.utility_loss._distances", lambda *_: pytest.fail("measured again"))
    found("output_noise(l1=0.1)", calibration)


# --- paths on which the cost does not grow evenly


class Bumpy(OutputDefense):
    """Costs 0.4 at 0.2, less from there on, and 1 at the strong end."""

    name = "bumpy"
    strength = StrengthRange("strength", 0.0, 1.0)  # a parameter may have this name too

    def __init__(self, *, strength: Annotated[float, Field(ge=0, le=1)] = 0.5) -> None:
        super().__init__()
        self.strength = strength

    def __call__(self, preds):
        cost = np.interp(self.strength, [0, 0.2, 0.6, 1], [0, 0.4, 0.1, 1])
        return preds + np.array([-cost, cost]) / 2


class Stairs(Bumpy):
    """Costs 0.1 up to 0.3, 0.5 up to 0.7, then 1."""

    name = "stairs"

    def __call__(self, preds):
        cost = np.select([self.strength <= 0.3, self.strength <= 0.7], [0.1, 0.5], 1.0)
        return preds + np.array([-cost, cost]) / 2


@pytest.fixture
def two_classes():
    x, y = np.zeros((50, 1, 2, 2), np.float32), np.zeros(50, np.int64)
    return Calibration(x, y, x, y, np.tile([0.9, 0.1], (50, 1)))


def by(cls, calibration, **given):
    defense = with_utility_loss("defense", cls, given)
    defense.fit(calibration)
    return defense


def test_where_the_cost_rises_and_falls_the_smallest_strength_that_reaches_it_is_found(two_classes):
    assert by(Bumpy, two_classes, l1=0.3).effective.strength == pytest.approx(0.15, rel=0.01)
    assert by(Bumpy, two_classes, l1=0.5).effective.strength == pytest.approx(0.6 + 0.4 * 0.4 / 0.9, rel=0.01)
    assert by(Bumpy, two_classes, l1=1.0).effective.strength == 1


def test_in_steps_the_last_one_below_is_found_unless_it_costs_less_than_half(two_classes):
    assert by(Stairs, two_classes, l1=0.8).effective.strength == pytest.approx(0.7)
    with pytest.raises(NotApplicable) as reason:
        by(Stairs, two_classes, l1=0.4)
    assert str(reason.value) == (
        "stairs has nothing at a mean L1 of 0.4 on this victim: "
        "its cost goes in steps, and after 0.1 strength=0.3 costs 0.5"
    )


# --- what cannot be reached


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "rounded(l1=0.3)",
            "rounded cannot reach a mean L1 of 0.3 on this victim: decimals=1, its strongest,",
        ),
        (
            "top_k(l1_max=1)",
            "top_k cannot reach a largest L1 of 1 on this victim: k=1, its strongest, costs 0.",
        ),
        ("output_noise(l1=1.7)", "output_noise cannot reach a mean L1 of 1.7 on this victim: scale="),
        (
            "softmax_flattening(l1=0.3)",
            "cannot cost as little as a mean L1 of 0.3 on this victim: bias=1, its",
        ),
        ("rate_limit(l1=0.3)", "limit=1, its strongest, costs 0; a rejected query has no distance"),
        ("model_switch(rule=confidence, l1=0.5)", "share=1, its strongest, costs 0.1"),
        ("mahalanobis(l1=0.001)", "its cost goes in steps, and after 0 fpr=0.0"),
    ],
)
def test_a_cost_out_of_reach_is_said_with_the_nearest_one(text, said, quick_calibration):
    calibration = quick_calibration
    defense = defenses.build(text)
    with pytest.raises(NotApplicable) as reason:
        defense.fit(calibration)
    assert said in str(reason.value)
    assert "\n" not in str(reason.value)
    with pytest.raises(NotFittedError):
        defense.answer(Batch(calibration.inputs[:1], calibration.probabilities[:1], np.ones((1, 10)) / 10))


def test_the_costliest_strength_is_named_where_it_is_not_the_strongest(quick_calibration):
    with pytest.raises(NotApplicable, match=r"scale=[\d.]+, its costliest, costs 1\.\d"):
        found("output_noise(l1=1.9)", quick_calibration)


def test_a_victim_that_a_defense_does_not_fit_is_said_as_without_a_cost(context):
    with pytest.raises(NotApplicable, match="a tree has none"):
        context.stack(VictimSpec("digits", "tree", 0), ("parameter_noise(l1=0.3)",), 0)


# --- what stands in for a defense


@pytest.mark.parametrize("name", WITH_PATH)
def test_before_it_is_fitted_it_promises_what_every_strength_keeps(name):
    cls = defenses.get(name)
    claims = defenses.build(f"{name}(l1=0.3)").claims
    values = {key: parameter.default for key, parameter in cls.parameters().items()}
    weak, strong = cls.strength.ends(values)
    for value in (weak, strong, (weak + strong) // 2 if cls.strength.whole else (weak + strong) / 2):
        each = cls(**{cls.strength.parameter: value}).claims
        assert claims.keeps_label <= each.keeps_label
        assert claims.distribution <= each.distribution
        assert claims.normalises <= each.normalises
        for risk in ("ties", "stochastic", "counts_queries", "may_refuse", "may_flag"):
            assert getattr(claims, risk) >= getattr(each, risk), risk


def test_once_fitted_it_is_the_defense_that_was_found(quick_calibration):
    calibration = quick_calibration
    defense = defenses.build("output_noise(keep_label=false, consistent=true, l1=0.3)")
    assert defense.effective is defense
    defense.fit(calibration)
    standing = defense.effective
    assert type(standing) is defenses.get("output_noise")
    assert repr(standing).startswith("output_noise(scale=0.05")
    assert defense.claims == standing.claims
    assert standing.claims.consistent_noise
    assert (defense.name, defense.paper) == (standing.name, standing.paper)
    assert defense.known_by == standing.known_by != ()
    raw = calibration.probabilities[:5]
    batch = Batch(calibration.inputs[:5], raw, raw.copy(), seed=3)
    assert (defense.answer(batch).probabilities == standing.answer(batch).probabilities).all()
    assert repr(defense) == "output_noise(keep_label=false, consistent=true, l1=0.3)"


def test_native_defenses_are_what_they_are():
    for name in defenses.names():
        defense = defenses.build(name)
        assert defense.effective is defense
        assert not isinstance(defense, UtilityLossTarget)


def test_a_fit_that_fails_leaves_nothing_of_the_one_before(calibration, two_classes):
    defense = defenses.build("rounded(l1=0.03)")
    defense.fit(calibration)
    with pytest.raises(NotApplicable):
        defense.fit(two_classes)
    assert defense.effective is defense


def test_noise_is_that_of_the_cell_and_not_of_the_search(
    context, digits_spec, digits_pool, tmp_path, monkeypatch
):
    monkeypatch.setattr("defenses.tuning.utility_loss.ANSWERS", 1_000)
    bench = WorkerContext(tmp_path, None)
    bench._kept |= {digits_spec: context.victim(digits_spec)}
    x = digits_pool.x[:5]
    stacks = [("gaussian_noise(l1=0.1)",), ("gaussian_noise(l1=0.100001)",)]
    one, other = (bench.api(digits_spec, stack, 0, 0).predict(x) for stack in stacks)
    again = bench.api(digits_spec, stacks[0], 0, 0).predict(x)
    assert (one == again).all()
    assert not np.allclose(one, other, atol=1e-3)


def test_in_a_stack_each_member_costs_what_it_costs_alone(quick_calibration):
    calibration = quick_calibration
    alone = found("reverse_sigmoid(l1=0.3)", calibration)
    whole = DefenseStack((defenses.build("gaussian_noise(l1=1)"), defenses.build("reverse_sigmoid(l1=0.3)")))
    whole.fit(calibration)
    assert repr(whole.defenses[1].effective) == repr(alone.effective)
    assert whole.claims.stochastic


def test_an_output_defense_by_its_cost_works_inside_art(calibration):
    defense = defenses.build("reverse_sigmoid(l1=0.3)")
    assert isinstance(defense, OutputDefense)
    with pytest.raises(NotFittedError, match=r"call fit .* reverse_sigmoid\(gamma=0.1, l1=0.3\)"):
        defense(calibration.probabilities)
    defense.fit(calibration)
    raw, x = calibration.probabilities[:100], calibration.inputs[:100]
    classifier = BlackBoxClassifier(lambda _: raw, x.shape[1:], 10, postprocessing_defences=defense)
    np.testing.assert_allclose(classifier.predict(x), defense.effective(raw), atol=1e-6)
    assert not isinstance(defenses.build("mahalanobis(l1=0.3)"), OutputDefense)


# --- texts


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("reverse_sigmoid(l1=0.3)", "reverse_sigmoid(gamma=0.1, l1=0.3)"),
        ("reverse_sigmoid(l1=1, gamma=0.2)", "reverse_sigmoid(gamma=0.2, l1=1.0)"),
        ("rounded(l1_max=0.1)", "rounded(l1_max=0.1)"),
        ("mahalanobis(action=refuse, l1=0.1)", "mahalanobis(action=refuse, layers=all, l1=0.1)"),
    ],
)
def test_the_text_names_the_cost_and_no_victim(text, spelled, calibration):
    assert defenses.canonical(text) == spelled
    assert defenses.canonical(spelled) == spelled
    if "sigmoid" in text:
        assert repr(found(text, calibration)) == spelled


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("reverse_sigmoid(beta=1, l1=0.3)", "takes beta or l1, not both: beta is found for that target"),
        ("reverse_sigmoid(l1=0.3, l1_max=0.3)", "'reverse_sigmoid' takes l1 or l1_max, not both"),
        ("reverse_sigmoid(l1=0)", "l1=0; number in (0, 2] is allowed"),
        ("reverse_sigmoid(l1_max=2.1)", "l1_max=2.1; number in (0, 2] is allowed"),
        ("reverse_sigmoid(l1=true)", "l1=True; number in (0, 2] is allowed"),
        ("reverse_sigmoid(gama=0.2, l1=0.3)", "no parameter 'gama'; did you mean 'gamma'"),
        ("reverse_sigmoid(gamma=11, l1=0.3)", "gamma=11; number in (0, 10] is allowed"),
        ("softmax_flattening(low=0.2, high=0.1, l1=0.3)", "low=0.2 is above high=0.1"),
        ("label_only(l1=0.3)", "defense 'label_only' takes no l1: it is a single point"),
        ("none(l1=0.3)", "defense 'none' takes no l1: it is a single point"),
        ("normalise(l1_max=0.3)", "defense 'normalise' takes no l1_max: it is a single point"),
    ],
)
def test_what_cannot_be_meant_is_said_in_a_sentence(text, said):
    with pytest.raises(UsageError) as error:
        defenses.build(text)
    assert said in str(error.value)


def test_a_defense_with_numbers_and_no_path_is_told_what_it_lacks():
    class Pathless(Defense):
        name = "pathless"

        def __init__(self, *, share: float = 0.5) -> None:
            self.share = share

        def answer(self, batch):
            return Answers.of(batch.probabilities.copy())

    with pytest.raises(UsageError, match="takes no l1: it declares no strength range from weak to strong"):
        with_utility_loss("defense", Pathless, {"l1": 0.3})
    assert with_utility_loss("defense", Pathless, {"share": 0.3}) is None


def test_a_parameter_of_that_name_stays_the_defenses_own():
    class Own(Plugin):
        name = "own"

        def __init__(self, *, l1: float = 0.5) -> None:
            self.l1 = l1

    assert with_utility_loss("defense", Own, {"l1": 0.3}) is None


def test_the_source_of_the_search_counts_only_where_it_is_used():
    native, cost = (defenses.source_digest(f"reverse_sigmoid({key}=0.3)") for key in ("beta", "l1"))
    assert len(native) == len(cost) == 64
    assert native != cost
    assert (
        cost
        == defenses.source_digest("reverse_sigmoid(l1_max=0.1)")
        != defenses.source_digest("rounded(l1=0.1)")
    )


def test_the_list_of_defenses_says_which_take_a_cost():
    lines = listing.table("defenses").splitlines()
    offers = [line for line in lines if "l1, l1_max" in line]
    assert len(offers) == len(WITH_PATH)
    assert any("in place of beta" in line and "(0, 2]" in line for line in offers)
    assert "l1" not in listing.table("attacks")


def test_a_worker_looks_at_one_calibration_split_of_a_victim(digits_spec, context, tmp_path):
    bench = WorkerContext(tmp_path, None)
    bench._kept |= {digits_spec: context.victim(digits_spec)}
    for cost in (0.1, 0.3):
        bench.stack(digits_spec, (f"reverse_sigmoid(l1={cost})",), 0)
    split = bench.once(("calibration", digits_spec, 0), None)
    assert len(split.costs) < 50
    assert (split.probabilities == context.victim(digits_spec).probabilities(split.inputs)).all()
