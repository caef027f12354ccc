"""A trained network as attacks get it: its gradients agree with differences, whatever rows come together."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from art.attacks.evasion import DeepFool
from art.estimators.classification import PyTorchClassifier

from attacks.active.deepfool import distances
from attacks.base import DifferentiablePredictor
from bench.errors import NotApplicable
from bench.inputs import Column, InputSpace
from bench.models.interim_surrogates import InterimSurrogates
from bench.models.surrogates import initial_network

CLASSES = 4


def inputs_of(space, number, seed=0):
    return space.uniform(number, np.random.default_rng(seed))


def trained(space, architecture="mlp", number=60, **options):
    """Return a network that learnt which quarter the mean of an input lies in, briefly."""
    x = inputs_of(space, number)
    means = np.nan_to_num(x.reshape(number, -1)).mean(axis=1)
    y = np.eye(CLASSES)[np.searchsorted(np.quantile(means, [0.25, 0.5, 0.75]), means)]
    factory = InterimSurrogates(architecture, space.shape, CLASSES, 3, inputs=space, **options)
    (predictor,) = factory.fit([(x, y)], 0.3)
    return predictor


SPACES = {
    "images": (InputSpace((1, 6, 6)), "mlp", "rule"),
    "convolved": (InputSpace((1, 8, 8)), "cnn", "rule"),
    "standardised": (InputSpace((1, 6, 6)), "mlp", "rule(mean=0.4, std=0.3)"),
    "bytes": (InputSpace((1, 6, 6), (0.0,), (255.0,)), "mlp", "rule"),
    "table": (InputSpace((5,), (-3.0,), (9.0,)), "mlp", "rule"),
}


@pytest.fixture(scope="module", params=SPACES)
def network(request):
    space, architecture, training = SPACES[request.param]
    return space, trained(space, architecture, training=training)


def test_the_gradients_agree_with_differences_of_logits(network):
    space, predictor = network
    encoded = predictor.encoded(inputs_of(space, 5, 1))
    classes = np.array([[0, 3], [1, 2], [3, 0], [2, 2], [0, 1]])
    logits, gradients = predictor.linearised(encoded, classes)
    assert logits.shape == (5, CLASSES)
    assert gradients.shape == (5, 2, *encoded.shape[1:])
    rng, row, errors = np.random.default_rng(2), np.arange(5), []
    step = np.float32(2e-4)
    for _ in range(8):
        direction = rng.normal(size=encoded.shape).astype(np.float32)
        ahead, behind = (
            predictor.linearised(encoded + sign * step * direction, classes[:, :0])[0] for sign in (1, -1)
        )
        for place in range(2):
            slope = (gradients[:, place] * direction).reshape(5, -1).sum(axis=1)
            measured = (ahead - behind)[row, classes[:, place]] / (2 * step)
            errors.append(np.abs(slope - measured) / np.abs(measured).max())
    # A convolution has many units, some of which switch on between the two points.
    assert np.mean(np.concatenate(errors) < 0.05) > 0.8


def test_the_logits_are_those_of_its_answers(network):
    space, predictor = network
    x = inputs_of(space, 7, 3)
    logits = predictor.linearised(predictor.encoded(x), np.zeros((7, 0), int))[0]
    likely = np.exp(logits - logits.max(axis=1, keepdims=True))
    assert np.array_equal(likely / likely.sum(axis=1, keepdims=True), predictor(x))


def test_rows_do_not_depend_on_the_others(network):
    space, predictor = network
    x = inputs_of(space, 300, 4)
    encoded, classes = predictor.encoded(x), np.random.default_rng(5).integers(0, CLASSES, (300, 2))
    logits, gradients = predictor.linearised(encoded, classes)
    order = np.random.default_rng(6).permutation(300)[:37]
    part_logits, part = predictor.linearised(encoded[order], classes[order])
    assert np.array_equal(part_logits, logits[order])
    # A product of matrices may round a row otherwise in another place.
    np.testing.assert_allclose(part, gradients[order], atol=1e-5 * np.abs(gradients).max())
    again_logits, again = predictor.linearised(encoded, classes)
    assert np.array_equal(again_logits, logits)
    assert np.array_equal(again, gradients)
    np.testing.assert_allclose(distances(predictor, x)[order], distances(predictor, x[order]), rtol=1e-4)


def test_the_distances_are_ordered_much_as_the_margins_of_logits_are(network):
    space, predictor = network
    x = inputs_of(space, 40, 7)
    found = distances(predictor, x)
    assert np.isfinite(found).mean() > 0.9
    assert (found[np.isfinite(found)] > 0).all()
    margin = np.sort(predictor(x), axis=1)
    margin = np.log(margin[:, -1] / margin[:, -2])
    ranks = [np.argsort(np.argsort(each)) for each in (found, margin)]
    assert np.corrcoef(*ranks)[0, 1] > 0.6


def test_the_distances_are_those_of_arts_deepfool():
    """ART extends the steps after its search, not in it, so that a few rows take another way."""
    space = InputSpace((1, 6, 6))
    predictor = trained(space)
    network = initial_network("mlp", (1, 6, 6), CLASSES, 0)
    network.load_state_dict(predictor.full)
    classifier = PyTorchClassifier(network.eval(), torch.nn.CrossEntropyLoss(), (1, 6, 6), CLASSES)
    x = inputs_of(space, 30, 8)
    moved = DeepFool(classifier, max_iter=50, epsilon=0.02, nb_grads=CLASSES, verbose=False).generate(x)
    theirs = np.sqrt(np.square(moved - x).reshape(30, -1).sum(axis=1))
    ratio = distances(predictor, x) / theirs
    assert np.median(ratio) == pytest.approx(1, abs=1e-3)
    assert (np.abs(ratio - 1) < 0.05).mean() > 0.9


def test_what_has_no_gradient_says_so():
    columns = [
        Column("amount", "number", 0, 9),
        Column("count", "integer", 0, 9),
        Column.of_categories("kind", ["a", "b", "c"]),
    ]
    for kept, reason in (
        (columns, "category"),
        ([*columns[:1], Column("gap", "number", 0, 1, (), True)], "missing"),
    ):
        predictor = trained(InputSpace.of_columns(kept), number=40)
        assert isinstance(predictor, DifferentiablePredictor)
        with pytest.raises(NotApplicable, match=reason):
            predictor.encoded(np.zeros((1, len(kept)), np.float32))
    numbers = InputSpace.of_columns(columns[:2])
    assert numbers.without_gradient == ""
    assert np.isfinite(distances(trained(numbers), inputs_of(numbers, 9))).any()


def test_a_model_that_is_no_network_has_none():
    space = InputSpace((1, 6, 6))
    assert isinstance(trained(space), DifferentiablePredictor)
    assert not isinstance(trained(space, "sklearn-logistic"), DifferentiablePredictor)
