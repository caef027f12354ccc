"""Evasion: queries that look benign come first, by the inputs that the attacker owns and nothing else."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from attacked_api import SEEDS, Setting, rows_of
from sklearn.covariance import ledoit_wolf

from attacks import evade
from attacks.base import Pool, RandomSeeds, Target
from attacks.copycat import Copycat
from attacks.evade import BATCH, Evade, Pairs, ShadowDetector, blended, column_draws, distances, is_one_hot
from bench.errors import UsageError
from bench.inputs import Column, InputSpace
from bench.plugins import attacks

TARGET = Target(10, linear=False)
UNIT = InputSpace((1, 8, 8))
NO_DRAWS = np.empty((0, 0))
REFUSE = ("mahalanobis(action=refuse)",)


@pytest.fixture(scope="module")
def pool(context, digits_spec, digits_pool):
    """Sixty digits and sixty images of noise, in turns; all other digits of the split can be owned."""
    noise = context.pool(digits_spec, "noise", 0)
    x = np.stack([digits_pool.x[:60], noise.x[:60]], axis=1).reshape(120, 1, 8, 8)
    y = np.zeros(120, np.int64)
    return Pool("mixed", x, y, "near", same_classes=False, reference=digits_pool.x[60:])


@pytest.fixture
def acquire(context, digits_spec, pool):
    """Return the transfer set of an attack, and the account of its queries."""
    setting = Setting(context, digits_spec, pool)

    def run(attack, stack=(), budget=60, pool=pool, seeds=SEEDS, **shown):
        transfer_set, api = setting.acquire(attack, stack, budget, pool=pool, seeds=seeds, **shown)
        return transfer_set, api.account

    return run


@pytest.mark.parametrize("owned", [30, 200])
def test_distances_are_mahalanobis_under_the_shrunk_covariance(owned):
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(48, 48))
    honest, x = (rng.normal(size=(number, 48)) @ mix + 3 for number in (owned, 7))
    middle = honest.mean(axis=0)
    precision = np.linalg.inv(ledoit_wolf(honest - middle, assume_centered=True)[0])
    expected = np.sqrt(np.einsum("nd,de,ne->n", x - middle, precision, x - middle))
    found = distances(honest.reshape(owned, 3, 4, 4), x.reshape(7, 3, 4, 4))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_distances_to_inputs_that_never_vary_are_euclidean():
    honest, x = np.full((20, 1, 2, 2), 0.5), np.zeros((3, 1, 2, 2))
    np.testing.assert_allclose(distances(honest, x), 1)


def test_a_direction_in_which_benign_inputs_vary_counts_less():
    rng = np.random.default_rng(0)
    honest = rng.normal(size=(500, 1, 1, 2)) * [1, 0.1]
    along, across = distances(honest, np.array([[1.0, 0.0], [0.0, 1.0]]).reshape(2, 1, 1, 2))
    assert across > 5 * along


def test_no_input_is_no_distance():
    assert distances(np.zeros((20, 1, 2, 2)), np.zeros((0, 1, 2, 2))).shape == (0,)


@pytest.mark.parametrize("own", [20, 100])
def test_what_looks_benign_is_sent_first(own, acquire, pool):
    transfer_set, _ = acquire(Evade(own=own))
    honest = set(rows_of(pool.x[::2]))
    assert sum(row in honest for row in rows_of(transfer_set.x)) >= 58


def test_a_gate_that_stops_a_random_half_stops_next_to_none(acquire):
    _, random = acquire(Copycat(), REFUSE)
    _, evading = acquire(Evade(), REFUSE)
    assert random.flagged > 20
    assert evading.flagged < 3


def test_a_smaller_budget_sends_the_first_of_a_larger_one(acquire):
    large, _ = acquire(Evade(), budget=120)
    small, _ = acquire(Evade(), budget=25)
    assert rows_of(small.x) == rows_of(large.x)[:25]
    assert sorted(rows_of(large.x)) != rows_of(large.x)
    assert len(set(rows_of(large.x))) == 120


def test_the_attacker_has_the_stated_number_of_benign_inputs_and_more_of_them_include_fewer(
    acquire, pool, monkeypatch
):
    seen = []
    monkeypatch.setattr(
        evade, "distances", lambda owned, x: seen.append(rows_of(owned)) or distances(owned, x)
    )
    for attack, seeds in (
        (Evade(own=20), SEEDS),
        (Evade(own=50), SEEDS),
        (Evade(own=50), RandomSeeds(11, 1)),
    ):
        acquire(attack, seeds=seeds)
    few, many, others = seen
    assert [len(set(owned)) for owned in seen] == [20, 50, 50]
    assert few == many[:20]
    assert set(many) != set(others)
    assert set(many) | set(others) <= set(rows_of(pool.reference))


def test_it_learns_labels_or_whole_answers(acquire, digits_victim):
    labels, _ = acquire(Evade())
    whole, _ = acquire(Evade(use_probability=True))
    truth = digits_victim.probabilities(whole.x)
    assert rows_of(labels.x) == rows_of(whole.x)
    assert (whole.y == truth.astype(np.float32)).all()
    assert (labels.y == np.eye(10, dtype=np.float32)[truth.argmax(axis=1)]).all()
    assert labels.y.dtype == np.float32


@pytest.mark.parametrize("use_probability", [True, False])
def test_rejected_queries_teach_nothing(use_probability, acquire):
    transfer_set, account = acquire(Evade(use_probability=use_probability), REFUSE, budget=120)
    assert account.refused > 20
    assert len(transfer_set.x) == len(transfer_set.y) == account.answered
    assert np.isfinite(transfer_set.y).all()


def test_it_needs_inputs_to_own(pool):
    nothing, few = replace(pool, reference=None), replace(pool, reference=pool.reference[:99])
    assert Evade().applicable(pool, TARGET) == ""
    assert "own=100" in Evade().applicable(few, TARGET)
    assert "99 inputs" in Evade().applicable(few, TARGET)
    assert Evade(own=99).applicable(few, TARGET) == ""
    assert "0 inputs" in Evade().applicable(nothing, TARGET)


def test_whoever_owns_nothing_sends_at_random(acquire, pool):
    blind, _ = acquire(Evade(), pool=replace(pool, reference=None))
    random, _ = acquire(Copycat(), pool=pool)
    assert blind.digest() == random.digest()


def test_inputs_at_one_distance_come_in_the_seeded_order(acquire, pool):
    alike = np.zeros((64, 1, 8, 8), np.float32)
    alike.reshape(64, 64)[np.diag_indices(64)] = 1  # one pixel each, all as far from black
    black = replace(pool, x=alike, reference=np.zeros((20, 1, 8, 8), np.float32))
    tied, _ = acquire(Evade(own=20), pool=black)
    random, _ = acquire(Copycat(), pool=black)
    assert rows_of(tied.x) == rows_of(random.x)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("evade(own=19)", "own=19 is too few to fit a detector to; 0 or at least 20 is allowed"),
        ("evade(own=-1)", r"own=-1; integer in \[0, inf\)"),
        ("evade(own=0, blend=0.5)", "blend=0.5 needs inputs to blend with"),
        ("evade(blend=1.5)", r"blend=1.5; number in \[0, 1\]"),
        ("evade(clients=0)", r"clients=0; integer in \[1, inf\)"),
    ],
)
def test_invalid_parameters_are_an_error_that_says_why(text, message):
    with pytest.raises(UsageError, match=message):
        attacks.build(text)


def test_it_knows_of_the_gate():
    assert Evade.knowledge == ("family", "full")


# --- blending


@pytest.fixture(scope="module")
def noise(context, digits_spec):
    return context.pool(digits_spec, "noise", 0)


def test_what_is_not_used_is_not_spelled_so_that_old_names_stay():
    assert attacks.canonical("evade") == "evade(own=100, use_probability=false)"
    for text in ("blend=None, clients=None", "blend=0.25", "clients=3"):
        spelled = f"evade(own=100, use_probability=false, {text})"
        assert attacks.canonical(f"evade({text})") == spelled
        assert attacks.canonical(spelled) == spelled


def test_each_query_of_the_shared_draw_holds_a_share_of_an_own_input(acquire, noise):
    transfer_set, _ = acquire(Evade(blend=0.25), pool=noise)
    plain, _ = acquire(Copycat(), pool=noise)
    # Digits have seventeen shades.
    partners = np.round(64 * (transfer_set.x - 0.75 * plain.x)).astype(int)
    assert set(rows_of(partners)) <= set(rows_of(np.round(16 * noise.reference).astype(int)))
    assert len(set(rows_of(partners))) > 35  # dealt evenly over all of the pool, not the nearest few
    assert transfer_set.facts["blended"] == 0.25


def test_a_share_of_one_is_an_own_input_and_one_of_none_the_query(noise):
    x, partners = noise.x[:3], noise.reference[:3]
    np.testing.assert_array_equal(blended(x, partners, np.zeros(3), UNIT, NO_DRAWS), x)
    np.testing.assert_array_equal(blended(x, partners, np.ones(3), UNIT, NO_DRAWS), partners)
    half = blended(x, partners, np.full(3, 0.5), UNIT, NO_DRAWS)
    np.testing.assert_allclose(half, (x + partners) / 2, atol=1e-7)


def test_a_shadow_lets_most_benign_inputs_pass_and_asks_noise_to_blend(digits_pool, noise):
    shadow = ShadowDetector.fit(digits_pool.x[:200], 0.05, UNIT)
    partners = digits_pool.x[300:400]
    of_digits, of_noise = (
        Pairs(pool.x[200:300], partners, np.empty((100, 0)), UNIT) for pool in (digits_pool, noise)
    )
    honest, strange = map(shadow.shares, (of_digits, of_noise))
    assert (honest == 0).mean() > 0.8
    assert strange.min() >= 0.3
    assert strange.max() <= 1
    passed = distances(shadow.benign, of_noise.blended(strange)) <= shadow.threshold
    assert passed[strange < 1].all()
    less = distances(shadow.benign, of_noise.blended(strange - 0.1)) <= shadow.threshold
    assert not less.any()


TABLE = InputSpace.of_columns(
    [
        Column("age", "integer", 17, 90),
        Column("score", "number", -1, 1, missing=True),
        Column("member", "boolean", 0, 1),
        Column.of_categories("work", list("abcdefgh"), missing=True),
    ]
)


def table_rows(number, seed):
    rng = np.random.default_rng(seed)
    x = TABLE.uniform(number, rng)
    x[(rng.random(x.shape) < 0.2) & TABLE.missing] = np.nan
    return x


def test_numbers_of_a_table_are_blended_and_categories_come_from_one_of_the_two_rows():
    x, partners = table_rows(4_000, 1), table_rows(4_000, 2)
    draws = column_draws(len(x), TABLE, 3)
    mixed = blended(x, partners, np.full(len(x), 0.3), TABLE, draws)
    assert TABLE.problem(mixed) == ""
    np.testing.assert_allclose(mixed[:, 0], np.round(0.7 * x[:, 0] + 0.3 * partners[:, 0]))
    for column in (2, 3):
        same = [np.nan_to_num(rows[:, column], nan=-1) for rows in (mixed, x, partners)]
        apart = same[1] != same[2]
        assert ((same[0] == same[1]) | (same[0] == same[2])).all()
        assert 0.26 < (same[0] == same[2])[apart].mean() < 0.34  # 8 standard deviations of a share of .3
    there = ~np.isnan(x[:, 1]) & ~np.isnan(partners[:, 1])
    np.testing.assert_allclose(mixed[there, 1], 0.7 * x[there, 1] + 0.3 * partners[there, 1], atol=1e-6)
    one = np.isnan(x[:, 1]) != np.isnan(partners[:, 1])  # a missing number has no mean either
    assert 0.2 < (np.isnan(mixed[one, 1]) == np.isnan(partners[one, 1])).mean() < 0.4


def test_a_row_of_a_table_goes_over_to_its_partner_as_the_share_grows():
    x, partners = table_rows(200, 1), table_rows(200, 2)
    draws = column_draws(len(x), TABLE, 3)
    steps = [blended(x, partners, np.full(len(x), share), TABLE, draws) for share in (0, 0.4, 0.8, 1)]
    np.testing.assert_array_equal(steps[0], x)
    np.testing.assert_array_equal(steps[-1], partners)
    taken = [np.isclose(step[:, 2:], partners[:, 2:], equal_nan=True) for step in steps]
    assert all((less <= more).all() for less, more in pairwise(taken))


@pytest.mark.parametrize("action", ["refuse", "noise", "label_only"])
@pytest.mark.parametrize("knowledge", ["family", "full"])
def test_a_gate_that_passes_no_noise_passes_most_blends(action, knowledge, acquire, noise, digits_victim):
    gate = (f"mahalanobis(action={action})",)
    _, plain = acquire(Copycat(), gate, 200, noise)
    transfer_set, account = acquire(
        Evade(blend=None, use_probability=True), gate, 200, noise, knowledge=knowledge
    )
    assert plain.flagged > 190
    assert account.sent == 200
    assert account.flagged < 60
    assert 0.6 < transfer_set.facts["blended"] <= 1
    wrong = np.abs(digits_victim.probabilities(transfer_set.x) - transfer_set.y).max(axis=1) > 0.5
    assert wrong.mean() < 0.03  # of the random distributions hardly one is left


def test_the_first_three_queries_are_own_inputs_as_they_are(acquire, noise):
    transfer_set, _ = acquire(Evade(blend=None), budget=4, pool=noise)
    own = set(rows_of(noise.reference))
    assert [row in own for row in rows_of(transfer_set.x)] == [True, True, True, False]


def test_answers_that_are_labels_for_everybody_are_no_rejections(acquire, noise):
    gate, attack = ("mahalanobis(action=label_only)",), Evade(blend=None)
    labels, _ = acquire(attack, gate, 200, noise, knowledge="family", shows="labels")
    whole, _ = acquire(attack, gate, 200, noise, knowledge="family")
    assert whole.facts["blended"] > labels.facts["blended"] + 0.1


def test_bare_labels_are_told_from_a_softmax_that_is_sure():
    told = np.array([[1, 0, 0], [1, 1e-300, 0], [np.nan] * 3, [0.5, 0.5, 0]])
    assert is_one_hot(told).tolist() == [True, False, False, False]


def test_benign_inputs_are_sent_nearly_as_they_are(acquire, digits_pool):
    transfer_set, _ = acquire(Evade(blend=None), REFUSE, 200, digits_pool, knowledge="full")
    plain, _ = acquire(Copycat(), REFUSE, 200, digits_pool)
    assert transfer_set.facts["blended"] < 0.1
    assert len(set(rows_of(transfer_set.x)) & set(rows_of(plain.x))) > 150


@pytest.mark.parametrize("stack", [(), ("rounded",), ("rate_limit",)])
def test_where_no_gate_is_known_to_stand_own_inputs_go_first_and_nothing_is_blended(stack, acquire, noise):
    transfer_set, _ = acquire(Evade(own=20, blend=None), stack, 50, noise, knowledge="full")
    plain, _ = acquire(Copycat(), stack, 30, noise)
    assert rows_of(transfer_set.x)[20:] == rows_of(plain.x)
    assert not set(rows_of(transfer_set.x)[:20]) & set(rows_of(noise.x))
    assert set(rows_of(transfer_set.x)[:20]) <= set(rows_of(noise.reference))
    assert transfer_set.facts["blended"] == 0


def test_behind_other_defenses_a_strange_answer_is_no_rejection(acquire, digits_pool):
    stack = ("gaussian_noise(scale=3)", "mahalanobis")
    transfer_set, _ = acquire(
        Evade(blend=None, use_probability=True), stack, 100, digits_pool, knowledge="full"
    )
    assert len(transfer_set.x) == 100
    assert transfer_set.facts["blended"] < 0.1


def test_behind_other_defenses_a_bare_label_is_no_rejection(acquire, digits_pool):
    stack, attack = ("rounded(decimals=1)", "mahalanobis"), Evade(blend=None, use_probability=True)
    for order in range(5):  # among three own inputs, one that is not bare is a matter of luck
        seeds = RandomSeeds(order, order)
        transfer_set, _ = acquire(attack, stack, 100, digits_pool, seeds, knowledge="family")
        assert is_one_hot(transfer_set.y).mean() > 0.3
        assert transfer_set.facts["blended"] < 0.1


# --- accounts


@pytest.fixture
def clients(context, digits_spec, pool):
    """Buy, and tell which client was sent which inputs."""

    def purchase(attack, stack, budget, knowledge="full", pool=pool):
        api = context.api(digits_spec, stack, 0, 0, budget=budget, knowledge=knowledge)
        seen, answer = {}, api.predict

        def predict(x, client="attacker"):
            seen.setdefault(client, []).extend(rows_of(x))
            return answer(x, client=client)

        api.predict = predict
        return attack.acquire(api, pool, None, SEEDS), api.account, seen

    return purchase


def test_accounts_take_turns(clients):
    transfer_set, _, seen = clients(Evade(clients=3), (), 50)
    rows = rows_of(transfer_set.x)
    assert list(seen) == ["attacker", "attacker-1", "attacker-2"]
    assert [seen[client] for client in seen] == [rows[0::3], rows[1::3], rows[2::3]]
    assert transfer_set.facts["clients"] == 3


def test_accounts_take_turns_from_one_batch_to_the_next(clients, noise):
    _, _, seen = clients(Evade(blend=None, clients=3), REFUSE, 40, pool=noise)
    assert sorted(map(len, seen.values())) == [13, 13, 14]


def test_of_two_known_quotas_the_smaller_counts(clients):
    stack = ("rate_limit(limit=50)", "rate_limit(limit=20)")
    _, account, seen = clients(Evade(clients=None), stack, 120)
    assert account.refused == 0
    assert len(seen) == 6


def test_an_account_that_was_never_answered_says_nothing_of_a_quota(pool):
    class Banned:
        """Refuses the first account, and every answer to it."""

        nb_classes, budget, known, inputs = 10, 40, None, UNIT

        def predict(self, x, client):
            return np.full((len(x), 10), np.nan if client == "attacker" else 0.1)

    transfer_set = Evade(own=20, clients=None).acquire(Banned(), pool, None, SEEDS)
    assert len(transfer_set.x) == 40 - BATCH
    assert transfer_set.facts["clients"] == 2


def test_without_benign_inputs_accounts_are_all_there_is(acquire, digits_pool):
    pool = replace(digits_pool, reference=None)
    assert Evade(own=0).applicable(pool, TARGET) == ""
    alone, _ = acquire(Evade(own=0, blend=None, clients=None), budget=60, pool=pool)
    plain, _ = acquire(Copycat(), pool=pool)
    assert alone.digest() == plain.digest()


@pytest.mark.parametrize(("limit", "accounts"), [(1, 120), (25, 5), (60, 2), (99, 2)])
def test_a_known_quota_is_never_overrun(limit, accounts, clients):
    gate = (f"rate_limit(limit={limit})",)
    _, account, seen = clients(Evade(clients=None), gate, 120)
    assert (account.sent, account.refused) == (120, 0)
    assert len(seen) == accounts
    assert max(map(len, seen.values())) == limit


def test_a_limit_that_limits_nothing_needs_one_account(clients):
    transfer_set, _, seen = clients(Evade(clients=None), ("rate_limit(limit=100)",), 120)
    assert list(seen) == ["attacker"]
    assert transfer_set.facts["clients"] == 1


@pytest.mark.parametrize("limit", [1, 5, 25, 60])
def test_a_quota_that_is_not_known_is_found_out_at_the_price_of_one_batch(limit, clients):
    gate = (f"rate_limit(limit={limit})",)
    transfer_set, account, seen = clients(Evade(clients=None), gate, 120, "family")
    assert account.sent == 120
    assert 0 < account.refused <= BATCH
    assert len(transfer_set.x) == account.answered == len(set(rows_of(transfer_set.x)))
    assert {len(rows) for rows in list(seen.values())[1:-1]} <= {limit}


def test_a_rejected_query_is_repeated_by_another_account_only_where_counters_are_known(clients, noise):
    gate = "mahalanobis(action=refuse)"
    _, _, alone = clients(Evade(clients=None), (gate,), 60, "family", noise)
    assert list(alone) == ["attacker"]
    _, account, both = clients(Evade(clients=None), (gate, "rate_limit"), 60, "family", noise)
    assert account.sent == 60
    assert len(both) > 1


STACK = ("mahalanobis(action=refuse)", "rate_limit(limit=20)")


@pytest.mark.parametrize("knowledge", ["none", "family", "full"])
def test_whoever_looks_at_answers_obtains_a_prefix_too(knowledge, acquire, noise):
    attack = Evade(blend=None, clients=None)
    large, _ = acquire(attack, STACK, 150, noise, knowledge=knowledge)
    for budget in (1, 2, 10, 60):
        small, account = acquire(attack, STACK, budget, noise, knowledge=knowledge)
        assert account.sent == budget
        assert account.answered - 3 <= len(small.x) == len(small.y) <= account.answered
        assert rows_of(small.x) == rows_of(large.x)[: len(small.x)]
        assert small.y.shape[1] == 10


def test_two_runs_of_one_attack_are_equal(acquire, noise):
    for knowledge in ("none", "family", "full"):
        one, other = (
            acquire(Evade(blend=None, clients=None), STACK, 80, noise, knowledge=knowledge)[0]
            for _ in range(2)
        )
        assert one.digest() == other.digest()


def test_a_wall_is_paid_for_and_teaches_nothing(acquire, pool):
    black = replace(pool, reference=np.zeros((20, 1, 8, 8), np.float32), x=np.ones_like(pool.x))
    transfer_set, account = acquire(
        Evade(own=20, blend=0.0, clients=None), REFUSE, 40, black, knowledge="none"
    )
    assert account.sent == account.refused == 40
    assert transfer_set.x.shape == (0, 1, 8, 8)
    assert transfer_set.y.shape == (0, 10)
