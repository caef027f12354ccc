"""Restoration for defenses that change labels, and how much training simulated defenses may take."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from attacked_api import SEEDS, Setting

from attacks.base import Known
from attacks.restore import Restore
from attacks.restoring import network, pairs, prior
from attacks.restoring.network import RestoringNetwork
from attacks.restoring.pairs import FOLDS, ShadowModels, simulated_instances
from attacks.restoring.prior import UNKNOWN
from attacks.restoring.training_work import training_work
from attacks.restoring.without_labels import _half_renamed, restored_without_labels
from bench.models.interim_surrogates import InterimSurrogates

CLASSES = 10


@pytest.fixture(scope="module")
def setting(context, digits_spec, digits_pool):
    return Setting(context, digits_spec, digits_pool, InterimSurrogates("mlp", (1, 8, 8), CLASSES, 3))


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr(network, "STEPS", 500)


# --- rows of any class


def test_rows_of_any_class_have_the_estimates_shape_and_each_class_as_often():
    estimates = np.tile([0.9, 0.09, 0.009, 0.001], (4_000, 1))
    rows = prior.draw_any_class(estimates, np.full(4_000, UNKNOWN), 1, (0.0, 0.5))
    assert np.allclose(rows.sum(axis=1), 1)
    # Without noise every row holds the entries of one: the roots, divided by their sum.
    roots = np.sqrt(estimates[0])
    assert np.allclose(np.sort(rows, axis=1)[:, ::-1], roots / roots.sum())
    # Six standard errors of a share of a quarter.
    counts = np.bincount(rows.argmax(axis=1), minlength=4)
    assert (np.abs(counts - 1_000) <= 6 * np.sqrt(4_000 * 0.25 * 0.75)).all()


def test_noise_is_normal_in_the_logarithms():
    estimates = np.tile([0.5, 0.5], (20_000, 1))
    rows = prior.draw_any_class(estimates, np.full(20_000, UNKNOWN), 1, (1.0, 3.0))
    # The log-odds are the difference of two draws with deviation 1.
    odds = np.log(rows[:, 0] / rows[:, 1])
    assert odds.mean() == pytest.approx(0, abs=6 * np.sqrt(2 / 20_000))
    assert odds.std() == pytest.approx(np.sqrt(2), rel=0.03)


def test_rows_of_any_class_keep_known_labels_and_depend_on_the_seed_alone():
    estimates = np.random.default_rng(0).dirichlet(np.ones(5), size=30)
    labels = np.where(np.arange(30) % 2, np.arange(30) % 5, UNKNOWN)
    one, same, other = (prior.draw_any_class(estimates, labels, seed, (1.0, 1.0)) for seed in (3, 3, 4))
    assert (one.argmax(axis=1) == labels)[labels != UNKNOWN].all()
    assert one.tobytes() == same.tobytes() != other.tobytes()


# --- defenses that change labels


class Mixing:
    """A simulated defense that leaves each row a share and gives the rest to one class, ``by`` places on."""

    known = ()
    randomized = False

    def __init__(self, share=0.49, by=None, keeps_label=False):
        self.share, self.by, self.keeps_label = share, by, keeps_label

    def answer(self, x, rows, seed=0):
        n, classes = rows.shape
        by = np.random.default_rng(seed).integers(1, classes, n) if self.by is None else self.by
        other = np.eye(classes)[(rows.argmax(axis=1) + by) % classes]
        return self.share * rows + (1 - self.share) * other


def misled(n=90, classes=5):
    """Return shadow models whose estimates are confident, and as often of one class as of another."""
    rng = np.random.default_rng(5)
    estimates = rng.permuted(np.tile([0.97, 0.02, 0.005, 0.003, 0.002][:classes], (n, 1)), axis=1)
    fold = np.arange(n) % FOLDS
    x = np.zeros((n, 1, 2, 2), np.float32)
    return ShadowModels(x, estimates.argmax(axis=1), fold >= 0, fold, (), estimates)


def clean_rows(n=90, classes=5):
    rng = np.random.default_rng(6)
    logs = np.log([0.96, 0.02, 0.01, 0.006, 0.004]) + rng.normal(size=(n, classes))
    rows = np.exp(logs)
    return rng.permuted(rows / rows.sum(axis=1, keepdims=True), axis=1)


@pytest.mark.parametrize("by", [None, 1])
def test_labels_that_a_defense_hides_are_found_without_any_estimate(by):
    """The answer's largest entry is another class; the next one is the clean label."""
    clean, defense = clean_rows(), Mixing(by=by)
    answers = defense.answer(None, clean, 99)
    assert (answers.argmax(axis=1) == clean.argmax(axis=1)).mean() < 0.1
    instances = [[defense] * FOLDS]
    found = restored_without_labels(instances, misled(), answers, 1)
    assert (found.argmax(axis=1) == clean.argmax(axis=1)).mean() > 0.9
    assert np.allclose(found.sum(axis=1), 1)
    again = restored_without_labels(instances, misled(), answers, 1)
    assert found.tobytes() == again.tobytes()


@pytest.mark.parametrize("defense", [Mixing(0.9), Mixing(keeps_label=True)])
def test_nothing_is_restored_where_that_finds_no_more_labels_than_the_answers_show(defense):
    """Labels are kept, or claimed to be."""
    instances = [[defense] * FOLDS]
    answers = defense.answer(None, clean_rows(), 99)
    assert restored_without_labels(instances, misled(), answers, 1) is None


def test_the_order_of_the_largest_entries_shows_what_logarithms_do_not():
    """Two entries differ by a ten-thousandth, and the smaller one is the clean class."""
    rng = np.random.default_rng(3)
    clean = np.eye(4)[rng.integers(0, 4, 4_000)]
    other = np.eye(4)[(clean.argmax(axis=1) + rng.integers(1, 4, 4_000)) % 4]
    answers = 0.49995 * clean + 0.50005 * other
    nothing = np.full_like(clean, 0.25)
    right = {}
    for order in (False, True):
        learned = RestoringNetwork(4, 7, order=order)
        learned.fit(answers[:3_000], nothing[:3_000], clean[:3_000])
        found = learned.restore(answers[3_000:], nothing[3_000:])
        right[order] = (found.argmax(axis=1) == clean[3_000:].argmax(axis=1)).mean()
    assert right[True] > 0.99
    assert right[False] < 0.7


@pytest.mark.parametrize("stack", ["mad(eps=1.0, proxy=scratch)", "random_one_hot(eps=1.0)"])
def test_an_attack_finds_the_labels_that_a_defense_changed(stack, setting, digits_victim):
    transfer_set, api = setting.acquire(Restore(), (stack,), 90, knowledge="full", seeds=SEEDS)
    given = transfer_set.restoration
    truth = digits_victim.probabilities(given.x)
    labels = truth.argmax(axis=1)
    assert (given.answers.argmax(axis=1) == labels).mean() < 0.1
    assert (given.restored.argmax(axis=1) == labels).mean() > 0.85
    assert np.abs(given.restored - truth).sum(axis=1).mean() < 0.3
    assert transfer_set.facts["read_as_restored"] == 1
    assert np.array_equal(transfer_set.y, given.restored.astype(np.float32))
    assert api.account.sent == 90


# --- how much training simulated defenses take


def test_training_is_counted_in_changed_numbers():
    weights = torch.zeros(3, 4, requires_grad=True)
    optimizer = torch.optim.Adam([weights])

    def step():
        weights.sum().backward()
        optimizer.step()

    with training_work() as work:
        for _ in range(5):
            step()
    step()
    assert work.updates == 5 * 12


class Training:
    """An API whose simulated defenses take ``updates`` when they are fitted."""

    nb_classes = 4

    def __init__(self, updates, known):
        self.updates, self.known, self.shadows = updates, known, []

    def simulate(self, known, shadow):
        weights = torch.zeros(self.updates, requires_grad=True)
        weights.sum().backward()
        torch.optim.SGD([weights], lr=0.1).step()
        self.shadows.append(shadow)
        simulation = Mixing(0.9)
        strength = shadow.seed if known[0].parameters is None else known[0].parameters["strength"]
        simulation.known = (Known("some", {"strength": strength}),)
        return simulation


@pytest.mark.parametrize(
    ("affordable", "parameters", "fits", "instances", "apart"),
    [
        (9, {"strength": 1}, 9, 3, 9),
        (8, {"strength": 1}, 3, 1, 3),
        (2, {"strength": 1}, 1, 1, 1),
        (12, None, 12 + 9, 3, 9),
        (8, None, 8 + 3, 1, 3),
        (1, None, 2, 1, 1),
    ],
)
def test_the_more_training_a_fit_takes_the_fewer_instances(
    affordable, parameters, fits, instances, apart, monkeypatch
):
    monkeypatch.setattr(pairs, "MOST_UPDATES", 100 * affordable)
    api, shadows = Training(100, (Known("some", parameters),)), misled(classes=5)

    def predictor(x):
        return np.full((len(x), 5), 0.2)

    shadows = ShadowModels(
        shadows.x, shadows.labels, shadows.single, shadows.fold, [predictor] * FOLDS, shadows.estimates
    )
    rest = np.zeros((30, 1, 2, 2), np.float32)
    found = simulated_instances(api, shadows, shadows.estimates, rest, 3)
    assert len(api.shadows) == fits
    assert len(found) == instances
    assert all(len(instance) == FOLDS for instance in found)
    assert len({id(simulation) for instance in found for simulation in instance}) == apart
    seeds = [shadow.seed for shadow in api.shadows]
    assert len(set(seeds)) == len(seeds)


def test_half_of_the_draws_of_each_width_have_renamed_classes():
    """Clean rows of one shape, whose widths take turns: all 20 draws of a row are the same but for names."""
    shadows = misled()
    made = pairs.simulated_pairs(
        [[Mixing(by=1)] * FOLDS], shadows, clean_rows(), 1, replace(prior.OF_ANY_CLASS, draw=by_width)
    )
    renamed = _half_renamed(made, 1)
    assert np.allclose(np.sort(renamed.clean, axis=2), np.sort(made.clean, axis=2))
    changed = (renamed.clean != made.clean).any(axis=(1, 2))
    widths = made.clean[:, 0].max(axis=1)
    assert len(set(widths)) == 2
    for width in set(widths):
        assert changed[widths == width].mean() == pytest.approx(0.5, abs=0.1)


def by_width(estimates, _labels, _seed, width):
    top = 0.5 + 0.05 * width[1]
    rows = np.full(estimates.shape, (1 - top) / (estimates.shape[1] - 1))
    rows[:, 0] = top
    return rows


def test_a_simulated_defense_is_fitted_on_a_limited_number_of_rows(monkeypatch):
    monkeypatch.setattr(pairs, "MOST_ROWS", 40)
    shadows = misled()

    def predictor(x):
        return np.eye(5)[[0] * len(x)]

    shadows = ShadowModels(
        shadows.x, shadows.labels, shadows.single, shadows.fold, [predictor] * FOLDS, shadows.estimates
    )
    shadow = shadows.shadow(0, np.ones((30, 1, 2, 2), np.float32), 1)
    # 20 of the 30 own inputs, which are all ones, and 20 of 60 rows; 10 of them, and all 30 rows of the fold.
    assert (len(shadow.train_inputs), int(shadow.train_inputs[:, 0, 0, 0].sum())) == (40, 20)
    assert (len(shadow.inputs), int(shadow.inputs[:, 0, 0, 0].sum())) == (40, 10)
    assert len(shadow.train_labels) == 40
