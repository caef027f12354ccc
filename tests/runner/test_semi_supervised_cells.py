"""Cells that learn from unqueried inputs: which ones, what is recorded of it, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
from attacked_api import rows_of

from attacks.base import TransferSet
from bench.errors import NotApplicable
from bench.models import surrogates
from bench.models.training_config import TrainingConfig
from bench.runner import extraction
from bench.runner.cells import run_cells
from bench.tasks import Cell

LABELS = "copycat(use_probability=false)"
TRAININGS = ("pseudo-labels", "fixmatch", "mixmatch", "rotation")


@pytest.fixture(autouse=True)
def eight_steps(monkeypatch):
    by_rule = TrainingConfig.schedule
    monkeypatch.setattr(TrainingConfig, "schedule", lambda *args: replace(by_rule(*args), steps=8))


@pytest.fixture
def cell(digits_spec, threat):
    return Cell(digits_spec, (), threat, LABELS, budget=60, repeat=0, repeats=2, seed=0)


@pytest.mark.parametrize("name", TRAININGS)
def test_the_unlabelled_inputs_are_those_of_the_pool_that_were_not_queried(
    name, cell, context, digits_pool, monkeypatch
):
    handed = []
    fit = surrogates.fit

    def recorded(sets, *args, **kwargs):
        if kwargs.get("unqueried") is not None:
            handed.append((sets, kwargs["unqueried"]))
        return fit(sets, *args, **kwargs)

    monkeypatch.setattr(extraction.surrogates, "fit", recorded)
    outcomes = run_cells(replace(cell, training=f"rule(unlabelled={name})").group(), context)
    sets, rest = handed[0]
    for bought, others in zip(sets, rest, strict=True):
        assert sorted(rows_of(np.concatenate([bought.x, others]))) == sorted(rows_of(digits_pool.x))
    assert [each.info.unlabelled for each in outcomes] == [440, 440]
    assert all(each.info.rows > 8 * 60 for each in outcomes)
    assert {"train"} <= outcomes[0].costs.cpu_seconds.keys()


def test_a_supervised_cell_has_none(cell, context):
    for training in ("rule", "rule(augment=weak)"):
        for outcome in run_cells(replace(cell, training=training).group(), context):
            assert outcome.info.unlabelled is None
            assert outcome.info.rows == 8 * 60  # one batch of 60 in each step


def test_a_finished_surrogate_has_no_rows():
    found = surrogates.SolvedSurrogate(lambda x: np.ones((len(x), 1)))
    assert extraction._size_of_training(found) == {}


@pytest.mark.parametrize("name", TRAININGS)
def test_the_test_split_is_never_learned_from(name, cell, context):
    tested = replace(cell, threat=replace(cell.threat, pool="test"), training=f"rule(unlabelled={name})")
    with pytest.raises(NotApplicable, match="pool 'test' is the test split"):
        run_cells(tested.group(), context)


def test_a_cell_is_a_pure_function_of_its_spec(cell, context):
    taught = replace(cell, training="rule(unlabelled=fixmatch)")
    for one, other in zip(*(run_cells(taught.group(), context) for _ in range(2)), strict=True):
        assert one.info == other.info
        assert one.arrays["agreement"].tobytes() == other.arrays["agreement"].tobytes()


def test_inputs_that_were_made_are_no_loss_to_the_pool(cell, context, digits_pool):
    taught = replace(cell, attack="smoothing(views=3, use_probability=true)")
    for outcome in run_cells(replace(taught, training="rule(unlabelled=fixmatch)").group(), context):
        assert outcome.info.learnt == 20
        assert outcome.info.unlabelled == len(digits_pool.x) - 20
        assert outcome.info.queries.sent == 60


def test_a_transfer_set_may_be_empty(cell, context, digits_pool):
    nothing = TransferSet(digits_pool.x[:0], np.zeros((0, 10), np.float32))
    taught = replace(cell, training="rule(unlabelled=fixmatch)")
    fitted = extraction._surrogates(taught.group(), [nothing, nothing], digits_pool, context)
    assert [(each.unlabelled, each.rows) for each in fitted] == [(500, 0), (500, 0)]
