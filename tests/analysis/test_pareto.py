import numpy as np
import pytest
from records import INSIDE, REPEATS, cell, evaluation

from bench.analysis.findings import Findings
from bench.analysis.pareto import dominated, panels
from bench.report.attack_tables import front_table

SOFT = "copycat(use_probability=true)"
NONE, LABEL_ONLY = (), ("label_only",)
SWEEPS = {
    "reverse_sigmoid(beta=1.0, gamma={:g})": [(0.02 * 2**k, 1.4 * k / 9, 0.80 - 0.04 * k) for k in range(8)],
    "reverse_sigmoid(l1={:g})": [(l1, l1, 0.79 - 0.15 * l1) for l1 in (0.01, 0.03, 0.1, 0.3, 1.0, 1.7)],
    "gaussian_noise(scale={:g})": [(0.05 * k, 0.2 * k, 0.79 - 0.02 * k) for k in range(1, 8)],
    "rounded(decimals={:g})": [(k, 0.1 / 4**k, 0.8 - 0.06 / k) for k in (1, 2, 3)],
    "softmax_flattening(temperature={:g})": [(k, 0.25 * k, 0.77 - 0.01 * k) for k in range(2, 8)],
    "top_k(k={:g})": [(k, 0.2 / k, 0.8 - 0.1 / k) for k in (1, 2, 3, 5)],
    "output_noise(epsilon={:g})": [(k, 0.2 * k, 0.74 - 0.02 * k) for k in range(1, 6)],
}


def frontier(threat=INSIDE, attack=SOFT, repeats=REPEATS):
    """Forty defenses of eight families with what each costs; a gate that refuses is among them."""
    records = []
    sweep = {(text.format(value),): rest for text, points in SWEEPS.items() for value, *rest in points}
    sweep |= {NONE: (0.0, 0.8), LABEL_ONLY: (0.08, 0.66)}
    for defense, (l1, share) in sweep.items():
        records.append(evaluation(defense, l1=l1, kept=1.0 if defense in (NONE, LABEL_ONLY) else 0.999))
        records += [cell(threat, defense, attack, 200, r, share=share) for r in range(repeats)]
    gate = ("mahalanobis(action=refuse, fpr=0.05, space=deep)",)
    records.append(evaluation(gate, kept=0.95, lost=0.045, refused=0.05, may_refuse=True, may_flag=True))
    return records + [cell(threat, gate, attack, 200, r, share=0.55) for r in range(repeats)]


@pytest.fixture(scope="module")
def findings():
    return Findings(frontier(), {"digits": 200})


@pytest.fixture(scope="module")
def drawn(findings):
    return panels(findings, findings.threats[0])


def test_a_point_is_dominated_only_by_one_that_is_no_worse_in_both_and_better_in_one():
    points = [(0.0, 0.9), (0.1, 0.8), (0.1, 0.85), (0.2, 0.8), (0.2, 0.7), (0.2, 0.7)]
    assert dominated(points) == [False, False, True, True, False, False]


def test_the_front_falls_as_utility_loss_rises_and_everything_grey_lies_above_it(drawn):
    for points in drawn.values():
        front = sorted((p.cost, p.fidelity.value) for p in points if not p.dominated)
        costs, left = np.transpose(front)
        assert np.all(np.diff(left) <= 0)
        for p in points:
            if p.dominated:
                reached = left[costs <= p.cost].min()
                assert p.fidelity.value >= reached


def test_a_panel_is_there_only_where_some_defense_has_a_utility_loss(drawn):
    # Made-up audits add likelihood with L1 and refuse at the gate, and never change risk-coverage.
    assert [cost.metric for cost in drawn] == ["honest.l1_mean", "honest.nll", "honest.refused"]
    free = [evaluation(NONE), evaluation(LABEL_ONLY)]
    free += [cell(INSIDE, d, SOFT, 200, r, share=0.7) for d in (NONE, LABEL_ONLY) for r in range(2)]
    findings = Findings(free, {"digits": 200})
    assert panels(findings, findings.threats[0]) == {}


def test_likelihood_is_counted_as_added_to_that_of_no_defense(drawn):
    likelihood = next(points for cost, points in drawn.items() if cost.added)
    by_defense = {p.row.defense: p.cost for p in likelihood}
    assert by_defense[NONE] == 0
    assert by_defense[LABEL_ONLY] == pytest.approx(0.08)


def test_the_table_of_the_front_holds_the_front_of_every_panel_and_nothing_else(findings, drawn):
    table = front_table(findings, drawn).splitlines()[2:]
    front = {p.row.defense for points in drawn.values() for p in points if not p.dominated}
    names = [f"`{findings.defense_name(defense)}`" if defense else "none" for defense in front]
    assert sorted(line.split("|")[1].strip() for line in table) == sorted(names)
    assert all("**" in line for line in table)
