"""The attack that learns the inverse of whatever it can simulate."""

from copy import copy
from dataclasses import replace
from textwrap import dedent

import numpy as np
import pytest
from attacked_api import SEEDS, Setting

from attacks.base import Known, RandomSeeds
from attacks.restore import LEAST, Restore
from attacks.restoring import network, prior, table
from attacks.restoring.choice import defended, gives_a_map, predicts_as_well
from attacks.restoring.network import RestoringNetwork
from attacks.restoring.pairs import GenuinePairs, Pairs, ShadowModels, genuine_pairs, simulated_instances
from attacks.restoring.prior import UNKNOWN
from attacks.restoring.restorers import HELD_OUT, RESTORERS, restored_answers
from bench.errors import NotApplicable
from bench.models.defended_api import DefendedAPI
from bench.models.interim_surrogates import InterimSurrogates
from bench.plugins import attacks, defenses
from bench.runner.cells import run_cells
from bench.tasks import Cell, ThreatModel
from defenses.base import Answers

CLASSES = 10


@pytest.fixture(autouse=True)
def few_steps(monkeypatch, request):
    """Let the network be trained for a fifth of its steps, but for tests that are slow anyway."""
    if "slow" not in request.keywords:
        monkeypatch.setattr(network, "STEPS", 300)


def l1(a, b):
    return float(np.abs(a - b).sum(axis=-1).mean())


# --- the prior


def test_the_label_that_is_known_changes_places_with_the_largest_entry():
    rows = np.array([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1], [0.1, 0.2, 0.7]])
    found = prior.with_top(rows, np.array([2, UNKNOWN, 2]))
    assert found.tolist() == [[0.1, 0.2, 0.7], [0.7, 0.2, 0.1], [0.1, 0.2, 0.7]]
    assert rows[0, 0] == 0.7


@pytest.mark.parametrize("width", prior.WIDTHS)
def test_draws_are_distributions_around_the_estimate_and_no_entry_vanishes(width):
    concentration, power = width
    estimate = np.array([0.9, 0.06, 0.03, 0.01, 0.0])
    rows = prior.draw(np.tile(estimate, (20_000, 1)), np.full(20_000, UNKNOWN), 3, width)
    assert np.allclose(rows.sum(axis=1), 1)
    assert rows.min() >= 0.9 * prior.LEAST
    # A Dirichlet's mean is that of its parameters; its variance is m (1 - m) / (their sum + 1).
    parameters = concentration * 5 * estimate**power / (estimate**power).sum() + prior.FLOOR
    mean = parameters / parameters.sum()
    variance = mean * (1 - mean) / (parameters.sum() + 1)
    # Six standard errors: a right implementation fails once in 100 million draws of a seed.
    assert (np.abs(rows.mean(axis=0) - mean) <= 6 * np.sqrt(variance / 20_000) + 1e-8).all()
    assert np.allclose(rows.var(axis=0), variance, rtol=0.1, atol=1e-3)


def test_draws_have_the_known_label_and_depend_on_the_seed_alone():
    estimates = np.random.default_rng(0).dirichlet(np.ones(CLASSES), size=40)
    labels = np.arange(40) % CLASSES
    one, same, other = (prior.draw(estimates, labels, seed, (2.0, 1.0)) for seed in (5, 5, 6))
    assert (one.argmax(axis=1) == labels).all()
    assert one.tobytes() == same.tobytes() != other.tobytes()
    certain = prior.draw(np.eye(3)[[0, 1]], np.full(2, UNKNOWN), 0, (8.0, 10.0))
    assert np.allclose(certain.sum(axis=1), 1)


@pytest.mark.parametrize("drawn", [prior.draw, prior.draw_any_class])
def test_no_two_entries_of_a_clean_row_are_equal(drawn):
    """A defense that takes the largest entry away would leave a tie, which it may claim not to have."""
    sure = np.eye(CLASSES)[np.arange(200) % CLASSES] * (1 - 1e-14) + 1e-15
    rows = drawn(sure, np.full(200, UNKNOWN), 0, (8.0, 10.0))
    assert (rows > 0).all()
    assert all(len(np.unique(row)) == CLASSES for row in rows)


# --- the table


def test_the_table_averages_the_clean_rows_whose_answers_are_nearest():
    # Seven draws for one row of two classes; five are averaged: those nearest to (.6, .4).
    tops = np.array([0.61, 0.9, 0.58, 0.7, 0.2, 0.65, 0.5])
    simulated = np.stack([tops, 1 - tops], axis=1)[:, None]
    clean = np.stack([tops**2, 1 - tops**2], axis=1)[:, None]
    found = table.restored(np.array([[0.6, 0.4]]), simulated, clean, np.array([[0.5, 0.5]]))
    expected = np.mean([0.61**2, 0.58**2, 0.7**2, 0.65**2, 0.5**2])
    assert found[0, 0] == pytest.approx(expected)
    assert found[0].sum() == pytest.approx(1)


def test_all_rows_within_the_tolerance_are_averaged_and_rejected_ones_are_not():
    # Eight answers are the bought one but for .004 in L1, and one of them was rejected.
    simulated = np.tile([[[0.6, 0.4]]], (10, 1, 1))
    simulated[:8] += [0.002, -0.002]
    simulated[8:] = [0.1, 0.9]
    simulated[3] = np.nan
    clean = np.linspace(0, 0.9, 10)[:, None, None] * [1.0, -1.0] + [0.0, 1.0]
    found = table.restored(np.array([[0.6, 0.4]]), simulated, clean, np.array([[0.5, 0.5]]))
    assert found[0, 0] == pytest.approx(np.mean([0, 0.1, 0.2, 0.4, 0.5, 0.6, 0.7]))
    nothing = table.restored(np.array([[0.6, 0.4]]), simulated * np.nan, clean, np.array([[0.3, 0.7]]))
    assert nothing.tolist() == [[0.3, 0.7]]


# --- the network


def shuffled_pairs(draws=40, n=50, classes=4):
    """Return pairs of a defense that answers the clean row with its entries in another order."""
    clean = np.random.default_rng(1).dirichlet(np.full(classes, 0.5), size=(draws, n))
    return Pairs(clean, clean[..., [2, 0, 3, 1]], np.full(n, UNKNOWN))


def test_the_network_learns_an_inverse_that_nobody_wrote():
    pairs = shuffled_pairs()
    estimates = np.full((50, 4), 0.25)
    found = []
    for _ in range(2):
        learned = RestoringNetwork(4, 7)
        learned.fit(pairs.answers.reshape(-1, 4), np.tile(estimates, (40, 1)), pairs.clean.reshape(-1, 4))
        new = np.random.default_rng(2).dirichlet(np.full(4, 0.5), size=50)
        found.append(learned.restore(new[:, [2, 0, 3, 1]], estimates))
        # Two independent draws are .9 apart.
        assert l1(found[-1], new) < 0.15
    assert found[0].tobytes() == found[1].tobytes()
    assert np.allclose(found[0].sum(axis=1), 1)


def genuine(pairs):
    """The same pairs, of shadow models' own answers, in one draw."""
    return GenuinePairs(pairs.clean[:1], pairs.answers[:1], np.full(pairs.clean.shape[1:], 0.25))


@pytest.mark.parametrize("model", ["network", "table"])
def test_answers_stay_as_they_are_where_restoring_would_not_help(model):
    pairs = shuffled_pairs(draws=20)
    estimates = np.full((50, 4), 0.25)
    bought = pairs.clean[0]
    same = replace(pairs, answers=pairs.clean)
    # Drawn rows would be enough to see it, and so would be the shadow models' own.
    for drawn, own in ((same, same), (same, pairs), (pairs, same)):
        kept, changed = restored_answers(model, bought, estimates, drawn, genuine(own), 1)
        assert not changed
        assert kept is bought
    restored, changed = restored_answers(model, bought, estimates, pairs, genuine(pairs), 1)
    assert changed
    assert restored.shape == bought.shape


def test_nothing_is_learnt_from_the_draws_that_are_held_out(monkeypatch):
    pairs = shuffled_pairs(draws=20)
    estimates = np.full((50, 4), 0.25)
    spoilt = pairs.clean.copy()
    spoilt[:HELD_OUT] = 1 - spoilt[:HELD_OUT]
    seen = []

    def learned(part, near, seed):
        seen.append(part)
        return RESTORERS["table"](part, near, seed)

    monkeypatch.setitem(RESTORERS, "watched", learned)
    restored_answers("watched", pairs.answers[9], estimates, replace(pairs, clean=spoilt), genuine(pairs), 1)
    (part,) = seen
    assert part.clean.tobytes() == pairs.clean[HELD_OUT:].tobytes()
    assert part.answers.tobytes() == pairs.answers[HELD_OUT:].tobytes()


# --- the attack

OUTSIDE = '''
import numpy as np
from moatbench import OutputDefense

class Tipped(OutputDefense):
    """Reverses the order of all classes but the top-1, and gives the last one almost half of the mass."""
    name = "tipped"
    def __init__(self):
        super().__init__()
    def __call__(self, preds):
        rows = np.array(preds, dtype=np.float64)
        every = np.arange(len(rows))[:, None]
        order = np.argsort(-rows, axis=1, kind="stable")
        falling = rows[every, order]
        answers = np.empty_like(rows)
        answers[every, order[:, 1:]] = falling[:, :0:-1]
        moved = 0.49 * (falling[:, 0] - falling[:, 1])
        answers[every[:, 0], order[:, 0]] = falling[:, 0] - moved
        answers[every[:, 0], order[:, -1]] += moved
        return answers
'''


@pytest.fixture
def tipped(tmp_path):
    path = tmp_path / "tipped.py"
    path.write_text(dedent(OUTSIDE))
    defenses.add_file(path)
    return ("tipped",)


@pytest.fixture(scope="module")
def setting(context, digits_spec, digits_pool):
    return Setting(context, digits_spec, digits_pool, InterimSurrogates("mlp", (1, 8, 8), CLASSES, 3))


def cell_of(spec, stack, attack, knowledge="full", budget=120, repeats=1, **threat):
    model = ThreatModel("in-distribution", "in-distribution", knowledge, "mlp", "probabilities")
    return Cell(spec, stack, replace(model, **threat), attacks.canonical(attack), budget, 0, repeats, 0)


@pytest.mark.parametrize("model", ["network", "table"])
def test_a_defense_from_outside_is_inverted_without_a_line_for_it(model, tipped, context, digits_spec):
    (outcome,) = run_cells([cell_of(digits_spec, tipped, f"restore(model={model})")], context)
    metrics = outcome.metrics
    # Labels, which it keeps, teach about as much as restored answers do, never the bought ones.
    assert metrics["extraction.read_as_is"] == 0
    # Restored answers are .2 from the victim's, the bought ones 1: almost half of the top's mass was moved.
    assert metrics["extraction.l1_restored"] < 0.4
    assert metrics["extraction.l1_answers"] > 0.8
    assert outcome.info.adaptation.proven
    assert outcome.info.queries.sent == 120


def test_the_distances_are_those_of_the_queries(tipped, setting, digits_victim, context, digits_spec):
    """By hand, from the transfer set of the same run."""
    (outcome,) = run_cells([cell_of(digits_spec, tipped, "restore(model=table)")], context)
    transfer_set, _ = setting.acquire(
        Restore(model="table"), tipped, 120, knowledge="full", seeds=RandomSeeds(1, 2)
    )
    given = transfer_set.restoration
    truth = digits_victim.probabilities(given.x)
    assert l1(given.answers, truth) == pytest.approx(outcome.metrics["extraction.l1_answers"], rel=0.05)
    assert l1(transfer_set.y, truth) == pytest.approx(l1(given.restored, truth), abs=1e-5)
    assert transfer_set.facts["read_as_restored"] == 1
    assert len(given.x) == 120


@pytest.mark.parametrize(
    ("stack", "from_inputs"),
    [
        ("parameter_noise(scale=0.05)", True),
        ("model_switch(rule=input_hash)", True),
        ("mad(eps=1.0)", False),
        ("modelguard_s(eps=1.0)", False),
        ("label_only", False),
        ("gaussian_noise(scale=0.1)", False),
    ],
)
def test_shadow_models_own_answers_count_where_a_defense_answers_from_the_input(stack, from_inputs, setting):
    api = setting.api((stack,), 100, knowledge="full").client()
    x = setting.pool.x[:100]
    answers = api.predict(x)
    labels, single = answers.argmax(axis=1), np.ones(100, dtype=bool)
    shadows = ShadowModels.trained(x, labels, single, CLASSES, setting.surrogates)
    instances = simulated_instances(api, shadows, answers, setting.pool.x[100:200], 5)
    found = genuine_pairs(instances, shadows)
    assert (found is not None) == from_inputs
    if found is not None:
        rows = shadows.fold == 1
        own = shadows.predictors[1](x[rows])
        np.testing.assert_array_equal(found.clean[0, rows], own)
        np.testing.assert_array_equal(found.answers[0, rows], instances[0][1].answer(x[rows], own, 0))
        assert not np.array_equal(found.estimates, found.clean[0])


def test_a_perturbed_victims_answers_are_learnt_as_they_are(context, digits_spec):
    """Drawn rows have nothing to do with them: restored from such pairs they were seven times as far away."""
    cells = [
        cell_of(digits_spec, ("parameter_noise(scale=0.05)",), f"restore(model={model})", budget=200)
        for model in ("network", "table")
    ]
    for outcome in run_cells(cells, context):
        assert outcome.metrics["extraction.read_as_is"] == 1
        assert outcome.metrics["extraction.l1_restored"] == outcome.metrics["extraction.l1_answers"]


def test_without_a_defense_the_answers_are_learnt_as_they_are(setting):
    transfer_set, api = setting.acquire(Restore(), knowledge="full")
    copycat, _ = setting.acquire(attacks.build("copycat(use_probability=true)"))
    assert transfer_set.digest() == copycat.digest()
    assert api.account.sent == 60


@pytest.mark.parametrize("shown", [{"stack": ("label_only",)}, {"shows": "labels", "stack": ("rounded",)}])
def test_of_labels_there_is_nothing_to_restore(shown, setting):
    transfer_set, _ = setting.acquire(Restore(), knowledge="full", **shown)
    labels, _ = setting.acquire(attacks.build("labels"), **shown)
    assert transfer_set.digest() == labels.digest()


def test_with_few_answers_labels_are_learnt(setting):
    few, _ = setting.acquire(Restore(), ("reverse_sigmoid",), LEAST - 1, knowledge="full")
    labels, _ = setting.acquire(attacks.build("labels"), ("reverse_sigmoid",), LEAST - 1)
    assert few.digest() == labels.digest()
    assert few.facts == {"small_budget": 1.0, "unlabelled_inputs": 0.0}


def test_what_cannot_be_simulated_is_not_applicable(context, digits_spec):
    cell = cell_of(digits_spec, ("parameter_noise(scale=0.05)",), "restore", surrogate="sklearn-tree")
    with pytest.raises(
        NotApplicable, match=r"parameter_noise cannot be simulated by the attacker: .*parameters"
    ):
        run_cells([cell], context)


CONDITIONS = [
    ("reverse_sigmoid(beta=1.0, gamma=0.5)", "network", "full"),
    ("mahalanobis(action=refuse)", "table", "family"),
    ("modelguard_s(eps=1.0)", "table", "full"),  # a codebook
    ("mad(eps=1.0)", "table", "full"),  # a proxy
]


class Replaying(DefendedAPI):
    """An API of whatever victim and defenses, that answers what another one has answered."""

    answers_of: dict

    def query(self, x, client, *, number=None):
        given = super().query(x, client, number=number)
        rows = np.array([self.answers_of[row.tobytes()] for row in np.asarray(x, np.float32)])
        return Answers(rows, np.isnan(rows).any(axis=1), given.flagged)


@pytest.mark.parametrize(("stack", "model", "knowledge"), CONDITIONS)
def test_only_the_answers_and_the_attackers_own_things_count(
    stack, model, knowledge, context, digits_spec, digits_victim, setting
):
    """The defender's seed, secrets, fitted state, data and victim change; the answers do not."""
    attack = Restore(model=model)
    fitted = context.stack(digits_spec, (defenses.canonical(stack),), 0)
    first = DefendedAPI(digits_victim, fitted, budget=100, seed=1, knowledge=knowledge, recorded=True)
    one = attack.acquire(first.client(), setting.pool, setting.surrogates, SEEDS)
    x, answers = first.queries()

    splits = digits_victim.splits
    other_test = replace(splits.test, x=splits.test.x[::-1].copy(), y=splits.test.y[::-1].copy())
    swapped = replace(splits, calibration=splits.test, test=other_test, train=splits.calibration)
    victim = replace(digits_victim, model=lambda x: np.full((len(x), CLASSES), 0.1), splits=swapped)
    refitted = context.stack(digits_spec, (defenses.canonical(stack),), 77)
    second = Replaying(victim, refitted, budget=100, seed=2, knowledge=knowledge)
    second.answers_of = {row.tobytes(): answer for row, answer in zip(x, answers, strict=True)}
    client = second.client()
    assert [each.name for each in client.known] == [each.name for each in first.known]
    client.known = first.known  # found for this victim, perhaps, but no secret at full knowledge
    other = attack.acquire(client, setting.pool, setting.surrogates, SEEDS)
    assert one.digest() == other.digest()
    assert one.restoration.restored.tobytes() == other.restoration.restored.tobytes()
    assert one.facts == other.facts
    if one.facts["read_as_restored"]:  # then what the attacker draws does count
        api = Replaying(victim, refitted, budget=100, seed=2, knowledge=knowledge)
        api.answers_of = second.answers_of
        client = api.client()
        client.known = first.known
        changed = attack.acquire(client, setting.pool, setting.surrogates, replace(SEEDS, choices=99))
        assert changed.digest() != one.digest()


def test_unknown_parameters_are_chosen_by_the_answers(setting):
    """At knowledge "family", those are kept whose simulated answers look like the bought ones."""
    simulated = []

    class Watching:
        """An API client that notes what is simulated."""

        def __init__(self, api):
            self.api = api

        def __getattr__(self, name):
            return getattr(self.api, name)

        def simulate(self, known, shadow):
            found = self.api.simulate(known, shadow)
            simulated.append((known, found.known))
            return found

    api = setting.api(("gaussian_noise(scale=0.01)",), 100, knowledge="family").client()
    assert api.known == (Known("gaussian_noise"),)
    Restore(model="table").acquire(Watching(api), setting.pool, setting.surrogates, SEEDS)
    drawn = [found[0].parameters["scale"] for known, found in simulated if known[0].parameters is None]
    kept = [known[0].parameters["scale"] for known, _ in simulated if known[0].parameters is not None]
    assert len(drawn) == len(set(drawn)) == 12
    assert len(set(kept)) == 3
    assert set(kept) <= set(drawn)
    assert max(kept) <= np.median(drawn)


# --- the choice between restored answers and labels


class Shifting:
    """Simulated defenses that answer with each row's entries moved by ``by`` places, or reject all rows."""

    known = ()
    keeps_label = False

    def __init__(self, by=1, randomized=False, rejects=False):
        self.by, self.randomized, self.rejects, self.seeds = by, randomized, rejects, []

    def answer(self, x, rows, seed=0):
        self.seeds.append(seed)
        return np.full(rows.shape, np.nan) if self.rejects else np.roll(rows, self.by, axis=1)


def apart(simulation):
    """An instance for each fold, of which the first is the given one."""
    return [simulation, copy(simulation), copy(simulation)]


@pytest.fixture
def first_fold():
    """Return shadow models of 40 rows, the rows of the first fold, and clean answers to these."""
    fold = np.arange(40) % 3
    rows, labels = fold == 0, np.arange(40) % 4
    shadows = ShadowModels(
        np.zeros((40, 1, 2, 2), np.float32), labels, fold >= 0, fold, (), np.full((40, 4), 0.25)
    )
    return shadows, rows, 0.9 * np.eye(4)[(labels[rows] - 1) % 4] + 0.025


def test_labels_that_the_defense_changed_are_explained_by_simulated_answers(first_fold):
    shadows, rows, predicted = first_fold
    labels, estimates = shadows.labels[rows], shadows.estimates[rows]
    (answers,) = defended([apart(Shifting())], shadows, rows, predicted)
    assert (answers.argmax(axis=1) == labels).all()
    # The clean answers have other labels; a surrogate that knows nothing is better than these.
    assert not predicts_as_well([predicted], estimates, labels)
    assert predicts_as_well([predicted, answers], estimates, labels)
    # A surrogate that predicts labels of answers is as good, and one that is better is preferred.
    assert predicts_as_well([predicted, answers], answers, labels)
    assert not predicts_as_well([predicted, np.roll(answers, 1, axis=1)], answers, labels)


def test_each_row_is_answered_by_the_instance_of_its_fold(first_fold):
    shadows, _, _ = first_fold
    every, clean = np.ones(len(shadows.x), dtype=bool), np.eye(4)[np.arange(40) % 4]
    (answers,) = defended([[Shifting(1), Shifting(2), Shifting(3)]], shadows, every, clean)
    for fold in range(3):
        part = shadows.fold == fold
        assert np.allclose(answers[part], np.roll(clean[part], fold + 1, axis=1))


def test_simulated_answers_are_averaged_over_instances_and_noise_but_not_over_rejections(first_fold):
    shadows, rows, predicted = first_fold
    one, two = Shifting(1), Shifting(2, randomized=True)
    rejecting = apart(Shifting(rejects=True))
    (mean,) = defended([apart(one), apart(two), rejecting], shadows, rows, predicted)
    # One answer of the first, five of the second, none of the third.
    assert np.allclose(mean, (np.roll(predicted, 1, axis=1) + 5 * np.roll(predicted, 2, axis=1)) / 6)
    assert len(set(two.seeds)) == 5
    (nothing,) = defended([rejecting], shadows, rows, predicted)
    assert (nothing == predicted).all()


def test_an_instance_that_has_learnt_the_labels_of_a_fold_does_not_judge_it(first_fold):
    shadows, rows, predicted = first_fold
    one = Shifting()
    assert defended([[one] * 3], shadows, rows, predicted) == []
    assert not gives_a_map([apart(one), [one] * 3])
    assert gives_a_map([apart(one)])
    one.keeps_label = True
    assert not gives_a_map([apart(one)])


def test_the_share_of_other_labels_leaves_rejected_answers_out():
    clean = np.tile([[0.7, 0.2, 0.1], [0.1, 0.2, 0.7]], (2, 1, 1))
    answers = clean.copy()
    answers[0, 0] = [0.2, 0.7, 0.1]
    answers[1, 1] = np.nan
    assert Pairs(clean, answers, np.full(2, UNKNOWN)).other_labels() == pytest.approx(1 / 3)
    assert Pairs(clean, answers * np.nan, np.full(2, UNKNOWN)).other_labels() == 0


def test_labels_that_a_defense_changes_most_of_the_time_are_never_learnt(setting, digits_victim):
    transfer_set, _ = setting.acquire(
        Restore(model="table"), ("random_one_hot(eps=1.0)",), LEAST, knowledge="full"
    )
    given = transfer_set.restoration
    wrong = given.answers.argmax(axis=1) != digits_victim.probabilities(given.x).argmax(axis=1)
    assert wrong.mean() > 0.9
    assert transfer_set.facts["read_as_labels"] == 0


def test_defenses_that_keep_the_label_are_not_simulated_for_the_choice(first_fold):
    shadows, rows, predicted = first_fold
    keeping = Shifting()
    keeping.keeps_label = True
    assert defended([[keeping] * 3], shadows, rows, predicted) == []
    assert not keeping.seeds


@pytest.mark.slow
def test_restoring_a_poison_beats_learning_it(tipped, context, digits_spec):
    """Over eight repeats, by more than three standard errors of paired differences."""

    def fidelity(attack, knowledge):
        cell = cell_of(digits_spec, tipped, attack, knowledge, budget=200, repeats=8)
        outcomes = run_cells(cell.group(), context)
        return np.array([outcome.metrics["extraction.fidelity"] for outcome in outcomes])

    restored = fidelity("restore", "full")
    better = restored - fidelity("copycat(use_probability=true)", "none")
    assert better.mean() > 3 * better.std(ddof=1) / np.sqrt(len(better))
    assert better.mean() > 0.2
