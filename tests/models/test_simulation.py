"""Defenses that an attacker simulates: fresh instances, with nothing of the victim in them."""

from dataclasses import replace
from textwrap import dedent

import numpy as np
import pytest
from cases import slow_unless

from attacks.base import Known, NetworkPredictor, Shadow
from bench.errors import BrokenClaimError, BudgetError, NotApplicable
from bench.inputs import InputSpace
from bench.models.defended_api import DefendedAPI
from bench.models.interim_surrogates import InterimSurrogates
from bench.models.simulation import SimulatedDefenses, drawn_parameters
from bench.models.victims import Victim
from bench.plugins import defenses
from defenses.base import Answers, Claims, Defense, DefenseStack, OutputDefense, StrengthRange

SPACE = InputSpace((1, 8, 8))
N = 30


@pytest.fixture(scope="module")
def shadow(digits_pool):
    """Return the data of an attacker who has 150 inputs and their labels, and a network trained on them."""
    x, y = digits_pool.x[:150], digits_pool.y[:150]
    (predictor,) = InterimSurrogates("mlp", (1, 8, 8), 10, 3).fit([(x[:100], np.eye(10)[y[:100]])], 0.1)
    return Shadow(predictor, x[:100], y[:100], x[100:], y[100:], seed=1)


@pytest.fixture(scope="module")
def rows():
    """Return 30 distributions over 10 classes, two of them with exact zeros."""
    drawn = np.random.default_rng(0).dirichlet(np.full(10, 0.3), size=N)
    drawn[0], drawn[1] = np.eye(10)[4], np.eye(10)[5] * 0.75 + np.eye(10)[2] * 0.25
    return drawn


def simulated(shadow, *known, **changed):
    return SimulatedDefenses(known, replace(shadow, **changed), SPACE, 10)


@pytest.mark.parametrize(
    ("name", "given"),
    slow_unless(
        lambda name, given: given == "full" or defenses.get(name).strength is None,
        [(name, given) for name in defenses.names() for given in ("full", "family")],
    ),
)
def test_every_shipped_defense_can_be_simulated(name, given, shadow, rows):
    built = defenses.build(name)
    values = {key: getattr(built, key) for key in built.parameters()}
    simulation = simulated(shadow, Known(name, values if given == "full" else None))
    answers = simulation.answer(shadow.inputs[:N], rows)
    assert answers.shape == rows.shape
    ((known,),) = (simulation.known,)
    assert known.name == name
    assert known.parameters.keys() == values.keys()
    if given == "full":
        assert known.parameters == values
        assert simulation.keeps_label == built.claims.keeps_label
        assert simulation.randomized == built.claims.stochastic
    if simulation.keeps_label:
        answered = np.isfinite(answers).all(axis=1)
        assert (answers.argmax(axis=1) == rows.argmax(axis=1))[answered].all()
    if given == "family":
        again = simulated(shadow, Known(name, known.parameters)).answer(shadow.inputs[:N], rows)
        assert again.tobytes() == answers.tobytes()


def test_the_known_parameters_are_the_simulated_ones_and_defenses_answer_in_order(shadow, rows):
    known = Known("top_k", {"k": 2}), Known("rounded", {"decimals": 1})
    answers = simulated(shadow, *known).answer(shadow.inputs[:N], rows)
    expected = rows.copy()
    for row in expected:
        row[np.argsort(-row, kind="stable")[2:]] = 0
    alone = simulated(shadow, known[0]).answer(shadow.inputs[:N], rows)
    kept = np.where(alone > 0, rows, 0)
    assert (np.count_nonzero(alone, axis=1) <= 2).all()
    assert np.allclose(kept, expected)
    assert np.allclose(answers, np.round(alone, 1))


def test_noise_is_drawn_from_the_given_seed_and_secrets_from_the_shadows(shadow, rows):
    noise = simulated(shadow, Known("gaussian_noise", {"scale": 0.2}))
    x = shadow.inputs[:N]
    assert noise.answer(x, rows, 1).tobytes() == noise.answer(x, rows, 1).tobytes()
    assert (noise.answer(x, rows, 1) != noise.answer(x, rows, 2)).any(axis=1).all()
    dawn = Known("dawn", {"rate": 0.5, "representation": "features", "bins": 2})
    marked = [(simulated(shadow, dawn, seed=seed).answer(x, rows) != rows).any(axis=1) for seed in (1, 1, 2)]
    assert (marked[0] == marked[1]).all()
    assert (marked[0] != marked[2]).any()


def test_a_simulation_moves_neither_the_apis_noise_nor_its_account(shadow, context, digits_spec):
    x = shadow.inputs[:5]
    stack = context.stack(digits_spec, ("gaussian_noise(scale=0.2)",), 0)
    victim = context.victim(digits_spec)

    class Global(OutputDefense):
        """Draws from NumPy's global generator, as ART's postprocessors do."""

        name = "draws_globally"

        @property
        def claims(self):
            return Claims(stochastic=True, keeps_label=False, ties=True, distribution=False)

        def __call__(self, preds):
            return np.clip(preds + np.random.normal(scale=0.01, size=preds.shape), 0, 1)

    def answers(simulates):
        api = DefendedAPI(victim, DefenseStack((*stack.defenses, Global())), budget=10, seed=1)
        first = api.predict(x)
        if simulates:
            api.client().simulate((Known("mahalanobis"), Known("gaussian_noise")), shadow).answer(x, first)
        assert api.account.sent == 5
        return np.concatenate([first, api.predict(x)])

    assert answers(True).tobytes() == answers(False).tobytes()


def test_a_defense_that_writes_into_features_changes_no_later_ones(shadow):
    simulation = simulated(shadow, Known("mahalanobis", None))
    x = shadow.inputs[:N]
    first = [layer.copy() for layer in simulation._read_features(x)]
    for layer in simulation._read_features(x):
        layer[:] = 0
    for one, again in zip(first, simulation._read_features(x), strict=True):
        assert one.tobytes() == again.tobytes()


def reachable(thing, depth=6):
    """Return what attributes, closures and containers of ``thing`` lead to."""
    seen, queue = {}, [(thing, depth)]
    while queue:
        each, left = queue.pop()
        if id(each) in seen or isinstance(each, str | bytes | int | float | np.ndarray | type):
            continue
        seen[id(each)] = each
        if not left:
            continue
        inside = list(getattr(each, "__dict__", {}).values())
        inside += [getattr(each, "__self__", None), getattr(each, "__func__", None)]
        inside += [cell.cell_contents for cell in getattr(each, "__closure__", None) or ()]
        inside += each.values() if isinstance(each, dict) else ()
        inside += each if isinstance(each, list | tuple) else ()
        queue += [(part, left - 1) for part in inside]
    return list(seen.values())


def test_a_simulation_leads_to_no_victim_and_no_api(shadow, digits_victim):
    stack = DefenseStack((defenses.build("mahalanobis"),))
    api = DefendedAPI(digits_victim, stack, budget=5, seed=0, knowledge="family")
    client = api.client()
    simulation = client.simulate(client.known, shadow)
    found = reachable(simulation)
    assert any(isinstance(each, NetworkPredictor) for each in found)  # the search does get somewhere
    for each in found:
        assert not isinstance(each, Victim | DefendedAPI)
        assert each is not stack
        assert each is not stack.defenses[0]
    with pytest.raises(BudgetError):
        client.predict(shadow.inputs[:6])


FITTED = """
import numpy as np
from moatbench import Answers, Claims, Defense

class Curious(Defense):
    name = "curious"
    seen = []
    def fit(self, calibration):
        type(self).seen.append(calibration)
    def answer(self, batch):
        return Answers.of(batch.probabilities.copy())

class Choosy(Defense):
    name = "choosy"
    def fit(self, calibration):
        if calibration.perturb is None:
            raise ZeroDivisionError("no noise to add")
    def answer(self, batch):
        return Answers.of(batch.probabilities[:, ::-1].copy())
"""


@pytest.fixture
def outside(tmp_path):
    path = tmp_path / "outside.py"
    path.write_text(dedent(FITTED))
    defenses.add_file(path)
    return defenses


def test_a_defense_is_fitted_on_the_attackers_own_arrays_alone(outside, shadow):
    seen = outside.get("curious").seen
    seen.clear()
    simulated(shadow, Known("curious", {}))
    (calibration,) = seen
    for mine, given in (
        (shadow.train_inputs, calibration.train_inputs),
        (shadow.train_labels, calibration.train_labels),
        (shadow.inputs, calibration.inputs),
        (shadow.labels, calibration.labels),
        (shadow.predictor(shadow.inputs), calibration.probabilities),
    ):
        assert (mine == given).all()
        assert not np.shares_memory(mine, given)
    assert calibration.seed == shadow.seed
    assert calibration.space == SPACE
    features = calibration.read_features(shadow.inputs)
    assert [depth.shape for depth in features] == [(50, 128), (50, 64), (50, 10)]
    clean = calibration.perturb(0.0, 5)(shadow.inputs)
    assert np.allclose(clean, calibration.probabilities, atol=1e-6)
    assert (calibration.perturb(1.0, 5)(shadow.inputs) != clean).any()


@pytest.mark.usefixtures("outside")
def test_what_cannot_be_simulated_is_not_applicable_with_the_reason(shadow):
    function = replace(shadow, predictor=lambda x: np.full((len(x), 10), 0.1))
    with pytest.raises(NotApplicable, match=r"parameter_noise cannot be simulated.*parameters"):
        simulated(function, Known("parameter_noise", {"scale": 0.1}))
    with pytest.raises(NotApplicable, match=r"choosy cannot be simulated.*100 inputs of their own.*no noise"):
        simulated(function, Known("choosy", {}))
    with pytest.raises(NotApplicable, match=r"nobody cannot be simulated.*no plugin has that name"):
        simulated(shadow, Known("nobody", {}))
    with pytest.raises(BrokenClaimError, match="keeps_label"):
        # A broken promise is the defense's fault, and no property of the attacker's data.
        simulated(shadow, Known("choosy", {})).answer(shadow.inputs, shadow.predictor(shadow.inputs))


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"train_labels": np.zeros(3, np.int64)}, "one label each, got 100 train_inputs and 3"),
        ({"inputs": np.zeros((50, 1, 4, 4), np.float32)}, "inputs must be"),
        ({"labels": np.full(50, 10)}, "labels must be in"),
    ],
)
def test_a_shadow_must_look_like_data_of_the_api(changed, problem, shadow):
    with pytest.raises(ValueError, match=problem):
        simulated(shadow, Known("rounded", {"decimals": 1}), **changed)


def test_a_networks_predictor_offers_features_and_noise_as_a_victim_does(shadow):
    predictor, x = shadow.predictor, shadow.inputs
    logits = predictor.features(x)[-1].astype(np.float64)
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    assert np.allclose(raised / raised.sum(axis=1, keepdims=True), predictor(x))
    assert predictor.perturbed(0.3, 1)(x).tobytes() == predictor.perturbed(0.3, 1)(x).tobytes()
    assert (predictor.perturbed(0.3, 1)(x) != predictor.perturbed(0.3, 2)(x)).any()
    assert (predictor.perturbed(0.0, 1)(x) == predictor(x)).all()
    # By hand: weights, one tensor after the other, plus .3 of their own standard deviation times a normal.
    rng, weights = np.random.default_rng(1), [value.numpy() for value in predictor.full.values()]
    noisy = [weight + 0.3 * weight.std() * rng.normal(size=weight.shape) for weight in weights]
    hidden = x.reshape(len(x), -1)
    for number in range(0, len(noisy), 2):
        hidden = hidden @ noisy[number].T + noisy[number + 1]
        hidden = np.maximum(hidden, 0) if number + 2 < len(noisy) else hidden
    raised = np.exp(hidden - hidden.max(axis=1, keepdims=True))
    assert np.allclose(raised / raised.sum(axis=1, keepdims=True), predictor.perturbed(0.3, 1)(x), atol=1e-5)


def test_models_of_a_library_offer_neither(digits_pool):
    x, y = digits_pool.x[:60], digits_pool.y[:60]
    (predictor,) = InterimSurrogates("sklearn-tree", (1, 8, 8), 10, 3).fit([(x, np.eye(10)[y])])
    assert not isinstance(predictor, NetworkPredictor)


class Ranged(Defense):
    """A defense whose strengths a test chooses."""

    name = "ranged"

    def __init__(self, *, scale: float = 1.0, steps: int = 3, other: str = "as it is"):
        self.scale, self.steps, self.other = scale, steps, other

    def answer(self, batch):
        return Answers.of(batch.probabilities)


@pytest.mark.parametrize(
    ("strength", "quarters"),
    [
        # Ends within a factor of 100 are drawn from evenly, others evenly in the logarithm.
        (StrengthRange("scale", 2.0, 6.0), (3.0, 4.0, 5.0)),
        (StrengthRange("scale", 0.0, 1.0), (0.25, 0.5, 0.75)),
        (StrengthRange("scale", 1.0, 1e-4), (1e-3, 1e-2, 1e-1)),
        (StrengthRange("steps", 9, 1, whole=True), (3, 5, 7)),
    ],
)
def test_unknown_strengths_are_drawn_from_the_range_and_the_rest_is_default(strength, quarters):
    family = type("Drawn", (Ranged,), {"strength": strength})
    drawn = [drawn_parameters(family, seed) for seed in range(400)]
    values = np.array([each[strength.parameter] for each in drawn])
    low, high = sorted((strength.weakest, strength.strongest))
    assert (values >= low).all()
    assert (values <= high).all()
    # A quarter, half and three quarters are below each limit: 400 draws are off by .1 once in 100,000.
    if not strength.whole:
        below = [(values < limit).mean() for limit in np.sort(quarters)]
        assert np.abs(np.array(below) - (0.25, 0.5, 0.75)).max() < 0.1
    else:
        assert set(values) == set(range(1, 10))
    others = {"scale": 1.0, "steps": 3, "other": "as it is"}
    del others[strength.parameter]
    assert all({**each, **others} == each for each in drawn)
    assert drawn[0] == drawn_parameters(family, 0)
