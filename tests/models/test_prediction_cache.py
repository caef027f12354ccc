import cloudpickle
import numpy as np
import pytest
from cases import slow_unless

from bench.models.determinism import CHUNK
from bench.models.prediction_cache import ROW_OVERHEAD, PredictionCache
from bench.tasks import VictimSpec


class Doubled:
    """A model that doubles, and says how many rows it was given."""

    def __init__(self):
        self.calls = []

    def __call__(self, x):
        self.calls.append(len(x))
        return 2 * x, x.sum(axis=1)


@pytest.fixture
def rows():
    return np.random.default_rng(0).random((700, 3)).astype(np.float32)


def same(answers, x):
    return all(np.array_equal(told, true) for told, true in zip(answers, Doubled()(x), strict=True))


def test_outputs_come_in_the_order_of_inputs_repeats_included(rows):
    look = PredictionCache(Doubled(), 10**6)
    asked = rows[[3, 1, 3, 2]]
    assert same(look(asked), asked)
    assert same(look(asked[::-1]), asked[::-1])


def test_a_row_is_computed_once(rows):
    model = Doubled()
    look = PredictionCache(model, 10**6)
    look(rows[:10])
    look(rows[5:15])
    look(rows[:15])
    assert model.calls == [10, 5]


def test_who_changes_an_answer_changes_his_own(rows):
    look = PredictionCache(Doubled(), 10**6)
    for _ in range(3):
        for answer in look(rows[:1]):
            answer[:] = -1
    assert same(look(rows[:1]), rows[:1])


def test_announced_rows_queried_one_by_one_are_evaluated_by_the_chunk(rows):
    model = Doubled()
    look = PredictionCache(model, 10**6)
    look.expect(rows)
    for row in rows[np.random.default_rng(1).permutation(len(rows))]:
        assert same(look(row[None]), row[None])
    assert model.calls == [CHUNK, CHUNK, 700 - 2 * CHUNK]


def test_nothing_is_evaluated_that_would_not_have_been_padding(rows):
    model = Doubled()
    look = PredictionCache(model, 10**6)
    look.expect(rows)
    assert model.calls == []
    look(rows[:CHUNK])
    assert model.calls == [CHUNK]
    look(rows[CHUNK : CHUNK + 10])
    assert model.calls == [CHUNK, CHUNK]


def test_announced_rows_that_are_cached_are_not_computed_again(rows):
    model = Doubled()
    look = PredictionCache(model, 10**6)
    look(rows[:600])
    look.expect(rows)
    look(rows[650][None])
    assert model.calls == [600, 100]


def test_the_cache_has_a_limit_and_answers_have_none(rows):
    model = Doubled()
    look = PredictionCache(model, 50 * (ROW_OVERHEAD + 16))
    for _ in range(2):
        assert same(look(rows), rows)
    assert model.calls == [700, 650]
    assert look._bytes == 50 * (ROW_OVERHEAD + 16)
    assert len(look._cached) == 50
    assert same(look(rows[600:650]), rows[600:650])
    assert model.calls == [700, 650]


def test_a_pickled_cache_keeps_outputs_and_shares_announced_rows(rows):
    look = PredictionCache(Doubled(), 10**6)
    look.expect(rows)
    look(rows[:1])
    sent = cloudpickle.dumps((look, rows))
    assert len(sent) < len(cloudpickle.dumps(look)) + rows.nbytes / 2
    there, _ = cloudpickle.loads(sent)
    assert same(there(rows[300:301]), rows[300:301])
    assert there._evaluate.calls == [CHUNK, CHUNK]
    assert same(there(rows), rows)
    assert there._evaluate.calls[-1] == 700 - 2 * CHUNK


@pytest.mark.parametrize(
    "architecture", slow_unless(lambda name: name != "cnn", ["mlp", "cnn", "logistic", "tree"])
)
def test_a_victims_answers_do_not_depend_on_the_order_of_queries(context, architecture):
    spec = VictimSpec("digits", architecture, 0)
    pool, victim = context.pool(spec, "in-distribution", 0), context.victim(spec)
    together = victim._evaluate(pool.x[:300])
    one_by_one = np.concatenate([victim.probabilities(row[None]) for row in pool.x[:300]])
    assert np.array_equal(together, one_by_one)
    if victim.features:
        depths = [victim.activations(row[None]) for row in pool.x[:300]]
        for depth, whole in enumerate(victim.features(pool.x[:300])):
            assert np.array_equal(np.concatenate([each[depth] for each in depths]), whole)


def test_a_bandits_queries_reach_the_network_by_the_chunk(context):
    spec = VictimSpec("digits", "mlp", 0)
    pool, victim = context.pool(spec, "in-distribution", 0), context.victim(spec)
    seen = []
    watched = type(victim)(lambda x: (seen.append(len(x)), victim.model(x))[1], victim.splits)
    watched.expect(pool.x)
    for row in pool.x[:300]:
        watched.probabilities(row[None])
    assert len(seen) <= 2
