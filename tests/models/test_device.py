"""The device of surrogate training: the CPU by default; on a GPU equal up to the noise of repeats."""

from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from bench.cli.main import app
from bench.errors import UsageError
from bench.inputs import InputSpace
from bench.metrics.intervals import unpaired_difference
from bench.models import surrogates
from bench.models.determinism import device, on_device, resolve_device, single_thread
from bench.plugins import attacks
from bench.runner import run
from bench.runner.cells import run_cells
from bench.tasks import Cell

GPU = torch.cuda.is_available()


def test_the_device_is_the_cpu_outside_of_its_block():
    assert device() == "cpu"
    with on_device("cuda"):
        assert device() == "cuda"
        with on_device("cpu"):
            assert device() == "cpu"
    assert device() == "cpu"


def test_auto_takes_what_is_there(monkeypatch):
    for there, wanted in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert resolve_device("auto") == wanted
        assert resolve_device("cpu") == "cpu"


def test_a_gpu_that_is_not_there_is_one_sentence(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="torch sees no GPU"):
        resolve_device("cuda")


def test_an_unknown_device_is_a_usage_error():
    told = CliRunner().invoke(app, ["run", "smoke", "--device", "abacus"])
    assert told.exit_code == 2
    assert "abacus" in told.output


def cells(digits_spec, threat, text="copycat(use_probability=true)", repeats=5):
    name = attacks.canonical(text)
    return [Cell(digits_spec, (), threat, name, 200, repeat, repeats, 0, "rule") for repeat in range(repeats)]


def test_results_of_another_device_have_other_keys(context, digits_spec, threat):
    tasks = cells(digits_spec, threat, repeats=2)
    prints = {digits_spec: context.victim(digits_spec).fingerprint}
    plans = [run.task_keys(tasks, prints, *device) for device in ((), ("cpu",), ("cuda",))]
    named, cpu, cuda = ({each.key for each in plan} for plan in plans)
    assert named == cpu
    assert not named & cuda


def test_a_training_is_cached_by_its_device(digits_pool):
    bought = [surrogates.TransferSet(digits_pool.x[:20], digits_pool.x[:20].reshape(20, -1)[:, :10])]
    schedule = surrogates.TrainingSchedule(1)
    with on_device("cuda"):
        far = surrogates._key(bought, "mlp", schedule, (0.0, 1.0), [0], InputSpace((1, 8, 8)), "", [])
    assert far != surrogates._key(bought, "mlp", schedule, (0.0, 1.0), [0], InputSpace((1, 8, 8)), "", [])


@pytest.mark.skipif(not GPU, reason="needs a GPU")
@pytest.mark.parametrize("architecture", ["mlp", "cnn"])
def test_surrogates_trained_on_a_gpu_are_as_good(architecture, context, digits_spec, threat):
    group = cells(digits_spec, replace(threat, surrogate=architecture))
    hits = {}
    for where in ("cpu", "cuda"):
        with single_thread(), on_device(where):
            hits[where] = [outcome.arrays["agreement"] for outcome in run_cells(group, context)]
    found = unpaired_difference(hits["cpu"], hits["cuda"])
    assert found.low <= 0 <= found.high
    assert abs(found.value) < 0.02
