"""Victims: what they answer, and the check of their answers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from bench.data.datasets import Labelled, Splits, info
from bench.errors import BudgetError, MissingDataError, UsageError, VictimError
from bench.models import training
from bench.models.defended_api import DefendedAPI
from bench.models.determinism import torch_seed
from bench.models.victims import Victim, load_victim
from bench.tasks import VictimSpec
from defenses.base import DefenseStack

KINDS = ("mlp", "cnn", "logistic", "tree")
TORCH = ("mlp", "cnn")


@pytest.fixture
def victim_of(context):
    return lambda kind: context.victim(VictimSpec("digits", kind, 0))


@pytest.mark.parametrize("kind", KINDS)
def test_a_victim_reaches_what_is_expected_of_it(kind, victim_of):
    victim = victim_of(kind)
    assert victim.accuracy() >= victim.expected == info("digits").expected[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_a_victim_returns_probabilities(kind, victim_of):
    victim = victim_of(kind)
    answers = victim.probabilities(victim.splits.test.x)
    assert answers.shape == (447, 10)
    assert answers.dtype == np.float64
    assert (answers >= 0).all()
    assert np.allclose(answers.sum(axis=1), 1, atol=1e-9)
    assert victim.probabilities(victim.splits.test.x[:0]).shape == (0, 10)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_alone_is_answered_as_in_a_batch_to_the_last_bit(kind, victim_of):
    victim = victim_of(kind)
    x = victim.splits.test.x
    whole = replace(victim).probabilities(x)
    fresh = replace(victim)
    assert (np.concatenate([fresh.probabilities(row[None]) for row in x[::40]]) == whole[::40]).all()
    assert (replace(victim).probabilities(x[::-1])[::-1] == whole).all()


def test_each_distinct_input_is_evaluated_once(victim_of):
    victim, seen = victim_of("mlp"), []

    def model(x):
        seen.append(np.flatnonzero(x.any(axis=(1, 2, 3))).size)
        return victim.model(x)

    watched = replace(victim, model=model)
    x = victim.splits.test.x[:20]
    twice = watched.probabilities(np.concatenate([x, x]))
    assert (twice[:20] == twice[20:]).all()
    watched.probabilities(x)
    assert seen == [20]


@pytest.mark.parametrize("kind", TORCH)
def test_torch_victims_offer_features_and_count_parameters(kind, victim_of):
    victim = victim_of(kind)
    depths = victim.features(victim.splits.test.x[:7])
    assert {len(depth) for depth in depths} == {7}
    assert {depth.ndim for depth in depths} == {2}
    assert np.allclose(training.softmax(depths[-1]), victim.probabilities(victim.splits.test.x[:7]))
    assert victim.parameters > 1_000


def test_scikit_learn_victims_offer_no_features(victim_of):
    assert victim_of("tree").features is None
    assert victim_of("logistic").features is None


def test_victims_of_another_seed_or_architecture_are_other_victims(victim_of, context):
    prints = {victim_of(kind).fingerprint for kind in KINDS}
    prints.add(context.victim(VictimSpec("digits", "tree", 1)).fingerprint)
    assert len(prints) == len(KINDS) + 1


def test_a_missing_data_set_names_the_command_that_fetches_it(tmp_path):
    with pytest.raises(MissingDataError, match="moatbench data fetch mnist"):
        load_victim(VictimSpec("mnist", "mlp", 0), tmp_path)


def test_a_lenet_victim_on_digits_is_a_usage_error():
    with pytest.raises(UsageError, match="lenet needs inputs"):
        load_victim(VictimSpec("digits", "lenet", 0), "nowhere")


def test_a_victim_on_official_splits_is_another_one_and_says_so(context):
    spec = VictimSpec("digits", "logistic", 0, "official")
    victim = context.victim(spec)
    assert str(spec) == victim.name == "digits/logistic (official splits)"
    assert len(victim.splits.train.x) == 1_437
    assert victim.accuracy() >= victim.expected == info("digits").expected_official["logistic"]
    assert victim.fingerprint != context.victim(VictimSpec("digits", "logistic")).fingerprint


def test_linear_victims_say_so(victim_of):
    said = {kind: victim_of(kind).linear for kind in KINDS}
    assert said == {kind: kind == "logistic" for kind in KINDS}


# --- the check of a victim's answers


def splits(width=3, n=30, shape=(1, 4, 4)):
    rng = np.random.default_rng(0)

    def part():
        return Labelled(rng.random((n, *shape), dtype=np.float32), rng.integers(0, width, n))

    return Splits(part(), part(), part(), part(), width)


def brought(model, **changes):
    return Victim(model=model, splits=replace(splits(), **changes), name="theirs")


def uniform(x):
    return np.full((len(x), 3), 1 / 3, dtype=np.float32)


def test_probabilities_pass_the_check():
    victim = brought(uniform)
    victim.check()
    assert len(victim.fingerprint) == 64


def nan(x):
    answers = uniform(x)
    answers[0, 1] = np.nan
    return answers


@pytest.mark.parametrize(
    ("model", "seen"),
    [
        (
            lambda x: uniform(x) * 10 - 4,
            r"smallest entry -0.6667, largest -0.6667, .*; these look like logits",
        ),
        (lambda x: uniform(x) * 2, "smallest entry 0.6667, .* a row sums to 2; rows must sum to 1$"),
        (lambda x: uniform(x) * 0.97, "smallest entry 0.3233, .* a row sums to 0.97; rows must sum to 1$"),
        (
            lambda x: np.tile([1.5, -0.5, 0.0], (len(x), 1)),
            "smallest entry -0.5, largest 1.5, a row sums to 1;",
        ),
        (nan, "1 of 30 answers hold NaN or infinity"),
        (lambda x: uniform(x) / 0, "30 of 30 answers hold NaN or infinity"),
        (lambda x: uniform(x)[:, :2], r"expected shape \(30, 3\), got \(30, 2\)"),
        (lambda x: uniform(x)[:, 0], r"expected shape \(30, 3\), got \(30,\)"),
        (lambda x: uniform(x)[:1], r"expected shape \(30, 3\), got \(1, 3\)"),
    ],
)
def test_other_answers_are_rejected_and_described(model, seen):
    victim = brought(model)
    with (
        np.errstate(divide="ignore"),
        pytest.raises(VictimError, match=f"victim theirs does not return probabilities: {seen}"),
    ):
        victim.check()


@pytest.mark.parametrize(
    ("part", "wrong"),
    [
        ("pool", Labelled(np.zeros((5, 16), np.float32), np.zeros(5, np.int64))),
        ("train", Labelled(np.zeros((5, 1, 5, 5), np.float32), np.zeros(5, np.int64))),
        ("calibration", Labelled(np.zeros((5, 1, 4, 4), np.float32), np.zeros(4, np.int64))),
        ("test", Labelled(np.zeros((5, 16), np.float32), np.zeros(5, np.int64))),
    ],
)
def test_splits_of_other_shapes_are_rejected_by_name(part, wrong):
    with pytest.raises(VictimError, match=r"split .* must be \(n, "):
        brought(uniform, **{part: wrong}).check()


def test_a_fingerprint_depends_on_answers_and_on_every_split():
    other = splits(n=31)
    made = [
        brought(uniform),
        brought(lambda x: np.eye(3)[np.zeros(len(x), int)]),
        *(
            brought(uniform, **{name: getattr(other, name)})
            for name in ("train", "calibration", "pool", "test")
        ),
    ]
    for victim in made:
        victim.check()
    assert len({victim.fingerprint for victim in made}) == len(made)


# --- what a victim that was brought may spoil, and what it promises


class Drifting:
    """A model or its features that answer otherwise on every call."""

    def __init__(self, width):
        self.calls, self.width = 0, width

    def __call__(self, x):
        self.calls += 1
        return np.eye(self.width)[np.full(len(x), self.calls % self.width)]


def test_a_victim_that_is_not_deterministic_says_so():
    with pytest.raises(
        VictimError, match=r"victim theirs is not deterministic: .*its answers differ by up to 1;"
    ):
        brought(Drifting(3)).check()
    drifting = Drifting(3)
    victim = replace(brought(uniform), features=lambda x: [drifting(x)])
    with pytest.raises(VictimError, match=r"its features differ by up to 1; switch off dropout"):
        victim.check()


def probabilities_of(network):
    def model(x):
        with torch.no_grad():
            return torch.softmax(network(torch.from_numpy(x)), dim=1).numpy()

    return model


@pytest.mark.parametrize(
    ("layer", "said"),
    [(nn.Dropout(), "is not deterministic"), (nn.BatchNorm1d(9), "when the rest of its batch is another")],
)
def test_a_network_in_training_mode_is_rejected(layer, said):
    with torch_seed(0):
        network = nn.Sequential(nn.Flatten(), nn.LazyLinear(9), layer, nn.Linear(9, 3))
        network(torch.zeros(2, *splits().test.x.shape[1:]))
    victim = brought(probabilities_of(network))
    with pytest.raises(VictimError, match=f"victim theirs .*{said}"):
        victim.check()
    network.eval()
    brought(probabilities_of(network)).check()


@pytest.mark.parametrize(
    ("features", "said"),
    [
        (lambda x: [np.full((len(x), 4), np.nan)], "30 of 30 rows hold NaN or infinity"),
        (
            lambda x: [np.zeros((len(x) + 1, 4))],
            r"expected a floating-point array of shape \(30, d\) .*\(31, 4\)",
        ),
        (lambda x: [np.zeros(len(x))], r"got float64 \(30,\)"),
        (lambda x: [np.zeros((len(x), 4), dtype=int)], r"got int64 \(30, 4\)"),
        (lambda _: [], r"expected depths of \(\) features, as before, got \(\)"),
        (lambda _: 1 / 0, r"failed in features: ZeroDivisionError"),
    ],
)
def test_features_that_are_none_are_rejected_and_described(features, said):
    victim = replace(brought(uniform), features=features)
    with pytest.raises(VictimError, match=f"victim theirs .*{said}"):
        victim.check()


def test_features_whose_width_changes_are_rejected():
    widths = iter([4, 4, 5])
    victim = replace(brought(uniform), features=lambda x: [np.zeros((len(x), next(widths)))])
    victim.check()
    with pytest.raises(VictimError, match=r"expected depths of \(4,\) features, as before, got \(5,\)"):
        victim.activations(splits().test.x)


@pytest.mark.parametrize("error", [ValueError("odd"), SystemExit(0), KeyError("k")])
def test_whatever_a_model_raises_names_the_victim(error):
    def model(_):
        raise error

    with pytest.raises(VictimError, match=rf"victim theirs .* in predict.*{type(error).__name__}"):
        brought(model).check()


def test_a_model_that_keeps_what_it_gets_and_returns_changes_no_answer_and_no_input():
    kept = []

    def spoil():
        for array in kept:
            array[...] = 0.5

    def model(x):
        spoil()
        answers = np.eye(3)[x.reshape(len(x), -1).argmax(axis=1) % 3]
        kept.extend([x, answers])
        return answers

    def features(x):
        spoil()
        depth = x.reshape(len(x), -1).astype(np.float64)
        kept.extend([x, depth])
        return [depth]

    victim = replace(brought(model), features=features)
    x = victim.splits.test.x.copy()
    wide = np.tile(x, (10, 1, 1, 1)) * np.linspace(0.5, 1, 300, dtype=np.float32).reshape(-1, 1, 1, 1)
    victim.check()
    answers, depths = victim.probabilities(x).copy(), victim.activations(x)[0].copy()
    whole = victim.activations(wide)[0].copy()
    spoil()
    assert (victim.splits.test.x == x).all()
    assert (victim.probabilities(x) == answers).all()
    assert (victim.activations(x)[0] == depths).all()
    assert (depths == x.reshape(len(x), -1)).all()
    assert (whole == wide.reshape(300, -1)).all()
    assert answers.max(axis=1).all()


def test_a_model_that_seeds_and_sets_flags_leaves_them_as_they_were():
    def model(x):
        np.random.seed(0)
        np.seterr(all="raise")
        torch.manual_seed(0)
        torch.set_grad_enabled(False)
        return uniform(x)

    before = np.random.get_state()[1].tobytes(), np.geterr(), torch.get_rng_state().tolist()
    brought(model).check()
    brought(model).probabilities(splits().test.x)
    assert (np.random.get_state()[1].tobytes(), np.geterr(), torch.get_rng_state().tolist()) == before
    assert torch.is_grad_enabled()


def test_what_an_attack_or_a_defense_gets_of_a_victim_does_not_lead_to_its_splits(victim_of):
    victim = replace(victim_of("mlp"))
    api = DefendedAPI(victim, DefenseStack(), budget=5, seed=0)
    for given in (api.client(), victim.reader(), victim.reader(cached=False), victim.perturb(0.1, 0)):
        owners = [given, getattr(given, "__self__", None), *vars(given).values()]
        for owner in owners:
            assert not isinstance(owner, Victim | DefendedAPI)
            assert not isinstance(getattr(owner, "__self__", None), Victim | DefendedAPI)
    client = api.client()
    client.budget = 10**6
    with pytest.raises(BudgetError):
        client.predict(victim.splits.pool.x[:6])
    assert api.account.sent == 0
