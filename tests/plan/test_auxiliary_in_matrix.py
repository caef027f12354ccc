"""A defender's auxiliary data in a matrix: it exists, and no attacker of the block queries with it."""

import pytest

from bench.errors import UsageError
from bench.plan import feasibility
from bench.plan.matrix import load_matrix
from bench.tasks import Cell

BLOCK = """
[[block]]
attack = "copycat"
defense = [DEFENSES]
pool = [POOLS]
budget = 50
"""
AM, EDM = "adaptive_misinformation", "diverse_ensemble"


def expanded(matrix_file, defenses, pools, extra=""):
    def listed(names):
        return ", ".join(f'"{name}"' for name in names)

    text = (
        BLOCK.replace("DEFENSES", listed(defenses))
        .replace("POOLS", listed(pools))
        .replace("\nbudget", extra + "\nbudget")
    )
    return load_matrix(str(matrix_file(text))).tasks()


def test_a_pool_that_a_defense_trains_on_is_refused_and_both_are_named(matrix_file):
    with pytest.raises(UsageError) as error:
        expanded(matrix_file, ["none", f"{AM}(auxiliary=noise)"], ["noise"])
    text = str(error.value)
    assert "block.0.pool = 'noise'" in text
    assert (
        "adaptive_misinformation(tau=0.7, nu=1000.0, auxiliary=noise)' trains on auxiliary data 'noise'"
        in text
    )
    assert "\n" not in text


@pytest.mark.parametrize(
    ("defense", "pools", "named"),
    [
        (f"{AM}(auxiliary=synthetic)", ["in-distribution", "noise", "synthetic"], "synthetic"),
        (f"{EDM}(auxiliary=noise)", ["synthetic", "noise"], "noise"),
        (AM, ["in-distribution", "permuted"], "permuted"),
        (f"{EDM}(auxiliary=kmnist)", ["noise", "blend:kmnist"], "blend:kmnist"),
        (f"{AM}(auxiliary=noise, l1=0.1)", ["noise"], "noise"),
        (f"{EDM}(auxiliary=emnist-digits)", ["noise", "mnist"], "mnist"),  # some of the same digits
        (f"{EDM}(auxiliary=mnist)", ["blend:emnist-digits"], "blend:emnist-digits"),
    ],
)
def test_it_is_found_among_several_pools_and_defenses(matrix_file, defense, pools, named):
    with pytest.raises(UsageError, match=rf"block\.0\.pool = '{named}': '(adaptive|diverse)"):
        expanded(matrix_file, ["label_only", defense], pools)


def test_a_member_of_a_stack_counts(matrix_file):
    stacked = BLOCK.replace("[DEFENSES]", f'[["rounded", "{AM}(auxiliary=noise)"]]').replace(
        "POOLS", '"noise"'
    )
    with pytest.raises(UsageError, match="trains on auxiliary data 'noise'"):
        load_matrix(str(matrix_file(stacked))).tasks()


def test_other_pools_and_other_blocks_are_allowed(matrix_file):
    assert expanded(matrix_file, [AM, EDM], ["in-distribution", "noise", "synthetic"])
    assert expanded(matrix_file, [f"{AM}(auxiliary=none)"], ["permuted"])
    own = BLOCK.replace("DEFENSES", f'"{AM}(auxiliary=noise)"').replace("POOLS", '"synthetic"')
    other = BLOCK.replace("DEFENSES", '"label_only"').replace("POOLS", '"noise"')
    assert load_matrix(str(matrix_file(own + other))).tasks()


def test_an_attack_without_queries_meets_no_defense(matrix_file):
    text = (
        BLOCK.replace("copycat", "own_labels").replace("DEFENSES", f'"{AM}"').replace("POOLS", '"permuted"')
    )
    (*_, cell) = load_matrix(str(matrix_file(text))).tasks()
    assert isinstance(cell, Cell)
    assert cell.defense == ()


@pytest.mark.parametrize(
    ("defense", "data", "message"),
    [
        (f"{AM}(auxiliary=nois)", "digits", "unknown auxiliary data 'nois'; did you mean 'noise'"),
        (f"{AM}(auxiliary='')", "digits", "auxiliary = '': a name is needed"),
        (f"{EDM}(auxiliary='')", "digits", "auxiliary = '': a name is needed"),
        (f"{EDM}(auxiliary=perturbed)", "digits", "unknown auxiliary data 'perturbed'"),
        (f"{AM}(auxiliary=digits)", "digits", "auxiliary data 'digits': it is what digits was trained on"),
        (f"{AM}(auxiliary=permuted)", "adult", "auxiliary data 'permuted': it has images"),
        (f"{AM}(auxiliary=mnist)", "breast-cancer", "auxiliary data 'mnist': it has images"),
    ],
)
def test_what_a_victim_cannot_have_is_one_sentence(matrix_file, defense, data, message):
    with pytest.raises(UsageError, match=message) as error:
        expanded(matrix_file, [defense], ["in-distribution"], f'\ndata = "{data}"')
    assert "defense = " in str(error.value)


def test_tables_have_default_data_of_their_own(matrix_file):
    assert expanded(matrix_file, [AM], ["in-distribution", "noise"], '\ndata = "breast-cancer"')
    with pytest.raises(UsageError, match="trains on auxiliary data 'marginals'"):
        expanded(matrix_file, [AM], ["marginals"], '\ndata = "breast-cancer"')


def test_a_plugin_that_asks_by_no_name_is_told(monkeypatch):
    monkeypatch.setattr("defenses.label_only.LabelOnly.auxiliary_data", 3, raising=False)
    with pytest.raises(UsageError, match="defense = 'label_only': auxiliary_data = 3; a name is needed"):
        feasibility.auxiliary_names(["label_only"])
