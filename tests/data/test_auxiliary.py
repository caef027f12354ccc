"""Auxiliary data: which kinds there are, that they are not the attacker's, and what they look like."""

from dataclasses import replace

import numpy as np
import pytest

from bench.data import auxiliary, query_pools
from bench.data.data_files import load_splits
from bench.errors import NotApplicable, UsageError
from bench.inputs import InputSpace
from bench.plan import feasibility
from bench.runner.context import WorkerContext
from bench.runner.run import prepare
from bench.tasks import Cell, ThreatModel


@pytest.fixture(scope="module")
def splits(data_root):
    return load_splits("digits", 0, data_root)


def loaded(name, splits, root, seed=0):
    return auxiliary.load(name, victim_data="digits", splits=splits, seed=seed, root=root)


@pytest.mark.parametrize(
    "name", ["default", "noise", "gaussian-noise", "sparse-noise", "synthetic", "glyphs", "marginals"]
)
def test_each_kind_has_as_many_inputs_as_the_training_split(name, splits, data_root):
    x = loaded(name, splits, data_root)
    assert x.shape == splits.train.x.shape
    assert x.dtype == np.float32
    assert not splits.inputs.problem(x)
    np.testing.assert_array_equal(x, loaded(name, splits, data_root))
    assert (x != loaded(name, splits, data_root, seed=1)).any()


@pytest.mark.parametrize("name", ["permuted", "noise", "marginals"])
def test_no_input_is_one_of_the_attackers_pool_of_that_name(name, splits, data_root):
    pool = query_pools.load(name, victim_data="digits", splits=splits, seed=0, root=data_root).x
    rows = {row.tobytes() for row in pool}
    assert not any(row.tobytes() in rows for row in loaded(name, splits, data_root))


def test_permuted_images_are_training_images_in_another_order(splits, data_root):
    x = loaded("permuted", splits, data_root)
    train = np.sort(splits.train.x.reshape(len(x), -1), axis=1)
    found = np.sort(x.reshape(len(x), -1), axis=1)
    assert {row.tobytes() for row in found} == {row.tobytes() for row in train}
    assert (x != splits.train.x).any(axis=(1, 2, 3)).mean() > 0.9


def test_there_are_at_most_ten_thousand():
    own = np.zeros((12_000, 3), np.float32)
    assert auxiliary.made("noise", own, InputSpace((3,)), 0).shape == (10_000, 3)


def test_another_data_set_is_replaced_where_it_is_made_without_it():
    own = np.random.default_rng(0).random((5, 1, 4, 4), dtype=np.float32)
    x = auxiliary.made("kmnist", own, InputSpace((1, 4, 4)), 1)
    np.testing.assert_array_equal(x, auxiliary.made("permuted", own, InputSpace((1, 4, 4)), 1))


def test_what_is_shared_is_told_by_name_and_by_data_set():
    assert auxiliary.shared_with("default", "permuted", "images")
    assert auxiliary.shared_with("kmnist", "blend:kmnist", "images")
    assert not auxiliary.shared_with("noise", "sparse-noise", "images")
    assert not auxiliary.shared_with("default", "permuted", "table")


def test_unknown_or_unsuitable_names_are_refused(splits, data_root):
    with pytest.raises(UsageError, match="unknown auxiliary data 'nose'; did you mean 'noise'"):
        loaded("nose", splits, data_root)
    with pytest.raises(NotApplicable, match="trained on"):
        loaded("digits", splits, data_root)


# --- in a run

TEXT = "adaptive_misinformation(tau=0.7, nu=1000.0, auxiliary=noise)"


def test_a_fitted_defense_got_the_data_that_it_names_with_the_victims_answers(
    context, digits_spec, monkeypatch
):
    seen = []
    fit = "defenses.adaptive_misinformation.AdaptiveMisinformation.fit"
    monkeypatch.setattr(fit, lambda _, calibration: seen.append(calibration.auxiliary))
    stack = (TEXT, "adaptive_misinformation(tau=0.7, nu=1000.0, auxiliary=none)")
    monkeypatch.setattr("bench.models.checked_stack.probe", lambda *_: None)
    own = WorkerContext(context.data_root)
    own.add({digits_spec: context.victim(digits_spec)})
    own.stack(digits_spec, stack, 0)
    given, none = seen
    assert none is None
    assert given.name == "noise"
    victim = own.victim(digits_spec)
    np.testing.assert_array_equal(given.probabilities, victim.probabilities(given.inputs))
    kept = own.auxiliary(digits_spec, 0, "noise")
    assert kept.inputs is not given.inputs
    np.testing.assert_array_equal(kept.inputs, given.inputs)
    assert kept in own.loaded().values()


def test_a_victim_of_which_nothing_is_known_is_checked_before_the_run(context, digits_spec):
    threat = ThreatModel("noise", "none", "none", "mlp", "probabilities")
    cell = Cell(digits_spec, (TEXT,), threat, "copycat(use_probability=true)", 50, 0, 1, 0)
    with pytest.raises(UsageError, match="pool = 'noise': 'adaptive_misinformation"):
        prepare([cell], context)
    assert prepare([replace(cell, threat=replace(threat, pool="synthetic"))], context)
    assert feasibility.auxiliary_names(cell.defense) == {TEXT: "noise"}
