"""The contract that every attack keeps, tomorrow's included, and what each one does beyond it."""

from __future__ import annotations

import random
import warnings
from dataclasses import dataclass, replace
from textwrap import dedent

import numpy as np
import pytest
import torch
from art.attacks.extraction import KnockoffNets
from art.estimators.classification import PyTorchClassifier
from attacked_api import RecordingApi, Setting, rows_of
from cases import each_once, slow_unless

from attacks.base import Extraction, Pool, RandomSeeds, Target, TransferSet
from attacks.common.art_recorder import Recorder
from attacks.knockoff import Bandit, Rewards, sample_index
from bench.models import surrogates
from bench.models.determinism import torch_seed
from bench.models.interim_surrogates import InterimSurrogates
from bench.models.training_config import TrainingConfig
from bench.plugins import Registry, attacks, defenses
from bench.seeds import legacy_numpy, random_state
from defenses.base import Answers, Claims, Defense, DefenseStack

TARGET = Target(10, linear=False)

REWARDS = ("cert", "div", "loss", "all")
ADAPTIVE = [f"knockoff(sampling_strategy=adaptive, reward={reward})" for reward in REWARDS]
BUYING = [name for name in attacks.names() if issubclass(attacks.get(name), Extraction)]
BY_GRADIENTS = ["active_thief(strategy=dfal-k-center, seeds=10)", "jbda(targets=top3, seeds=10)"]
EVERY = [*BUYING, "copycat(use_probability=true)", "knockoff(use_probability=true)", *ADAPTIVE, *BY_GRADIENTS]
ASKING = [text for text in EVERY if attacks.build(text).queries]
GUARDED = [
    *defenses.names(),
    "rounded(decimals=1)",
    "high_confidence(cutoff=0.9)",
    "mahalanobis(action=label_only)",
    "mahalanobis(action=refuse)",
    "rounded(decimals=1) + mahalanobis(action=refuse)",
    "top_k(k=2) + gaussian_noise(scale=0.3) + rounded(decimals=2)",
]
ONE_OF_EACH_KIND = [
    "rounded(decimals=1)",
    "gaussian_noise",
    "mahalanobis(action=label_only)",
    "mahalanobis(action=refuse)",
    "rate_limit",
    "top_k(k=2) + gaussian_noise(scale=0.3) + rounded(decimals=2)",
]
BUDGET = 24


def parts(stack):
    return tuple(text for text in stack.split(" + ") if text != "none")


def promises(stack):
    return DefenseStack(tuple(defenses.build(text) for text in parts(stack))).claims


KEEPS_LABELS = [
    stack
    for stack in GUARDED
    if promises(stack).keeps_label and not promises(stack).ties and not promises(stack).may_refuse
]


class Refuse(Defense):
    """Refuses every query, or those that answer odd classes."""

    name = "refuse"

    def __init__(self, *, everything):
        self.everything = everything

    claims = Claims(may_refuse=True)

    def answer(self, batch):
        refused = np.full(len(batch), True) if self.everything else batch.raw.argmax(axis=1) % 2 == 1
        return Answers(batch.probabilities.copy(), refused, np.zeros_like(refused))


@dataclass
class RecordingSetting(Setting):
    """A victim and a pool half of which is noise, which OOD detectors flag; the APIs record queries."""

    @property
    def trainer(self):
        return InterimSurrogates("mlp", self.pool.x.shape[1:], 10, 3)

    def stack(self, text):
        return self.context.stack(self.spec, parts(text), 0)

    def api(self, stack="none", budget=BUDGET, shows="probabilities", knowledge="none"):
        stack = self.stack(stack) if isinstance(stack, str) else stack
        victim = self.context.victim(self.spec)
        return RecordingApi(victim, stack, budget=budget, seed=5, shows=shows, knowledge=knowledge)

    def acquire(self, attack, stack="none", budget=BUDGET, shows="probabilities", pool=None):
        knowledge = "none" if "none" in attack.knowledge else attack.knowledge[-1]
        budget = budget if attack.queries else 0
        return super().acquire(
            attack, stack, budget, pool=pool, surrogates=self.trainer, shows=shows, knowledge=knowledge
        )


@pytest.fixture(scope="module")
def setting(context, digits_spec, digits_pool):
    noise = context.pool(digits_spec, "noise", 0)
    mixed = Pool(
        name="mixed",
        x=np.concatenate([digits_pool.x[:60], noise.x[:60]]),
        y=np.concatenate([digits_pool.y[:60], noise.y[:60]]),
        access="in-distribution",
        same_classes=True,
    )
    return RecordingSetting(context, digits_spec, mixed)


def same(one, other):
    return one.x.tobytes() == other.x.tobytes() and one.y.tobytes() == other.y.tobytes()


def global_states():
    legacy = np.random.get_state()
    return [repr(random.getstate()), repr(legacy), torch.get_rng_state().numpy().tobytes()]


# --- the contract: each clause asserts one promise of an attack


def spends_exactly_the_budget(attack, setting):
    for budget in (1, BUDGET) if attack.queries else (0,):
        _, api = setting.acquire(attack, budget=budget)
        assert api.account.sent == budget
        assert sum(map(len, api.queried)) == budget


def buys_rows_of_the_pool(attack, setting):
    transfer_set, api = setting.acquire(attack)
    assert transfer_set.x.dtype == transfer_set.y.dtype == np.float32
    assert transfer_set.x.shape[1:] == setting.pool.x.shape[1:]
    assert transfer_set.y.shape == (len(transfer_set.x), 10)
    assert transfer_set.x.flags.c_contiguous
    assert transfer_set.y.flags.c_contiguous
    assert np.isfinite(transfer_set.y).all()
    assert np.allclose(transfer_set.y.sum(axis=1), 1, atol=1e-5)
    if not attack.makes_inputs:
        assert set(rows_of(transfer_set.x)) <= set(rows_of(setting.pool.x))
    if attack.queries and attack.row_by_row:
        assert rows_of(transfer_set.x) == rows_of(np.concatenate(api.queried))


def learns_nothing_from_refusals(attack, setting):
    if not attack.queries:
        return
    for stack in (setting.stack("mahalanobis(action=refuse)"), DefenseStack((Refuse(everything=False),))):
        transfer_set, api = setting.acquire(attack, stack)
        assert api.account.sent == BUDGET
        # A detector may find that all inputs are strange that an attack has made.
        assert 0 < api.account.refused <= BUDGET - (not attack.makes_inputs)
        asked = np.concatenate(api.queried)
        kept = ~setting.api(stack, None).query(asked, "another").refused
        if attack.row_by_row:
            assert rows_of(transfer_set.x) == rows_of(asked[kept])
        assert not set(rows_of(transfer_set.x)) & set(rows_of(asked[~kept]))
        assert np.isfinite(transfer_set.y).all()


def survives_a_wall(attack, setting):
    if not attack.queries:
        return
    transfer_set, api = setting.acquire(attack, DefenseStack((Refuse(everything=True),)))
    assert api.account.sent == api.account.refused == BUDGET
    assert transfer_set.x.shape == (0, *setting.pool.x.shape[1:])
    assert transfer_set.y.shape == (0, 10)
    assert transfer_set.x.dtype == transfer_set.y.dtype == np.float32


def a_smaller_budget_is_a_prefix(attack, setting):
    if not attack.queries or not attack.prefix:
        return
    for stack in ("none", "gaussian_noise"):
        large, _ = setting.acquire(attack, stack)
        for budget in (1, BUDGET // 2):
            small, _ = setting.acquire(attack, stack, budget)
            assert same(small, TransferSet(large.x[:budget], large.y[:budget]))


def two_runs_are_equal(attack, setting):
    one, _ = setting.acquire(attack, "gaussian_noise")
    other, _ = setting.acquire(attack, "gaussian_noise")
    assert same(one, other)
    assert one.digest() == other.digest()


def leaves_global_generators_and_the_pool_alone(attack, setting):
    before, x, y = global_states(), setting.pool.x.copy(), setting.pool.y.copy()
    setting.acquire(attack, "gaussian_noise")
    assert global_states() == before
    assert (setting.pool.x == x).all()
    assert (setting.pool.y == y).all()


def survives_one_defense_of_each_kind(attack, setting, stacks=ONE_OF_EACH_KIND):
    for stack in stacks:
        transfer_set, api = setting.acquire(attack, stack)
        if attack.row_by_row:
            assert len(transfer_set.x) == (api.account.answered if attack.queries else len(setting.pool.x)), (
                stack
            )
        assert np.isfinite(transfer_set.y).all(), stack


def survives_every_defense(attack, setting):
    survives_one_defense_of_each_kind(attack, setting, GUARDED)


def waits_for_answers_no_more_often_than_it_says(attack, setting):
    if not attack.queries:
        return
    budget = 60
    _, api = setting.acquire(attack, budget=budget)
    if attack.round_trips(budget) > 1:
        assert sum(len(x) > 0 for x in api.queried) <= attack.round_trips(budget) <= budget
        return
    _, other = setting.acquire(attack, "gaussian_noise(scale=1)", budget)
    assert rows_of(np.concatenate(api.queried)) == rows_of(np.concatenate(other.queried))


CONTRACT = (
    spends_exactly_the_budget,
    buys_rows_of_the_pool,
    learns_nothing_from_refusals,
    survives_a_wall,
    a_smaller_budget_is_a_prefix,
    two_runs_are_equal,
    leaves_global_generators_and_the_pool_alone,
    survives_one_defense_of_each_kind,
    survives_every_defense,
    waits_for_answers_no_more_often_than_it_says,
)


@pytest.mark.parametrize("text", EVERY)
@pytest.mark.parametrize(
    "clause",
    slow_unless(lambda clause: clause is not survives_every_defense, CONTRACT),
    ids=lambda clause: clause.__name__,
)
def test_every_attack_keeps_the_contract(clause, text, setting):
    clause(attacks.build(text), setting)


OUTSIDE = '''
import numpy as np
from moatbench import Extraction, TransferSet, random_state

class Timid(Extraction):
    """Sends one input after another, in an order of its own."""
    name = "timid"
    def acquire(self, api, pool, learner, streams):
        rows = random_state(streams.order).permutation(len(pool.x))[: api.budget]
        answers = [api.predict(pool.x[row : row + 1])[0] for row in rows]
        kept = [not np.isnan(answer).any() for answer in answers]
        told = np.array(answers, dtype=np.float32).reshape(-1, api.nb_classes)
        return TransferSet(pool.x[rows[kept]], told[kept])
'''


def test_an_attack_in_a_file_of_the_users_keeps_the_contract(tmp_path, setting):
    path = tmp_path / "timid.py"
    path.write_text(dedent(OUTSIDE))
    registry = Registry("attack", "attacks", "attacks.base:Attack")
    registry.add_file(path)
    assert "timid" in registry.names()
    for clause in CONTRACT:
        clause(registry.build("timid"), setting)


# --- labels are all that a labels attack sees


@pytest.mark.parametrize(("text", "stack"), each_once(ASKING, KEEPS_LABELS))
def test_the_labels_of_a_defense_that_keeps_them_sell_what_label_only_sells(text, stack, setting):
    attack = attacks.build(text)
    replayed, _ = setting.acquire(attack, stack, shows="labels")
    sold, _ = setting.acquire(attack, "label_only")
    assert same(replayed, sold)


def test_the_replay_covers_the_defenses_that_it_should():
    assert {"none", "label_only", "top_k(k=3)", "mahalanobis(action=label_only)"} <= {
        *KEEPS_LABELS,
        *(defenses.canonical(stack) for stack in KEEPS_LABELS if " + " not in stack),
    }
    assert "rounded" not in KEEPS_LABELS


# --- copycat and knockoff


@pytest.mark.parametrize("learns", ["true", "false"])
@pytest.mark.parametrize("stack", ["none", "mahalanobis(action=refuse)", "gaussian_noise"])
def test_copycat_and_random_knockoff_are_one_algorithm(stack, learns, setting):
    copycat, _ = setting.acquire(attacks.build(f"copycat(use_probability={learns})"), stack)
    knockoff, _ = setting.acquire(attacks.build(f"knockoff(use_probability={learns})"), stack)
    assert same(copycat, knockoff)


@pytest.mark.parametrize("name", ["copycat", "knockoff"])
def test_probabilities_are_kept_whole_and_labels_are_one_hot(name, setting):
    whole, _ = setting.acquire(attacks.build(f"{name}(use_probability=true)"))
    labels, _ = setting.acquire(attacks.build(name))
    truth = setting.api(budget=None).predict(whole.x)
    assert (whole.y == truth.astype(np.float32)).all()
    assert (labels.y == np.eye(10, dtype=np.float32)[truth.argmax(axis=1)]).all()


@pytest.mark.parametrize("text", ["copycat", "knockoff"])
def test_random_queries_are_drawn_without_replacement(text, setting):
    transfer_set, _ = setting.acquire(attacks.build(text), budget=len(setting.pool.x))
    assert sorted(rows_of(transfer_set.x)) == sorted(rows_of(setting.pool.x))


@pytest.mark.parametrize("text", EVERY)
def test_what_a_pool_supplies_is_its_size_or_without_end(text, setting):
    attack = attacks.build(text)
    small = replace(setting.pool, x=setting.pool.x[:8], y=setting.pool.y[:8])
    assert attack.supply(8) in (8, None)
    _, api = setting.acquire(attack, budget=attack.supply(8) or 20, pool=small)
    assert not attack.queries or api.account.sent >= 8


@pytest.mark.parametrize("text", ADAPTIVE)
def test_the_bandit_can_spend_more_than_the_pool_holds(text, setting):
    small = replace(setting.pool, x=setting.pool.x[:8], y=setting.pool.y[:8])
    transfer_set, _ = setting.acquire(attacks.build(text), budget=20, pool=small)
    assert len(transfer_set.x) == 20


@pytest.mark.parametrize("text", ADAPTIVE)
def test_the_bandit_takes_labels_with_gaps(text, setting):
    gaps = replace(setting.pool, y=np.where(setting.pool.y < 5, 3, 17))
    transfer_set, _ = setting.acquire(attacks.build(text), pool=gaps)
    assert len(transfer_set.x) == BUDGET


def test_the_bandit_wants_two_classes(setting):
    attack = attacks.build(ADAPTIVE[0])
    assert attack.applicable(setting.pool, TARGET) == ""
    assert "fewer than two classes" in attack.applicable(replace(setting.pool, y=setting.pool.y * 0), TARGET)
    assert attacks.build("knockoff").applicable(replace(setting.pool, y=setting.pool.y * 0), TARGET) == ""


def test_the_bandits_two_streams_are_apart(setting):
    attack = attacks.build(ADAPTIVE[0])
    found = {
        attack.acquire(setting.api(), setting.pool, setting.trainer, streams).digest()
        for streams in (RandomSeeds(1, 1), RandomSeeds(1, 2), RandomSeeds(2, 1))
    }
    assert len(found) == 3


def test_the_bandit_prefers_what_pays():
    bandit = Bandit(3)
    for turn in range(200):
        bandit.update(turn % 3, 1.0 if turn % 3 == 2 else 0.0)
    assert sum(bandit.probabilities) == pytest.approx(1)
    assert bandit.probabilities[2] == max(bandit.probabilities)


@pytest.mark.parametrize("text", [text for text in ADAPTIVE if "cert" in text or "div" in text])
def test_the_bandit_turns_away_from_what_is_rejected(text, setting, digits_only):
    rows = digits_only.y < 2
    pool = replace(digits_only, x=digits_only.x[rows], y=digits_only.y[rows])
    transfer_set, api = setting.acquire(
        attacks.build(text), DefenseStack((Refuse(everything=False),)), 100, pool=pool
    )
    assert len(transfer_set.x) == api.account.answered > 1.5 * api.account.refused


def test_draws_are_numpys():
    rng, ours, theirs = np.random.default_rng(0), np.random.RandomState(3), np.random.RandomState(3)
    for classes in rng.integers(1, 40, size=300):
        weights = rng.dirichlet(np.full(classes, 0.3))
        assert sample_index(ours, weights.tolist()) == theirs.choice(classes, p=weights)
        assert ours.randint(classes) == theirs.choice(classes)


def test_rewards_that_overflow_leave_probabilities():
    bandit = Bandit(2)
    for turn in range(8):
        bandit.update(turn % 2, 1e6 * (turn % 2))
    assert np.isfinite(bandit.probabilities).all()


@pytest.mark.parametrize("kind", REWARDS)
def test_rewards_are_finite_on_answers_that_say_nothing(kind):
    rewards = Rewards(kind, 3)
    certain, extreme = np.array([0.0, 1.0, 0.0]), np.array([500.0, -500.0, 0.0], dtype=np.float32)
    found = [
        rewards.of(certain, extreme),
        rewards.of(certain, extreme),
        rewards.nothing(),
        rewards.of(certain * 0, extreme),
    ]
    assert np.isfinite(found).all()


def test_certainty_is_the_gap_between_the_two_largest():
    answer, logits = np.array([0.1, 0.6, 0.05, 0.25]), np.zeros(4, np.float32)
    assert Rewards("cert", 4).of(answer, logits) == pytest.approx(0.35)


def test_diversity_is_what_exceeds_the_mean_answer():
    rewards, nothing = Rewards("div", 2), np.zeros(2, np.float32)
    assert rewards.of(np.array([1.0, 0.0]), nothing) == 0
    assert rewards.of(np.array([0.0, 1.0]), nothing) == pytest.approx(0.5)


def test_loss_is_the_cross_entropy_of_two_softmaxes():
    answer, logits = np.array([1.0, 0.0]), np.array([0.0, 1.0], np.float32)
    high, low = np.e / (1 + np.e), 1 / (1 + np.e)
    expected = -(high * np.log(low) + low * np.log(high))
    assert Rewards("loss", 2).of(answer, logits) == pytest.approx(expected)


# --- beside ART's own adaptive Knockoff

QUERIES = 60


@pytest.fixture(scope="module")
def digits_only(digits_pool):
    return replace(digits_pool, x=digits_pool.x[:120], y=digits_pool.y[:120])


def thieved(shape):
    """Return ART's surrogate: the network, loss and optimiser of ours."""
    network = surrogates.initial_network("mlp", shape, 10, 3)
    rule = TrainingConfig().schedule("mlp", shape, 1)
    return PyTorchClassifier(
        model=network,
        loss=torch.nn.CrossEntropyLoss(),
        optimizer=torch.optim.Adam(network.parameters(), lr=rule.learning_rate, fused=True),
        input_shape=shape,
        nb_classes=10,
    )


def steal_with_art(api, pool, reward):
    """Run ART's attack. Its classifier shuffles by torch's generator, so NumPy's are the bandit's."""
    attack = KnockoffNets(
        api,
        batch_size_fit=1,
        batch_size_query=1,
        nb_epochs=1,
        nb_stolen=QUERIES,
        sampling_strategy="adaptive",
        reward=reward,
        verbose=False,
    )
    with legacy_numpy(21), torch_seed(0):
        attack.extract(pool.x, pool.y, thieved_classifier=thieved(pool.x.shape[1:]))


@pytest.mark.parametrize("reward", REWARDS)
def test_the_adaptive_choices_are_arts_where_art_survives(reward, setting, digits_only):
    art = setting.api(budget=QUERIES)
    steal_with_art(art, digits_only, reward)
    ours = setting.api(budget=QUERIES)
    one = random_state(21)
    transfer_set = attacks.build(f"knockoff(sampling_strategy=adaptive, reward={reward})").query_adaptively(
        ours, digits_only, setting.trainer, order=one, choices=one
    )
    assert rows_of(np.concatenate(ours.queried)) == rows_of(np.concatenate(art.queried))
    assert len(set(rows_of(transfer_set.x))) > QUERIES // 3


def test_the_choices_depend_on_the_reward(setting, digits_only):
    found = set()
    for reward in REWARDS:
        one = random_state(21)
        attack = attacks.build(f"knockoff(sampling_strategy=adaptive, reward={reward})")
        api = setting.api(budget=QUERIES)
        found.add(attack.query_adaptively(api, digits_only, setting.trainer, order=one, choices=one).digest())
    assert len(found) == len(REWARDS)


@pytest.fixture(scope="module")
def sure(setting, digits_pool):
    """Return digits on which the victim is so sure that its rounded answers have no variance."""
    rounded = setting.api("rounded(decimals=1)", None).predict(digits_pool.x)
    rows = rounded.max(axis=1) == 1
    return replace(digits_pool, x=digits_pool.x[rows], y=digits_pool.y[rows])


@pytest.mark.parametrize(
    ("stack", "reward"),
    [
        ("rounded(decimals=1)", "all"),
        ("label_only", "all"),
        *(("mahalanobis(action=refuse)", reward) for reward in REWARDS),
    ],
)
def test_arts_own_dies_where_ours_survives(stack, reward, setting, sure):
    pool = setting.pool if "refuse" in stack else sure
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        with pytest.raises(ValueError, match="contain NaN"):
            steal_with_art(setting.api(stack, QUERIES), pool, reward)
    attack = attacks.build(f"knockoff(sampling_strategy=adaptive, reward={reward})")
    transfer_set, api = setting.acquire(attack, stack, QUERIES, pool=pool)
    assert api.account.sent == QUERIES
    assert len(transfer_set.x) == api.account.answered > 0


# --- own labels, and the recorder


def test_own_labels_are_the_pools(setting):
    transfer_set, api = setting.acquire(attacks.build("own_labels"))
    assert api.account.sent == 0
    assert (transfer_set.x == setting.pool.x).all()
    assert (transfer_set.y.argmax(axis=1) == setting.pool.y).all()


def test_own_labels_need_the_victims_classes(setting):
    attack = attacks.build("own_labels")
    assert attack.applicable(setting.pool, TARGET) == ""
    assert "not the victim's classes" in attack.applicable(replace(setting.pool, same_classes=False), TARGET)


def test_own_labels_make_no_sense_on_noise(context, digits_spec):
    assert attacks.build("own_labels").applicable(context.pool(digits_spec, "noise", 0), TARGET)


def test_a_recorder_that_was_never_trained_has_recorded_nothing(setting):
    with pytest.raises(RuntimeError):
        _ = Recorder(setting.api(), setting.pool.x.shape[1:]).transfer_set


def test_a_transfer_sets_digest_knows_shape_order_and_values():
    x, y = np.zeros((2, 1, 2, 2), np.float32), np.eye(2, dtype=np.float32)
    found = {
        TransferSet(x, y).digest(),
        TransferSet(x, y[::-1]).digest(),
        TransferSet(x.reshape(2, 1, 1, 4), y).digest(),
        TransferSet(x + 1, y).digest(),
        TransferSet(x[:0], y[:0]).digest(),
    }
    assert len(found) == 5
    assert TransferSet(x[::1], np.asfortranarray(y)).digest() == TransferSet(x, y).digest()


def test_learners_start_alike(setting):
    x = setting.pool.x[:3]
    assert (setting.trainer().logits(x) == setting.trainer().logits(x)).all()
