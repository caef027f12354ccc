"""The matrices of published defenses ask what they say: the same attackers with and without a defense."""

from dataclasses import replace

import pytest

from bench.analysis.published_claims import published_claims
from bench.plan.matrix import load_matrix
from bench.plan.study import matching_specs
from bench.tasks import Cell

MATRICES = ("published", "published-mnist")
STUDIES = ("prediction-poisoning", "modelguard", "mnist-mea-mia")
PROPOSED = (
    "modelguard_w",
    "modelguard_s",
    "mad",
    "mad_argmax",
    "grad_redirection",
    "random_one_hot",
    "adaptive_misinformation",
    "diverse_ensemble",
)


def selected(choice, cells):
    """The cells that a claim's where selects."""
    return matching_specs(choice, [cell.spec() for cell in cells])


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """The cells of each matrix, without optional pools, repeat 0 alone."""
    root = tmp_path_factory.mktemp("nothing")
    names = [*MATRICES, *(f"studies/{name}" for name in STUDIES)]
    return {
        name.rpartition("/")[2]: [
            task
            for task in load_matrix(name).tasks(data_root=root)
            if isinstance(task, Cell) and task.repeat == 0
        ]
        for name in names
    }


@pytest.mark.parametrize("name", [*MATRICES, "prediction-poisoning", "modelguard"])
def test_whatever_runs_against_a_defense_runs_against_none(name, cells):
    known = set(cells[name])
    assert {replace(cell, defense=()) for cell in known} <= known


@pytest.mark.parametrize("name", MATRICES)
def test_every_proposed_defense_meets_each_kind_of_attacker(name, cells):
    default = {each.name: each.default for each in published_claims().defense}
    attacks = {}
    for cell in cells[name]:
        for text in cell.defense:
            plugin = text.partition("(")[0]
            attacks.setdefault(plugin, set()).add((cell.attack.partition("(")[0], cell.threat.knowledge))
    for plugin in PROPOSED:
        wanted = {("copycat", "none"), ("labels", "none"), ("recover", "full"), ("restore", "full")}
        assert wanted | {("auto", "full")} <= attacks[plugin], plugin
    stacks = {cell.defense for cell in cells[name]}
    for plugin in PROPOSED:
        found = selected({"defense": (default[plugin],)}, cells[name])
        assert len({tuple(spec["defense"]) for spec in found}) == 1, plugin
    assert any("l1" in text for stack in stacks for text in stack)


def test_a_semi_supervised_attacker_comes_with_its_control(cells):
    for name in MATRICES:
        by_training = {}
        for cell in cells[name]:
            by_training.setdefault(cell.training, set()).add(
                (cell.defense, cell.attack, cell.threat, cell.budget)
            )
        assert by_training["rule(unlabelled=fixmatch)"] == by_training["rule(augment=weak)"]


def test_a_shipped_matrix_runs_the_recipe_of_every_claim(cells):
    every = [cell for own in cells.values() for cell in own]
    for _, claim in published_claims().claims():
        wheres = [claim.where, claim.without, *(control.where for control in claim.control)]
        for where in filter(None, wheres):
            found = [choice for choice in where.choices() if selected(choice, every)]
            assert found, (claim.id, where)
            for choice in found:
                assert claim.without or selected(choice | {"defense": ()}, every), claim.id
