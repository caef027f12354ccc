"""What the matrix and the sizes of the data rule out is an error of the plan, not of a cell."""

import re

import pytest
import torch

from bench.data.datasets import DATASETS, split_indices, split_sizes
from bench.data.query_pools import POOLS
from bench.errors import MissingDataError, UsageError
from bench.models import networks
from bench.plan.feasibility import SMALLEST
from bench.plan.matrix import load_matrix
from bench.plugins import attacks
from bench.runner import context as worker_contexts
from bench.runner.local_backend import WorkerSettings, run_group
from bench.runner.run import run
from bench.store import Store
from bench.tasks import Cell

BLOCK = """
[[block]]
attack = "copycat"
budget = 50
"""


def planned(matrix_file, text):
    return load_matrix(str(matrix_file(text))).tasks(repeats=1)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            'attack = "membership_threshold(target=surrogate)"\nbudget = 501',
            r"block.0.budget = 501: .*'in-distribution' supplies .*\(500 inputs\); \[1, 500\] is allowed",
        ),
        ('attack = "labels"\npool = "train"\nbudget = 701', r"block.0.budget = 701: .*\[1, 700\] is allowed"),
        ('attack = "copycat"\nbudget = [50, 501]', r"block.0.budget = 501: .*\[1, 500\] is allowed"),
        ('attack = "copycat"\npool = "noise"\nbudget = 2001', r"block.0.budget = 2001: .*\[1, 2000\]"),
        (
            'attack = "auto"\nknowledge = "full"\npool = "none"\nbudget = 9',
            "block.0.pool = 'none': it has no",
        ),
        (
            'attack = "copycat"\nsurrogate = "lenet"\nbudget = 9',
            "block.0.surrogate = 'lenet': .*20×20.*8×8; mlp",
        ),
        ('attack = "copycat"\nvictim = "lenet"\nbudget = 9', "block.0.victim = 'lenet': .*20×20.*8×8; mlp"),
        (
            'attack = "membership_label_only(members=9223372036854775807)"\nbudget = 9',
            r"block.0.attack = .*it sends [\d,]+ queries; \[0, 1,000,000,000\] is allowed",
        ),
        (
            'attack = "membership_threshold"\npool = "train"\nbudget = 9',
            "runs? nowhere.*700 training records and 0",
        ),
        ('attack = "membership_threshold"\npool = "none"\nbudget = 9', "runs? nowhere.*and 0 in pool 'none'"),
    ],
)
def test_a_cell_that_has_to_fail_is_refused_with_file_key_value_and_what_is_allowed(
    matrix_file, lines, message
):
    with pytest.raises(UsageError, match=f"tiny.toml: .*{message}"):
        planned(matrix_file, f"[[block]]\n{lines}\n")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('detect = ["noise", "none"]', "detect: pool 'none' has no inputs"),
        (
            "reference_budget = { digits = 51 }",
            r"reference_budget.digits = 51: no block has .*\[50\] is allowed",
        ),
        (
            "reference_budget = { digit = 50 }",
            "reference_budget.digit = 50: unknown data set.*did you mean 'digits'",
        ),
        ('sentinels = ["copycat(use_probability=true)"]', "sentinels.0: no attack of this matrix is"),
    ],
)
def test_a_setting_that_no_block_can_meet_is_refused(matrix_file, line, message):
    with pytest.raises(UsageError, match=f"tiny.toml: {message}"):
        planned(matrix_file, f"{line}\n{BLOCK}")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("family = 'extractoin'", "its family is 'extractoin'; did you mean 'extraction'"),
        ("family = None", "its family is None; known: extraction, membership"),
        ("knowledge = ('full')", r"knowledge = 'full'; a tuple of \('none', 'family', 'full'\) is allowed"),
        ("knowledge = ('all',)", r"knowledge = \('all',\); a tuple of"),
        ("budgets = lambda self, listed: 1 / 0", "mine.py, line 4: ZeroDivisionError"),
        ("budgets = lambda self, listed: [1.5]", r"it sends 1.5 queries; \[0, 1,000,000,000\] is allowed"),
        ("budgets = lambda self, listed: [-1]", r"it sends -1 queries; \[0, 1,000,000,000\] is allowed"),
        ("budgets = lambda self, listed: None", "TypeError: 'NoneType' object is not iterable"),
        ("supply = lambda self, size: 1 / 0", "mine.py, line 4: ZeroDivisionError"),
        ("supply = lambda self, size: 'many'", "TypeError: '>' not supported"),
    ],
)
def test_a_plugin_whose_declarations_cannot_be_used_is_refused(matrix_file, tmp_path, line, message):
    (tmp_path / "mine.py").write_text(
        "from moatbench import Extraction\n"
        "class Mine(Extraction):\n"
        "    name = 'mine'\n"
        f"    {line}\n"
        "    def acquire(self, api, pool, surrogates, seeds): ...\n"
    )
    with pytest.raises(UsageError, match=rf"tiny.toml: block.0.attack = 'mine'.*{message}"):
        planned(matrix_file, 'plugins = ["mine.py"]\n' + BLOCK.replace("copycat", "mine"))


def test_a_training_that_membership_attacks_could_not_follow_is_refused(matrix_file):
    text = '[[block]]\nattack = ["labels", "membership_threshold"]\nbudget = 9\n'
    with pytest.raises(
        UsageError, match=r"block.0.training = 'rule\(unlabelled=pseudo-labels\)': .*unqueried"
    ):
        planned(matrix_file, f'{text}training = ["rule", "rule(unlabelled=pseudo-labels)"]\n')


def test_where_one_pool_of_a_product_is_too_small_the_cells_of_the_others_stay(matrix_file):
    text = '[[block]]\nattack = "membership_threshold"\npool = ["in-distribution", "train"]\nbudget = 9\n'
    cells = [task for task in planned(matrix_file, text) if isinstance(task, Cell)]
    assert {cell.threat.pool for cell in cells} == {"in-distribution", "train"}


@pytest.mark.parametrize("name", DATASETS)
@pytest.mark.parametrize("splits", ["disjoint", "official", "500/150/297/850"])
def test_the_sizes_of_splits_are_known_without_drawing_them(name, splits):
    if splits == "500/150/297/850" and sum(rows for _, rows in DATASETS[name].official) < 1_797:
        splits = "200/50/100/150"
    drawn = {part: len(rows) for part, rows in split_indices(name, 0, splits).items()}
    assert split_sizes(name, splits) == drawn


@pytest.mark.parametrize("architecture", [*SMALLEST, "mlp", "logistic"])
def test_a_network_takes_inputs_of_its_smallest_size_and_none_below(architecture):
    smallest = SMALLEST.get(architecture, 1)
    network = networks.build(architecture, (1, smallest, smallest), 10).eval()
    assert network(torch.zeros(2, 1, smallest, smallest)).shape == (2, 10)
    if smallest > 1:
        less = (1, smallest - 1, smallest)
        with pytest.raises((UsageError, RuntimeError)):
            networks.build(architecture, less, 10).eval()(torch.zeros(2, *less))


LOCAL = [
    name
    for name in POOLS
    if name.removeprefix("blend:") not in DATASETS or name.endswith(":digits") or name == "digits"
]


@pytest.mark.usefixtures("fresh_workers")
@pytest.mark.parametrize(
    "pool", [pytest.param(name, marks=() if name == "none" else pytest.mark.slow) for name in LOCAL]
)
def test_no_cell_fails_that_a_plan_accepts(matrix_file, tmp_path, pool):
    accepted = 0
    for name in attacks.names():
        knowledge = attacks.get(name).knowledge[-1]
        text = f'attack = "{name}"\npool = "{pool}"\nknowledge = "{knowledge}"\nsurrogate = "logistic"\n'
        text = text.replace("membership_black_box", "membership_black_box(members=20)")
        try:
            tasks = planned(matrix_file, f"[[block]]\nvictim = 'logistic'\nbudget = 40\n{text}")
        except UsageError:
            continue
        accepted += 1
        cells = [task for task in tasks if isinstance(task, Cell)]
        for cell in cells:
            (record,) = run_group(WorkerSettings(tmp_path, None), [(cell, "key")])
            assert record.status in {"ok", "not_applicable"}, record.error
    assert accepted > 0 or pool == "none"


VICTIM = """
import numpy as np
from moatbench import Labelled, Splits
def part(n):
    x = np.random.default_rng(n).random((n, 1, 8, 8), dtype=np.float32)
    return Labelled(x, (x.mean(axis=(1, 2, 3)) > 0.5).astype(np.int64))
def predict(x):
    p = 1 / (1 + np.exp(-60 * (x.mean(axis=(1, 2, 3)) - 0.5)))
    return np.stack([1 - p, p], axis=1)
def make():
    return predict, Splits(part(50), part(40), part(30), part(60), classes=2)
"""


@pytest.mark.usefixtures("fresh_workers")
@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('attack = "copycat"\nbudget = [20, 31]', r"budget = 31: .*\[1, 30\] is allowed"),
        (
            'attack = "membership_threshold(target=surrogate)"\nbudget = 31',
            r"budget = 31: .*\[1, 30\] is allowed",
        ),
        ('attack = "copycat"\nsurrogate = "lenet"\nbudget = 20', "surrogate = 'lenet': .*20×20"),
    ],
)
def test_a_users_victim_is_checked_when_its_sizes_are_known_and_nothing_has_run(
    matrix_file, tmp_path, monkeypatch, lines, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(VICTIM)
    tasks = load_matrix(str(matrix_file(f"[[block]]\n{lines}\n"))).tasks("mine.py:make", 1)
    with Store(tmp_path / "one.sqlite", create=True) as store:
        with pytest.raises(UsageError, match=f"victim mine.py:make: {message}"):
            run(tasks, store, WorkerSettings(tmp_path, None), jobs=1)
        assert store.records() == []


@pytest.mark.usefixtures("fresh_workers")
def test_missing_data_of_any_victim_is_named_before_the_first_is_trained(matrix_file, tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr(worker_contexts, "load_victim", lambda *args: trained.append(args))
    tasks = planned(matrix_file, BLOCK + 'data = ["digits", "mnist"]\n')
    with (
        Store(tmp_path / "one.sqlite", create=True) as store,
        pytest.raises(MissingDataError, match="moatbench data fetch mnist"),
    ):
        run(tasks, store, WorkerSettings(tmp_path, None), jobs=1)
    assert trained == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            'surrogate = "cnn"',
            "surrogate = 'cnn': it needs images, and the inputs",
        ),
        (
            'victim = "lenet"',
            "victim = 'lenet': it needs images, and the inputs",
        ),
        (
            'pool = "permuted"',
            "pool = 'permuted': it has images, and the inputs of adult are rows",
        ),
        ('pool = "sparse-noise"', "pool = 'sparse-noise': it is for images and sequences"),
        ('pool = "public"', "pool = 'public': it needs a victim whose splits come with public inputs"),
    ],
)
def test_what_needs_images_is_refused_for_a_table_in_one_sentence(changes, message, matrix_file):
    text = f'[[block]]\ndata = "adult"\nattack = "copycat"\nbudget = 20\n{changes}\n'
    with pytest.raises(UsageError, match=re.escape(message)):
        load_matrix(str(matrix_file(text))).tasks()


def test_pools_of_a_table_and_its_shifted_group_can_be_planned(matrix_file):
    pools = '["noise", "marginals", "perturbed", "shifted"]'
    text = f'[[block]]\ndata = "adult"\nattack = "copycat"\nbudget = 20\npool = {pools}\n'
    cells = [task for task in load_matrix(str(matrix_file(text))).tasks() if isinstance(task, Cell)]
    assert {cell.threat.access for cell in cells} == {"none", "near"}
