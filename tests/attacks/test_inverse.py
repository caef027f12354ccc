"""The inverses of defenses: each is found by the defense's name, and ``recover`` depends on all of them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from attacks.inverse import INVERSES, UnknownDefenseInverse, inverse_of
from attacks.inverse.base import IntervalInverse, StackPosition
from attacks.inverse.numerics.intervals import normalised
from bench import sources
from bench.plugins import attacks, defenses


def test_every_defense_has_an_inverse_in_a_module_of_its_name():
    # Without one only labels are used; that is for defenses from elsewhere.
    assert set(INVERSES) == set(defenses.names())
    for name, inverse in INVERSES.items():
        assert inverse.__module__ == f"attacks.inverse.{name}"


@pytest.mark.parametrize("name", ["homemade", "base", "numerics", "__init__"])
def test_a_defense_without_an_inverse_gets_the_label_only_fallback(name):
    assert inverse_of(name) is UnknownDefenseInverse


@pytest.fixture
def digest(monkeypatch):
    """Return an attack's source digest if the file of one module had another line."""
    read = sources._read

    def of(attack, edited):
        file = f"{str(edited).replace('.', '/')}.py"
        monkeypatch.setattr(
            sources, "_read", lambda path: read(path) + (b"\nedited = 1" if path.endswith(file) else b"")
        )
        return attacks.source_digest(attack)

    return of


@pytest.mark.parametrize("module", ["rounded", "numerics.sigmoid_fit", "base", "none"])
def test_an_edited_inverse_changes_the_digest_of_the_attacks_that_use_it(module, digest):
    edited = f"attacks.inverse.{module}"
    changed = [name for name in attacks.names() if digest(name, edited) != digest(name, None)]
    assert changed == ["auto", "recover"]


# --- answers that a defense, or another one behind it, may give at worst

PARAMETERS = {
    "adaptive_misinformation": [{"tau": 0.0, "nu": 1000.0}, {"tau": 1.0, "nu": 1e-3}],
    "dawn": [{"rate": 0.001}, {"rate": 0.5}],
    "gaussian_noise": [{"scale": 0.001}, {"scale": 10.0}],
    "grad_redirection": [{"eps": 0.0, "keep_label": False}, {"eps": 1.0, "keep_label": True}, {"eps": 2.0}],
    "high_confidence": [{"cutoff": 0.01}, {"cutoff": 1.0}],
    "mad": [{"eps": 0.0, "proxy": "scratch"}, {"eps": 2.0, "proxy": "identity"}],
    "mad_argmax": [{"eps": 0.0, "proxy": "scratch"}, {"eps": 2.0, "proxy": "scratch"}],
    "mahalanobis": [{"action": "noise"}, {"action": "refuse"}],
    "modelguard_w": [{"eps": 0.0}, {"eps": 2.0}],
    "output_noise": [{"scale": 0.001, "keep_label": True}, {"scale": 10.0, "keep_label": False}],
    "random_one_hot": [{"eps": 0.0}, {"eps": 1.0}, {"eps": 2.0}],
    "reverse_sigmoid": [{"beta": 1.0, "gamma": 0.5}, {"beta": 0.001, "gamma": 10.0}],
    "rounded": [{"decimals": 1}, {"decimals": 15}],
    "softmax_flattening": [{"low": 0.0, "high": 0.0, "bias": 1e-9}, {"low": 0.1, "high": 1.0, "bias": 0.5}],
    "top_k": [{"k": 1}, {"k": 99}],
}
"""Parameters at the ends of their ranges, of those inverses that use any."""


@st.composite
def answers_and_estimate(draw):
    """Answers: plain, tied, one-hot, all zero, nearly zero, not summing to 1; an estimate or None."""
    classes, n = draw(st.integers(2, 5)), draw(st.integers(1, 5))
    plain = arrays(np.float64, classes, elements=st.floats(0, 1))
    same = st.sampled_from([0.0, 1e-300, 1 / classes, 1.0]).map(lambda value: np.full(classes, value))
    one_hot = st.integers(0, classes - 1).map(lambda label: np.eye(classes)[label])
    sharp = st.integers(0, classes - 1).map(
        lambda label: 1e-12 + (1 - classes * 1e-12) * np.eye(classes)[label]
    )
    kind = st.lists(plain | same | one_hot | sharp, min_size=n, max_size=n) | same.map(lambda row: [row] * n)
    estimate = normalised(np.array(draw(kind)))
    return np.array(draw(kind)), draw(st.sampled_from([None, estimate]))


def uniform(answers):
    return np.full_like(answers, 1 / answers.shape[1])


AWKWARD = np.array([[1.0, 0, 0, 0], [0.0] * 4, [0.25] * 4, [0.5, 0.5, 0, 0], [1e-300] * 4, [0.9, 0.1, 0, 0]])


@pytest.mark.parametrize("name", sorted(INVERSES))
@pytest.mark.parametrize("rows", [slice(None), slice(1), slice(1, 2), slice(2, 3)])
def test_fitted_parameters_are_numbers_whatever_the_answers(name, rows):
    answers = AWKWARD[rows]
    fitted = INVERSES[name]().fit(answers, lambda: uniform(answers))
    assert np.isfinite([float(value) for value in fitted.values()]).all(), fitted
    inverted, _ = INVERSES[name](fitted, fitted=True).invert(answers, uniform(answers), StackPosition())
    assert (np.isfinite(inverted).all(axis=1) | np.isnan(inverted).all(axis=1)).all()


@pytest.mark.parametrize("name", sorted(INVERSES))
@settings(max_examples=10, deadline=None, derandomize=True, database=None)
@given(case=answers_and_estimate())
def test_an_inverse_gives_numbers_or_nothing_whatever_the_answers(name, case):
    answers, estimate = case
    for parameters in PARAMETERS.get(name, [{}]):
        inverse = INVERSES[name](parameters)
        assert np.isfinite(inverse.forward(uniform(answers) if estimate is None else estimate)).all()
        for position in (StackPosition(), StackPosition(sums_to_one=False, exact=False, resolution=0.1)):
            rows, explained = inverse.invert(answers.copy(), estimate, position)
            assert rows.shape == answers.shape
            assert explained.shape == (len(answers),)
            assert (np.isfinite(rows).all(axis=1) | np.isnan(rows).all(axis=1)).all()


def test_an_interval_inverse_without_bounds_cannot_be_made():
    class Unbounded(IntervalInverse):
        pass

    with pytest.raises(TypeError, match="bounds"):
        Unbounded()
