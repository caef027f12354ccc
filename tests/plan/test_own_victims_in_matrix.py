"""Victims of one's own in a matrix: ``[victims.NAME]`` and factories by file, beside shipped ones."""

import pytest

from bench.errors import UsageError
from bench.plan.matrix import load_matrix
from bench.records import victim_identity
from bench.tasks import VictimSpec, architecture_and_splits

TEXT = """
name = "mine"
repeats = 1
reference_budget = {{ loans = 20 }}
{victims}
[[block]]
{data}
victim = {victim}
attack = "copycat"
budget = 20
"""
LOANS = '[victims.loans]\nmodel = "loans.skops"\ndata = "loans.csv"\nlabel = "good"\ngroups = ["sex"]'


def matrix(folder, *, victims=LOANS, data="", victim='["loans", "my.py:first", "mlp"]'):
    (folder / "mine.toml").write_text(TEXT.format(victims=victims, data=data, victim=victim))
    return load_matrix(str(folder / "mine.toml"))


def test_blocks_name_own_victims_beside_shipped_ones(tmp_path):
    made = matrix(tmp_path)
    victims = dict.fromkeys(task.victim for task in made.tasks())
    assert set(victims) == {
        VictimSpec("own:loans", ""),
        VictimSpec("my.py:first", ""),
        VictimSpec("digits", "mlp"),
    }
    assert made.folder == tmp_path
    assert made.victims["loans"].groups == ("sex",)
    assert made.budgets_by_data == {"own:loans": 20}


def test_a_described_victim_is_shown_by_its_name():
    spec = VictimSpec("own:loans", "", 3)
    assert str(spec) == "loans"
    assert spec.is_reference
    assert architecture_and_splits("loans", "own:loans") == ("", "disjoint")
    assert victim_identity(str(spec), spec.seed).startswith("loans")


def test_the_data_of_a_block_of_own_victims_are_ignored_and_that_is_said(tmp_path, caplog):
    mixed = matrix(tmp_path, data='data = "digits"')
    mixed.tasks()
    assert not caplog.messages
    matrix(tmp_path, data='data = "mnist"', victim='"loans"').tasks()
    assert [each.partition("block.0.")[2] for each in caplog.messages] == [
        "data is ignored: loans brings its own"
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"victim": '"lones"'}, r"block.0.victim: unknown victim 'lones'; did you mean 'loans'"),
        ({"victim": '"my.py:"'}, r"a victim 'my.py:': write FILE.py:FUNCTION or package.module:FUNCTION"),
        (
            {"victims": LOANS.replace("loans]", "mlp]")},
            r"victims.mlp: 'mlp' is a shipped victim; give it another",
        ),
        ({"victims": LOANS.replace("loans]", '"a b"]')}, r"victims.a b: 1 to 100 letters"),
        (
            {"victims": LOANS.replace("label", "lable")},
            r"unknown key 'victims.loans.lable'; did you mean 'label'",
        ),
        (
            {"victims": LOANS + "\nthreshold = 2.0"},
            r"victims.loans.threshold = 2.0: input should be less than 1",
        ),
        ({"victims": '[victims.loans]\nmodel = "m.skops"'}, r"key 'victims.loans.data' is missing"),
    ],
)
def test_a_victim_that_is_described_wrongly_is_refused_with_file_and_key(tmp_path, options, message):
    with pytest.raises(UsageError, match=rf"mine.toml: .*{message}"):
        matrix(tmp_path, **options).tasks()
