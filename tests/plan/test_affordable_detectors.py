"""Shipped detectors that benign users may be able to afford: sizes that allow it, worked out by hand."""

from fractions import Fraction

import numpy as np
import pytest

from bench.analysis.eligibility import criterion
from bench.calls import parse_call
from bench.data.datasets import split_sizes
from bench.metrics.intervals import mean_interval
from bench.plan.matrix import load_matrix
from bench.run_facts import ReportOptions
from bench.tasks import Cell

STRICT = Fraction(1, 100)
LIMIT = ReportOptions().rejected


def detectors(task):
    """The false-positive rates, of at most .01, that a cell's detectors promise."""
    calls = [parse_call(text) for text in task.defense]
    rates = [Fraction(str(values["fpr"])) for name, values in calls if name == "mahalanobis"]
    return {rate for rate in rates if rate <= STRICT}


def rejected(inputs, number):
    return criterion("rejected", mean_interval((np.arange(inputs) < number)[None]), LIMIT, inputs).verdict


@pytest.mark.parametrize("name", ["digits", "ci", "mnist"])
def test_a_matrix_has_strict_detectors_that_its_calibration_split_can_hold(name, tmp_path):
    cells = [task for task in load_matrix(name).tasks(data_root=tmp_path) if isinstance(task, Cell)]
    strict = [cell for cell in cells if detectors(cell)]
    assert {rate for cell in strict for rate in detectors(cell)} == {STRICT, STRICT / 2}
    for cell in strict:
        sizes = split_sizes(cell.victim.data, cell.victim.splits)
        # Of n + 1 exchangeable inputs one is above each of two thresholds: 2 / (n + 1) <= .9 fpr.
        assert all(Fraction(9, 10) * rate * (sizes["calibration"] + 1) >= 2 for rate in detectors(cell))
        # About a quarter of the limit is rejected, and the test inputs are enough to show that it is met.
        assert rejected(sizes["test"], sizes["test"] // 365) == "affordable"
    evaded = {rate for cell in strict if cell.attack.startswith("evade(") for rate in detectors(cell)}
    assert evaded == {STRICT, STRICT / 2}


def test_how_many_rejected_inputs_decide():
    assert [rejected(730, number) for number in (0, 2, 3)] == ["affordable", "affordable", "not shown"]
    # The other victim of digits: of 447 test inputs not one may be rejected.
    assert [rejected(447, number) for number in (0, 1)] == ["affordable", "not shown"]
