"""The watermark: which inputs it marks, with what, and what an attacker who knows it does."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

from attacks.inverse.base import StackPosition
from attacks.inverse.dawn import DawnInverse
from bench.models.watermarks import Watermark
from bench.plugins import defenses
from defenses.base import Batch, Calibration

CLASSES = 5


def calibration(seed=7, read_features=None):
    rng = np.random.default_rng(0)
    x = rng.random((300, 1, 4, 4), dtype=np.float32)
    y = rng.integers(0, CLASSES, 300)
    return Calibration(x, y, x, y, rng.dirichlet(np.ones(CLASSES), 300), read_features, seed=seed)


def batch(n=2000, read_features=None):
    rng = np.random.default_rng(1)
    raw = rng.dirichlet(np.full(CLASSES, 0.3), n)
    return Batch(rng.random((n, 1, 4, 4), dtype=np.float32), raw, raw, read_features=read_features)


def fitted(text="dawn(rate=0.1)", seed=7, read_features=None):
    defense = defenses.build(text)
    defense.fit(calibration(seed, read_features))
    return defense


def test_the_marked_share_is_the_rate_and_the_answer_says_the_wrong_class_there_alone():
    defense, asked = fitted(), batch()
    marks, given = defense.marks(asked), defense.answer(asked).probabilities
    marked = marks >= 0
    assert abs(marked.mean() - 0.1) < 0.035  # five standard deviations
    assert (given.argmax(axis=1)[marked] == marks[marked]).all()
    assert (marks[marked] != asked.raw.argmax(axis=1)[marked]).all()
    assert (given[~marked] == asked.raw[~marked]).all()
    assert (np.sort(given, axis=1) == np.sort(asked.raw, axis=1)).all()
    assert isinstance(defense, Watermark)


def test_the_wrong_class_is_each_of_the_others_equally_often():
    defense, asked = fitted("dawn(rate=0.5)"), batch(8000)
    marks = defense.marks(asked)
    step = ((marks - asked.raw.argmax(axis=1)) % CLASSES)[marks >= 0]
    counts = np.bincount(step, minlength=CLASSES)[1:] / len(step)
    assert np.abs(counts - 1 / (CLASSES - 1)).max() < 0.04  # five standard deviations


def test_another_key_marks_other_inputs_and_the_same_key_the_same():
    asked = batch()
    one, other, same = fitted(), fitted(seed=8), fitted(seed=8)
    assert (one.marks(asked) != other.marks(asked)).any()
    one.use_key(b"k" * 32), same.use_key(b"k" * 32)
    assert (one.marks(asked) == same.marks(asked)).all()
    assert (one.marks(asked) != other.marks(asked)).any()


def test_neither_client_nor_order_nor_repetition_changes_a_decision():
    defense, asked = fitted(), batch(200)
    again = replace(asked, client="another", number=77, seed=5)
    assert (defense.marks(asked) == defense.marks(again)).all()


def test_near_duplicates_get_the_same_decision_where_bins_are_coarse():
    defense, asked = fitted("dawn(rate=0.5, representation=input)"), batch(500)
    near = replace(asked, inputs=asked.inputs + np.float32(1e-4))
    same = [a == b for a, b in zip(defense.digests(asked), defense.digests(near), strict=True)]
    assert np.mean(same) > 0.98


def test_features_are_the_last_hidden_layer_and_the_input_stands_for_them_where_there_is_none():
    def hidden(x):
        flat = x.reshape(len(x), -1)
        return [flat[:, :3], flat[:, :2]]

    def logits(x):
        return [x.reshape(len(x), -1)[:, :2]]

    assert fitted(read_features=hidden).edges_.shape == (1, 3)
    assert not fitted(read_features=hidden).fallback_
    assert fitted(read_features=logits).fallback_
    assert fitted("dawn(bins=4)").edges_.shape == (3, 16)


def test_values_that_are_missing_are_in_the_lowest_bin():
    data = calibration()
    data.train_inputs[::3, 0, 0, 0] = np.nan
    defense = defenses.build("dawn(rate=0.5)")
    defense.fit(data)
    asked = batch(20)
    asked.inputs[:, 0, 0, 0] = np.nan
    other = replace(asked, inputs=np.nan_to_num(asked.inputs, nan=-3.0))
    assert defense.digests(asked) == defense.digests(other)


def test_it_has_to_be_fitted_first():
    with pytest.raises(NotFittedError, match="call fit"):
        defenses.build("dawn").answer(batch(1))


def test_the_key_is_in_no_text():
    defense = fitted()
    defense.use_key(b"very secret key")
    assert "secret" not in repr(defense)


def test_the_inverse_drops_answers_that_contradict_the_estimate_and_keeps_the_others():
    inverse = DawnInverse({"rate": 0.1})
    estimate = np.array([[0.999, 0.0005, 0.0005], [0.5, 0.3, 0.2]])
    answers = np.array([[0.1, 0.8, 0.1], [0.1, 0.8, 0.1]])
    rows, kept = inverse.invert(answers, estimate, StackPosition())
    assert kept.tolist() == [False, True]
    assert np.isnan(rows[0]).all()
    assert (inverse.invert(answers, None, StackPosition())[0] == answers).all()


def test_forward_is_the_mean_answer_over_keys():
    asked = batch(3)
    total = np.zeros_like(asked.raw)
    defense = fitted("dawn(rate=0.5)")
    for key in range(4000):
        defense.use_key(key.to_bytes(16, "big"))
        total += defense.answer(asked).probabilities
    np.testing.assert_allclose(DawnInverse({"rate": 0.5}).forward(asked.raw), total / 4000, atol=0.035)
