"""The contract that every defense keeps, tomorrow's included, and what each one does beyond it."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from functools import cache
from textwrap import dedent

import numpy as np
import pytest
import torch
from art.defences import postprocessor as art
from art.estimators.classification import PyTorchClassifier
from cases import slow_unless
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bench.errors import PluginError, UsageError
from bench.models.promises import check_answers
from bench.plugins import Registry, defenses, load_file
from defenses.base import Answers, Auxiliary, Batch, Calibration, Claims, Defense, DefenseStack, OutputDefense

SHAPE = (1, 3, 3)
CLASSES = 4
VARIANTS = [
    "adaptive_misinformation(tau=0)",
    "adaptive_misinformation(tau=1, nu=10)",
    "diverse_ensemble(models=2, share=1, diversity=0)",
    "dawn(rate=0.5)",
    "dawn(rate=0.5, representation=input, bins=8)",
    "gaussian_noise(scale=0.01)",
    "gaussian_noise(scale=10)",
    "grad_redirection(eps=0)",
    "grad_redirection(eps=2)",
    "grad_redirection(eps=0.5, keep_label=true)",
    "high_confidence(cutoff=0.9)",
    "high_confidence(cutoff=1)",
    "mad(eps=0.3, proxy=trained)",
    "mad(eps=2, proxy=identity)",
    "mad_argmax(eps=0.3, proxy=trained)",
    "mad_argmax(eps=2, proxy=identity)",
    "mahalanobis(action=label_only)",
    "mahalanobis(action=refuse)",
    "mahalanobis(layers=input)",
    "mahalanobis(layers=penultimate, fpr=0.5)",
    "model_switch(rule=confidence)",
    "model_switch(rule=input_hash)",
    "model_switch(share=0)",
    "model_switch(share=1)",
    "modelguard_s(eps=0)",
    "modelguard_s(eps=0.2)",
    "modelguard_w(eps=0)",
    "modelguard_w(eps=1e-5)",
    "modelguard_w(eps=2)",
    "output_noise(consistent=true)",
    "output_noise(keep_label=false)",
    "output_noise(scale=10)",
    "output_noise(scale=10, keep_label=false, consistent=true)",
    "parameter_noise(scale=10)",
    "random_one_hot(consistent=true)",
    "random_one_hot(eps=0)",
    "random_one_hot(eps=2)",
    "rate_limit(limit=1, window=2)",
    "rate_limit(limit=2, window=3)",
    "rate_limit(limit=5, window=5)",
    "reverse_sigmoid(beta=10, gamma=10)",
    "reverse_sigmoid(beta=1, gamma=0.5)",
    "rounded(decimals=1)",
    "rounded(decimals=15)",
    "softmax_flattening(low=0, high=1, bias=1e-9)",
    "softmax_flattening(low=0, high=0)",
    "top_k(k=1)",
    "top_k(k=99)",
]
EVERY = [*defenses.names(), *VARIANTS]
OWN_CODE = re.compile(r"dawn|action=|layers=input|rule=|\((consistent|keep_label)=")
OUTPUT = [name for name in defenses.names() if issubclass(defenses.get(name), OutputDefense)]


def features(inputs):
    """A victim of two layers: what it offers at each, shallow to deep."""
    rng = np.random.default_rng(1)
    flat = inputs.reshape(len(inputs), -1)
    hidden = np.maximum(flat @ rng.normal(size=(flat.shape[1], 6)).astype(np.float32), 0)
    return [hidden, hidden @ rng.normal(size=(6, CLASSES)).astype(np.float32)]


def blobs(n, seed, classes=CLASSES):
    """Return inputs around one centre a class, and their labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    centres = np.random.default_rng(0).uniform(0.2, 0.8, (classes, *SHAPE))
    inputs = centres[labels] + rng.normal(0, 0.05, (n, *SHAPE))
    return inputs.clip(0, 1).astype(np.float32), labels


def noisy_copies(classes):
    """A linear victim that offers noisy copies of itself."""

    def perturb(scale, seed):
        weights = np.random.default_rng(0).normal(size=(int(np.prod(SHAPE)), classes))
        weights += scale * weights.std() * np.random.default_rng(seed).normal(size=weights.shape)

        def answer(inputs):
            odds = np.array([np.exp(row.ravel() @ weights) for row in inputs]).reshape(-1, classes)
            return odds / odds.sum(axis=1, keepdims=True)

        return answer

    return perturb


def calibration(classes=CLASSES):
    train, held_out = blobs(300, 1, classes), blobs(200, 2, classes)
    probabilities = np.random.default_rng(3).dirichlet(np.full(classes, 0.2), 200)
    rng = np.random.default_rng(6)
    elsewhere = rng.random((100, *SHAPE), dtype=np.float32), rng.dirichlet(np.ones(classes), 100)
    return Calibration(
        *train,
        *held_out,
        probabilities,
        features,
        seed=7,
        perturb=noisy_copies(classes),
        auxiliary=Auxiliary("noise", *elsewhere),
    )


@pytest.fixture(scope="module", autouse=True)
def brief_training():
    """Train the networks of defenses for few steps: no promise depends on how good they are."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("defenses.networks.training.EPOCHS", 4)
        patched.setattr("defenses.networks.training.FEWEST", 1)
        yield


@cache
def fitted(text, classes=CLASSES):
    defense = defenses.build(text)
    defense.fit(calibration(classes))
    return defense


def batch_of(rows, seed=11, number=5):
    """Return a batch that answers ``rows``; every other input is far from anything honest."""
    raw = np.array(rows, dtype=np.float64)
    inputs = blobs(len(raw), 4)[0]
    inputs[1::2] = np.random.default_rng(5).random(inputs[1::2].shape, dtype=np.float32).round()
    return Batch(inputs, raw, raw.copy(), "client", number, seed, features)


def row_at(batch, row):
    part = slice(row, row + 1)
    return replace(
        batch,
        inputs=batch.inputs[part],
        raw=batch.raw[part],
        probabilities=batch.probabilities[part],
        number=batch.number + row,
    )


def same(one: Answers, other: Answers):
    return (
        one.probabilities.tobytes() == other.probabilities.tobytes()
        and one.refused.tobytes() == other.refused.tobytes()
        and one.flagged.tobytes() == other.flagged.tobytes()
    )


# --- the contract: each clause asserts one promise of a fitted defense on one batch


def shape_and_range(defense, batch):
    answers = defense.answer(batch)
    assert answers.probabilities.shape == batch.raw.shape
    assert answers.probabilities.dtype == np.float64
    assert answers.refused.shape == answers.flagged.shape == (len(batch),)
    assert answers.refused.dtype == answers.flagged.dtype == np.bool_
    given_out = answers.probabilities[~answers.refused]
    assert ((given_out >= 0) & (given_out <= 1 + 1e-12)).all()


def refused_rows_alone_are_nan(defense, batch):
    answers = defense.answer(batch)
    assert (np.isnan(answers.probabilities).all(axis=1) == answers.refused).all()
    assert (np.isnan(answers.probabilities).any(axis=1) == answers.refused).all()
    assert defense.claims.may_refuse or not answers.refused.any()
    assert defense.claims.may_flag or not answers.flagged.any()


def label_kept_where_claimed(defense, batch):
    answers = defense.answer(batch)
    if defense.claims.keeps_label:
        kept = ~answers.refused
        assert (answers.probabilities[kept].argmax(axis=1) == batch.raw[kept].argmax(axis=1)).all()


def ties_only_where_claimed(defense, batch):
    answers = defense.answer(batch)
    if not defense.claims.ties:
        clear = maxima(batch.raw) == 1
        assert (maxima(answers.probabilities[clear & ~answers.refused]) == 1).all()


def distribution_where_claimed(defense, batch):
    answers = defense.answer(batch)
    if defense.claims.distribution:
        np.testing.assert_allclose(answers.probabilities[~answers.refused].sum(axis=1), 1, atol=1e-9)


def distribution_of_whatever_came_where_claimed(defense, batch):
    if defense.claims.normalises:
        assert defense.claims.distribution
        for came in (batch.raw / 2, batch.raw - batch.raw.mean(), np.zeros_like(batch.raw)):
            answers = defense.answer(replace(batch, probabilities=came))
            given_out = answers.probabilities[~answers.refused]
            assert (given_out >= 0).all()
            np.testing.assert_allclose(given_out.sum(axis=1), 1, atol=1e-9)


def one_hot_where_claimed(defense, batch):
    if defense.claims.one_hot:
        answers = defense.answer(batch)
        given_out = answers.probabilities[~answers.refused]
        assert (np.sort(given_out, axis=1) == np.eye(batch.raw.shape[1])[-1]).all()


def label_and_maximum_kept_behind_others_where_claimed(defense, batch):
    answers = defense.answer(replace(batch, probabilities=batch.raw / 2))
    kept = ~answers.refused
    if defense.claims.keeps_label:
        assert (answers.probabilities[kept].argmax(axis=1) == batch.raw[kept].argmax(axis=1)).all()
    if not defense.claims.ties:
        assert (maxima(answers.probabilities[kept & (maxima(batch.raw) == 1)]) == 1).all()


def batch_left_alone(defense, batch):
    before = [part.copy() for part in (batch.inputs, batch.raw, batch.probabilities)]
    answers = defense.answer(batch)
    for part, copy in zip((batch.inputs, batch.raw, batch.probabilities), before, strict=True):
        assert part.tobytes() == copy.tobytes()
        assert not np.shares_memory(answers.probabilities, part)


def batch_equals_row_by_row(defense, batch):
    whole = defense.answer(batch)
    for row in range(len(batch)):
        one = defense.answer(row_at(batch, row))
        part = slice(row, row + 1)
        assert same(one, Answers(whole.probabilities[part], whole.refused[part], whole.flagged[part]))


def same_seed_same_bits(defense, batch):
    assert same(defense.answer(batch), defense.answer(batch))
    if not defense.claims.stochastic:
        assert same(defense.answer(batch), defense.answer(replace(batch, seed=batch.seed + 1)))
        assert same(defense.answer(batch), defense.answer(replace(batch, client="another")))


def running_number_matters_only_where_claimed(defense, batch):
    if not defense.claims.counts_queries and not fresh_noise(defense):
        assert same(defense.answer(batch), defense.answer(replace(batch, number=batch.number + 100)))


def global_generators_untouched(defense, batch):
    before = np.random.get_state(), random.getstate(), torch.get_rng_state()  # what we guard
    defense.answer(batch)
    after = np.random.get_state()
    assert all(np.array_equal(old, new) for old, new in zip(before[0], after, strict=True))
    assert random.getstate() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])


CONTRACT = [
    shape_and_range,
    refused_rows_alone_are_nan,
    label_kept_where_claimed,
    ties_only_where_claimed,
    distribution_where_claimed,
    distribution_of_whatever_came_where_claimed,
    one_hot_where_claimed,
    label_and_maximum_kept_behind_others_where_claimed,
    batch_left_alone,
    batch_equals_row_by_row,
    same_seed_same_bits,
    running_number_matters_only_where_claimed,
    global_generators_untouched,
]


def fresh_noise(defense):
    return defense.claims.stochastic and not defense.claims.consistent_noise


def maxima(rows):
    return (rows == rows.max(axis=1, keepdims=True)).sum(axis=1) if len(rows) else np.ones(0, int)


def normalised(weights):
    total = sum(weights)
    return [weight / total for weight in weights] if total else [1.0, *([0.0] * (len(weights) - 1))]


@st.composite
def probability_rows(draw):
    """Rows of one width: one-hot, uniform, tied, with exact zeros, peaked and plain."""
    classes = draw(st.integers(2, 12))
    one_hot = st.integers(0, classes - 1).map(lambda k: [float(k == j) for j in range(classes)])
    uniform = st.just([1 / classes] * classes)
    small = st.lists(st.integers(0, 3), min_size=classes, max_size=classes).map(normalised)
    plain = st.lists(st.floats(0, 1), min_size=classes, max_size=classes).map(normalised)
    peaked = st.lists(st.floats(-40, 40), min_size=classes, max_size=classes).map(
        lambda logits: normalised([float(np.exp(logit)) for logit in logits])
    )
    return draw(st.lists(one_hot | uniform | small | plain | peaked, min_size=1, max_size=6))


AWKWARD = [[1.0, 0, 0, 0], [0.25] * 4, [0.5, 0.5, 0, 0], [0, 0.5, 0.5, 0], [0.2496, 0.2504, 0.25, 0.25]]


# Each defense, and each choice with code of its own; the limits of numbers are slow.
@pytest.mark.parametrize(
    "text", slow_unless(lambda text: text in defenses.names() or OWN_CODE.search(text), EVERY)
)
@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(rows=probability_rows())
@example(rows=AWKWARD)
def test_every_defense_keeps_the_contract(text, rows):
    for clause in CONTRACT:
        clause(fitted(text, len(rows[0])), batch_of(rows))


@pytest.mark.parametrize("text", EVERY)
def test_answers_change_with_the_query_and_the_seed_where_claimed(text):
    defense = fitted(text)
    batch = batch_of(np.full((8, 4), 0.25))
    answers = defense.answer(batch).probabilities
    later = defense.answer(replace(batch, number=70)).probabilities
    reseeded = defense.answer(replace(batch, seed=12)).probabilities
    changes = fresh_noise(defense) or defense.claims.counts_queries
    assert (answers.tobytes() != later.tobytes()) == changes
    assert (answers.tobytes() != reseeded.tobytes()) == defense.claims.stochastic


@pytest.mark.parametrize("text", EVERY)
def test_fitting_leaves_global_generators_and_the_data_alone(text):
    data = calibration()
    before = np.random.get_state()  # what we guard
    defenses.build(text).fit(data)
    assert np.array_equal(before[1], np.random.get_state()[1])
    assert data.inputs.tobytes() == calibration().inputs.tobytes()
    assert data.probabilities.tobytes() == calibration().probabilities.tobytes()


@pytest.mark.parametrize("text", EVERY)
def test_an_empty_batch_gets_empty_answers(text):
    batch = batch_of(np.empty((0, 4)))
    assert fitted(text).answer(batch).probabilities.shape == (0, 4)


@pytest.mark.parametrize("text", EVERY)
def test_a_defense_prints_as_the_call_that_makes_it(text):
    built = defenses.build(text)
    assert repr(defenses.build(repr(built))) == repr(built)
    for name in type(built).parameters():
        assert hasattr(built, name)


@pytest.mark.parametrize("name", defenses.names())
def test_every_defense_says_what_it_is(name):
    cls = defenses.get(name)
    assert cls.__doc__
    assert cls.paper or name == "none"
    assert isinstance(cls.known_by, tuple)
    assert isinstance(defenses.build(name).claims, Claims)


def test_the_defenses_of_the_design_are_there():
    ours = {"none", "label_only", "top_k", "mahalanobis"}
    arts = {"reverse_sigmoid", "rounded", "high_confidence", "gaussian_noise"}
    assert ours | arts <= set(defenses.names())


# --- plugins from outside

PLUGIN = """
    import numpy as np
    from defenses.base import Answers, Claims, Defense

    class Shy(Defense):
        '''Mixes in noise keyed by the input, so that asking again does not help.'''
        name = "shy"
        paper = "a test"

        def __init__(self, *, share: float = 0.25) -> None:
            self.share = share

        @property
        def claims(self):
            return Claims(keeps_label=False, stochastic=True, consistent_noise=True)

        def answer(self, batch):
            classes = batch.raw.shape[1]
            seeds = [batch.input_seed(row) for row in range(len(batch))]
            noise = [np.random.default_rng(seed).dirichlet(np.ones(classes)) for seed in seeds]
            mixed = (1 - self.share) * batch.probabilities + self.share * np.array(noise)
            return Answers.of(mixed)
"""

LIARS = {
    "label_kept_where_claimed": ("Claims()", "p[:, ::-1].copy()"),
    "distribution_where_claimed": ("Claims()", "p / 2"),
    "distribution_of_whatever_came_where_claimed": ("Claims(normalises=True)", "p.copy()"),
    "one_hot_where_claimed": ("Claims(one_hot=True)", "p.copy()"),
    "label_and_maximum_kept_behind_others_where_claimed": (
        "Claims()",
        "np.where(p.sum(axis=1, keepdims=True) < 0.9, p[:, ::-1], p)",
    ),
    "ties_only_where_claimed": ("Claims(keeps_label=False)", "np.full_like(p, 1 / p.shape[1])"),
    "refused_rows_alone_are_nan": ("Claims()", "p * np.nan"),
    "shape_and_range": ("Claims()", "p - 1"),
    "batch_left_alone": ("Claims()", "p"),
    "batch_equals_row_by_row": ("Claims()", "p * len(p)"),
    "same_seed_same_bits": ("Claims()", "p * (1 - batch.seed / 1e6)"),
    "running_number_matters_only_where_claimed": ("Claims()", "p / (1 + batch.number)"),
    "global_generators_untouched": ("Claims()", "p * np.random.rand()"),
}
LIAR = """
    import numpy as np
    from defenses.base import Answers, Claims, Defense

    class Liar(Defense):
        name = "liar"
        claims = {claims}

        def answer(self, batch):
            p = batch.probabilities
            return Answers.of({answer})
"""


def from_file(folder, source, name):
    path = folder / "plugin.py"
    path.write_text(dedent(source))
    registry = Registry("defense", "defenses", "defenses.base:Defense")
    registry.add_file(path)
    assert name in registry.names()
    return registry


def test_a_plugin_dropped_into_a_folder_is_held_to_the_contract(tmp_path):
    registry = from_file(tmp_path, PLUGIN, "shy")
    defense = registry.build("shy(share=0.5)")
    assert repr(defense) == "shy(share=0.5)"
    for clause in CONTRACT:
        clause(defense, batch_of(AWKWARD))
    batch = batch_of(AWKWARD)
    assert same(defense.answer(batch), defense.answer(replace(batch, number=99)))
    assert not same(defense.answer(batch), defense.answer(replace(batch, seed=99)))


@pytest.mark.parametrize("clause", CONTRACT, ids=lambda clause: clause.__name__)
def test_the_contract_catches_a_defense_that_breaks_its_promise(tmp_path, clause):
    claims, answer = LIARS[clause.__name__]
    source = LIAR.format(claims=claims, answer=answer)
    liar = from_file(tmp_path, source, "liar").build("liar")
    with pytest.raises(AssertionError):
        clause(liar, batch_of([[0.5, 0.3, 0.2, 0.0], [0.1, 0.7, 0.1, 0.1]]))


def test_that_answers_are_one_hot_is_checked_while_a_defense_runs():
    raw = np.array([[0.5, 0.3, 0.2], [0.1, 0.7, 0.2], [0.2, 0.2, 0.6]])
    rows = np.eye(3)[[0, 1, 2]]
    claims = Claims(one_hot=True)
    check_answers("defense 'liar'", claims, raw, raw, Answers.of(rows), regular=True)
    rows[1] = [0, 0.9, 0.1]
    with pytest.raises(PluginError, match="claims one_hot=True, but 1 of 3 answers say more than a label"):
        check_answers("defense 'liar'", claims, raw, raw, Answers.of(rows), regular=True)


def test_a_plugin_file_is_loaded_once(tmp_path):
    path = tmp_path / "once.py"
    path.write_text(dedent(PLUGIN))
    assert load_file(path) is load_file(path)


# --- parameters


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("top_k(k=0)", ("top_k", "k=0", "[1, inf)")),
        ("top_k(k=2.5)", ("k=2.5", "integer")),
        ("top_k(k=true)", ("k=True", "integer")),
        ("top_k(n=3)", ("no parameter 'n'", "k")),
        ("rounded(decimals=0)", ("rounded", "decimals=0", "[1, 15]")),
        ("rounded(decimals=16)", ("decimals=16", "[1, 15]")),
        ("reverse_sigmoid(beta=0)", ("beta=0", "(0, 10]")),
        ("reverse_sigmoid(gamma=11)", ("gamma=11", "(0, 10]")),
        ("high_confidence(cutoff=0)", ("cutoff=0", "(0, 1]")),
        ("high_confidence(cutoff=1.5)", ("cutoff=1.5", "(0, 1]")),
        ("gaussian_noise(scale=0)", ("scale=0", "(0, 10]")),
        ("mahalanobis(fpr=0)", ("fpr=0", "(0, 0.5]")),
        ("mahalanobis(fpr=0.6)", ("fpr=0.6", "(0, 0.5]")),
        ("mahalanobis(action=shout)", ("action='shout'", "noise, label_only, refuse")),
        ("mahalanobis(layers=deep)", ("layers='deep'", "all, input, penultimate")),
        ("label_only(k=1)", ("label_only", "'k'", "takes none")),
        ("mahalonobis", ("mahalonobis", "did you mean 'mahalanobis'")),
    ],
)
def test_a_wrong_parameter_is_named_with_its_value_and_range(text, said):
    with pytest.raises(UsageError) as error:
        defenses.build(text)
    for part in said:
        assert part in str(error.value)


# --- what each one does


def test_none_answers_as_the_victim_did():
    batch = batch_of(AWKWARD)
    assert fitted("none").answer(batch).probabilities.tobytes() == batch.raw.tobytes()


def test_top_k_keeps_exactly_k_by_lowest_index():
    rows = np.array([[0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.25, 0.25], [1, 0, 0, 0]])
    expected = [[0, 0, 0.3, 0.4], [0.25, 0.25, 0, 0], [1, 0, 0, 0]]
    assert defenses.build("top_k(k=2)")(rows).tolist() == expected


def test_label_only_is_right_on_batches_where_arts_class_labels_is_not():
    rows = np.array([[0.7, 0.2, 0.1], [0.1, 0.2, 0.7], [0.4, 0.4, 0.2]])
    assert defenses.build("label_only")(rows).tolist() == [[1, 0, 0], [0, 0, 1], [1, 0, 0]]
    assert art.ClassLabels()(rows).tolist() == [[1, 0, 1]] * 3


@pytest.mark.parametrize(
    ("text", "theirs"),
    [
        ("reverse_sigmoid(beta=0.7, gamma=0.3)", art.ReverseSigmoid(beta=0.7, gamma=0.3)),
        ("rounded(decimals=2)", art.Rounded(decimals=2)),
        ("high_confidence(cutoff=0.3)", art.HighConfidence(cutoff=0.3)),
    ],
)
def test_arts_arithmetic_is_unmodified(text, theirs):
    rows = np.random.default_rng(0).dirichlet(np.full(10, 0.3), 500)
    assert fitted(text)(rows).tobytes() == theirs(rows).tobytes()


def test_gaussian_noise_draws_what_art_draws_from_the_seed_of_the_row():
    batch = batch_of(np.random.default_rng(0).dirichlet(np.ones(10), 5))
    answers = fitted("gaussian_noise").answer(batch).probabilities
    state = np.random.get_state()  # ART's generator
    try:
        for row in range(5):
            np.random.seed(batch.row_seed(row) % 2**32)
            assert art.GaussianNoise(scale=0.2)(batch.raw[row : row + 1])[0].tolist() == answers[row].tolist()
    finally:
        np.random.set_state(state)


def test_a_row_that_noise_clips_away_is_answered_uniformly():
    answers = fitted("gaussian_noise(scale=10)").answer(batch_of(np.full((400, 2), 0.5))).probabilities
    assert (answers == 0.5).all(axis=1).mean() == pytest.approx(0.25, abs=0.1)
    np.testing.assert_allclose(answers.sum(axis=1), 1)


def test_a_one_lifted_by_rounding_is_still_a_probability_to_gaussian_noise():
    batch = batch_of([[np.nextafter(1.0, 2), 0.0, 0.0]] * 50)
    answers = fitted("gaussian_noise").answer(batch).probabilities
    assert (answers >= 0).all()
    np.testing.assert_allclose(answers.sum(axis=1), 1)


def test_high_confidence_answers_all_zero_where_nothing_reaches_the_cutoff():
    answers = fitted("high_confidence(cutoff=0.9)").answer(batch_of([[0.1, 0.8, 0.1], [0.95, 0.05, 0]]))
    assert answers.probabilities.tolist() == [[0, 0, 0], [0.95, 0, 0]]


def test_rounding_can_flip_the_first_maximum_and_says_so():
    defense = fitted("rounded(decimals=1)")
    answers = defense.answer(batch_of([[0.48, 0.52, 0.0]])).probabilities
    assert answers.argmax() == 0
    assert not defense.claims.keeps_label
    assert defense.claims.ties


# --- inside ART


def art_classifier(postprocessors):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(9, CLASSES), torch.nn.Softmax(dim=1))
    with torch.no_grad():
        weights = np.random.default_rng(0).normal(0, 5, (CLASSES, 9)).astype(np.float32)
        model[1].weight.copy_(torch.from_numpy(weights))
        model[1].bias.zero_()
    return PyTorchClassifier(
        model,
        torch.nn.CrossEntropyLoss(),
        input_shape=SHAPE,
        nb_classes=CLASSES,
        postprocessing_defences=postprocessors,
        device_type="cpu",
    )


@pytest.mark.parametrize("name", OUTPUT)
def test_every_output_defense_built_bare_works_inside_arts_classifier(name):
    inputs = blobs(40, 9)[0]
    plain = art_classifier(None).predict(inputs)
    defense = defenses.get(name)()
    defended = art_classifier([defense]).predict(inputs)
    assert defended.shape == plain.shape
    assert np.isfinite(defended).all()
    if not defense.claims.stochastic:
        own = defense.answer(batch_of(plain)).probabilities
        np.testing.assert_allclose(defended, own, atol=1e-6)


def test_arts_postprocessors_and_ours_work_side_by_side():
    inputs = blobs(40, 9)[0]
    both = art_classifier([art.Rounded(decimals=2), defenses.get("label_only")()]).predict(inputs)
    assert (
        both.argmax(axis=1) == art_classifier([art.Rounded(decimals=2)]).predict(inputs).argmax(axis=1)
    ).all()
    assert set(np.unique(both)) == {0, 1}


def test_reverse_sigmoid_survives_arts_float32_ones():
    rows = np.array([[1, 0, 0]], dtype=np.float32)
    answers = defenses.get("reverse_sigmoid")()(rows)
    np.testing.assert_allclose(answers.sum(axis=1), 1)


# --- stacks


def stack(*texts):
    whole = DefenseStack(tuple(defenses.build(text) for text in texts))
    whole.fit(calibration())
    return whole


STACKS = [
    ("rounded(decimals=1)", "mahalanobis(fpr=0.05)"),
    ("mahalanobis(action=refuse)", "label_only"),
    ("mahalanobis(action=refuse)", "gaussian_noise"),
    ("reverse_sigmoid", "gaussian_noise", "top_k(k=2)"),
    ("mahalanobis(action=label_only)", "top_k"),
    ("rounded(decimals=1)", "normalise"),
    ("top_k(k=2)", "normalise", "rate_limit(limit=2, window=3)"),
    ("model_switch(rule=confidence)", "output_noise(consistent=true)", "rounded(decimals=1)", "normalise"),
    ("rate_limit(limit=1, window=2)", "softmax_flattening"),
    ("parameter_noise", "model_switch", "output_noise"),
    ("none",),
    (),
]


@pytest.mark.parametrize("texts", STACKS, ids=" > ".join)
def test_a_stack_keeps_the_contract_too(texts):
    for clause in CONTRACT:
        clause(stack(*texts), batch_of(AWKWARD))


def test_a_stack_applies_its_members_in_order():
    rows = [[0.44, 0.35, 0.21]]
    first = stack("top_k(k=2)", "reverse_sigmoid").answer(batch_of(rows)).probabilities
    second = stack("reverse_sigmoid", "top_k(k=2)").answer(batch_of(rows)).probabilities
    assert (first > 0).sum() == 3
    assert (second > 0).sum() == 2


def test_a_rejected_row_stays_rejected_whatever_stands_behind():
    answers = stack("mahalanobis(action=refuse)", "label_only", "reverse_sigmoid").answer(batch_of(AWKWARD))
    assert answers.refused[1::2].all()
    assert np.isnan(answers.probabilities[answers.refused]).all()
    assert np.isfinite(answers.probabilities[~answers.refused]).all()
    assert (answers.flagged >= answers.refused).all()


def test_a_screen_judges_what_the_victim_said_not_what_others_made_of_it():
    batch = batch_of(AWKWARD)
    alone = stack("mahalanobis").answer(batch).flagged
    behind = stack("label_only", "mahalanobis").answer(batch).flagged
    assert (alone == behind).all()


def test_two_noises_in_a_stack_are_two_noises():
    batch = batch_of(np.full((3, 4), 0.25))
    once = stack("gaussian_noise").answer(batch).probabilities
    twice = stack("gaussian_noise", "gaussian_noise").answer(batch).probabilities
    step = fitted("gaussian_noise").answer(replace(batch, probabilities=once)).probabilities
    assert not np.allclose(once, twice)
    assert not np.allclose(step, twice)


def test_a_stack_claims_what_every_member_keeps():
    assert DefenseStack().claims == Claims()
    assert stack("rounded", "mahalanobis(action=refuse)").claims == Claims(
        keeps_label=False, ties=True, distribution=False, may_refuse=True, may_flag=True
    )
    assert not stack("rounded", "none").claims.distribution
    assert not stack("normalise", "rounded").claims.distribution
    assert not stack("normalise", "rounded").claims.normalises
    assert stack("rounded", "normalise", "none").claims == Claims(
        keeps_label=False, ties=True, normalises=True
    )
    assert stack("top_k", "normalise").claims == Claims(normalises=True)
    assert stack("none", "rate_limit").claims == Claims(counts_queries=True, may_refuse=True)
    assert stack("label_only", "gaussian_noise").claims.stochastic
    assert not stack("label_only", "gaussian_noise").claims.consistent_noise


def test_the_base_defense_needs_no_fit_and_claims_the_most():
    class Bare(Defense):
        def answer(self, batch):
            return Answers.of(batch.probabilities.copy())

    defense = Bare()
    defense.fit(calibration())
    assert defense.claims == Claims()
