import numpy as np
import pytest
from cases import slow_unless

from attacks.base import TransferSet
from bench.encoding import Encoding
from bench.inputs import InputSpace
from bench.models.sklearn_surrogates import ESTIMATORS, fit_estimator, weighted_rows


@pytest.fixture
def bought(digits_victim, digits_pool):
    x = digits_pool.x[:300]
    return TransferSet(x, digits_victim.probabilities(x).astype(np.float32))


# Boosted trees for ten classes take ten seconds; tests of tables train them on two in every `tox`.
@pytest.mark.parametrize("name", slow_unless(lambda name: name != "sklearn-boosting", ESTIMATORS))
def test_a_scikit_learn_model_fits_its_transfer_set_and_does_so_again(name, bought, digits_victim):
    answer, again = (fit_estimator(name, bought, 10, 3) for _ in range(2))
    test = digits_victim.splits.test.x
    told = answer(test)
    assert told.shape == (447, 10)
    assert told.sum(axis=1) == pytest.approx(1)
    assert (told == again(test)).all()
    agreement = (told.argmax(axis=1) == digits_victim.probabilities(test).argmax(axis=1)).mean()
    assert agreement > 0.6


def test_the_seed_matters_where_there_is_chance(bought):
    one, other = (fit_estimator("sklearn-mlp", bought, 10, seed) for seed in (1, 2))
    assert (one(bought.x) != other(bought.x)).any()


def test_an_answer_becomes_a_row_for_each_entry_that_is_not_small():
    x = np.arange(8, dtype=np.float32).reshape(2, 1, 2, 2)
    y = np.array([[0.75, 0.25, 0.0], [0.0005, -0.2, 1.0]], dtype=np.float32)
    rows, labels, weights = weighted_rows(TransferSet(x, y), Encoding.fit(InputSpace((1, 2, 2)), x))
    assert rows.tolist() == [[0, 1, 2, 3], [0, 1, 2, 3], [4, 5, 6, 7]]
    assert labels.tolist() == [0, 1, 2]
    assert weights == pytest.approx([0.75, 0.25, 1])


@pytest.mark.parametrize("name", ESTIMATORS)
def test_soft_answers_give_better_surrogates_than_labels(name, digits_pool):
    # Two inputs of one label and unlike confidence: only the weights can tell them apart.
    x = np.stack([digits_pool.x[0], digits_pool.x[1]]).repeat(20, axis=0)
    y = np.repeat(np.array([[0.9, 0.1], [0.6, 0.4]], dtype=np.float32), 20, axis=0)
    told = fit_estimator(name, TransferSet(x, y), 2, 0)(x)
    assert (told.argmax(axis=1) == 0).all()
    assert told[0, 0] > told[-1, 0] + 0.1


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_class_without_answers_has_probability_zero(name, bought):
    few = TransferSet(bought.x, np.eye(10, dtype=np.float32)[np.arange(300) % 2 + 3])
    told = fit_estimator(name, few, 10, 0)(bought.x)
    assert told.shape == (300, 10)
    assert set(told.argmax(axis=1)) <= {3, 4}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_one_class_or_no_answers_give_a_constant_surrogate(name, bought):
    one = TransferSet(bought.x, np.eye(10, dtype=np.float32)[np.full(300, 7)])
    assert (fit_estimator(name, one, 10, 0)(bought.x).argmax(axis=1) == 7).all()
    nothing = TransferSet(bought.x[:0], bought.y[:0])
    assert fit_estimator(name, nothing, 10, 0)(bought.x) == pytest.approx(0.1)
    assert fit_estimator(name, one, 10, 0)(bought.x[:0]).shape == (0, 10)
