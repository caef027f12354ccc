"""Noise that a defense claims to draw anew is tested across queries, repeats, clients and inputs."""

from pathlib import Path

import pytest
import weakened_defenses

from bench.plugins import defenses
from bench.runner import noise_checks
from bench.runner.noise_checks import noise_independence
from bench.tasks import DefenseEvaluation

FILE = Path(weakened_defenses.__file__)
LEVEL = 0.05 / 30

FRESH = {
    "gaussian_noise": "gaussian_noise(scale=0.2)",
    "label kept": "output_noise",
    "flattening": "softmax_flattening",
    "detector that answers at random": "mahalanobis(action=noise)",
    "discrete": "model_switch",
    "rounded": ["gaussian_noise", "rounded(decimals=1)"],
    "after rounding": ["rounded(decimals=1)", "gaussian_noise"],
    "behind a limit": ["rate_limit", "gaussian_noise"],
}
STALE = {
    "one seed for all repeats and clients": {"repeats", "clients"},
    "one seed for all repeats": {"repeats"},
    "input": {"queries"},
    "input, for all clients": {"queries", "repeats", "clients"},
    "groups of inputs": {"queries", "repeats", "clients"},
    "answer": {"queries", "repeats", "clients"},
    "number modulo 16": {"inputs"},
    "client": {"inputs"},
    "seed modulo 16": set(),
}
"""How noise is seeded, and across what it is dependent, at the least."""
QUICK = ["discrete", "behind a limit"]


@pytest.fixture
def independence(context, digits_spec, monkeypatch):
    """Return what tests the noise of a stack."""
    defenses.add_file(FILE)

    def test(stack, draws=8):
        monkeypatch.setattr(noise_checks, "MOST", draws)
        texts = (stack,) if isinstance(stack, str) else stack
        task = DefenseEvaluation(digits_spec, tuple(map(defenses.canonical, texts)), (), 1, 0)
        return noise_independence(task, context)

    return test


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FRESH]
)
def test_fresh_noise_stays_quiet(name, independence):
    found = independence(FRESH[name])
    assert set(found) == {"queries", "repeats", "clients", "inputs"}
    for each in found.values():
        assert each.chance > LEVEL / 4
        assert not each.equal


@pytest.mark.parametrize(
    "how",
    [
        "one seed for all repeats and clients",
        "seed modulo 16",
        *(pytest.param(how, marks=pytest.mark.slow) for how in list(STALE)[1:-1]),
    ],
)
def test_noise_that_is_not_drawn_anew_is_seen(how, independence):
    found = independence(f"stale_noise(how='{how}')", 4)
    for name in STALE[how]:
        assert found[name].chance <= LEVEL
        assert found[name].agreement > 0.5
        assert found[name].equal > 100
    assert any(each.equal for each in found.values())


@pytest.mark.slow
def test_a_hundredth_of_the_noises_variance_that_the_input_decides_is_seen(independence):
    found = independence("stale_noise(how='input', rho=0.15)", 30)
    assert found["queries"].chance <= LEVEL
    assert found["queries"].equal == 0


@pytest.mark.parametrize("stack", ["label_only", "output_noise(consistent=true)"])
def test_a_stack_that_claims_no_fresh_noise_is_not_tested(stack, independence):
    assert independence(stack) == {}
    assert independence(["gaussian_noise", "output_noise(consistent=true)"]) == {}


def test_answers_are_counted_as_repeated_only_if_noise_is_continuous_to_the_end(independence):
    rounded = independence(["gaussian_noise", "rounded(decimals=1)"], 4)
    assert {each.equal for each in rounded.values()} == {None}
    assert {each.equal for each in independence("gaussian_noise", 4).values()} == {0}
