from pathlib import Path

import pytest
from in_process import moatbench

from bench.errors import UsageError
from bench.plan import matrix as matrices
from bench.plan.matrix import MOST_CELLS, load_matrix
from bench.plan.select import select
from bench.plan.shipped_matrices import shipped
from bench.tasks import Cell, DefenseEvaluation

BLOCK = """
[[block]]
attack = ["copycat", "copycat(use_probability=true)"]
defense = ["none", "label_only", ["rounded(decimals=1)", "label_only"]]
budget = [50, 100]
"""


def cells(tasks):
    return [task for task in tasks if isinstance(task, Cell)]


def test_a_block_is_the_product_of_its_axes(matrix_file):
    matrix = load_matrix(str(matrix_file("repeats = 3\n" + BLOCK)))
    assert len(cells(matrix.tasks())) == 2 * 3 * 2 * 3
    assert len([task for task in matrix.tasks() if isinstance(task, DefenseEvaluation)]) == 3


def test_equal_cells_of_two_blocks_merge(matrix_file):
    once = load_matrix(str(matrix_file(BLOCK, "once"))).tasks()
    twice = load_matrix(
        str(matrix_file(BLOCK + BLOCK.replace("copycat(use_probability=true)", "copycat()"), "twice"))
    )
    assert cells(twice.tasks()) == cells(once)


def test_a_sentinel_has_to_be_an_attack(matrix_file):
    known = load_matrix(str(matrix_file('sentinels = ["copycat(use_probability=true)"]\n' + BLOCK, "known")))
    assert known.tasks()
    with pytest.raises(UsageError, match="did you mean 'copycat'"):
        load_matrix(str(matrix_file('sentinels = ["copycut"]\n' + BLOCK, "unknown"))).tasks()


def test_repeats_can_be_overridden(matrix_file):
    matrix = load_matrix(str(matrix_file("repeats = 3\n" + BLOCK)))
    assert {cell.repeat for cell in cells(matrix.tasks(repeats=2))} == {0, 1}


def test_no_defense_is_an_empty_stack(matrix_file):
    matrix = load_matrix(str(matrix_file(BLOCK)))
    assert {cell.defense for cell in cells(matrix.tasks())} == {
        (),
        ("label_only",),
        ("rounded(decimals=1)", "label_only"),
    }


def test_an_attack_without_queries_has_one_cell_without_a_defense(matrix_file):
    matrix = load_matrix(str(matrix_file(BLOCK.replace('"copycat",', '"own_labels",'))))
    rows = [cell for cell in cells(matrix.tasks()) if cell.attack == "own_labels"]
    assert {(cell.budget, cell.defense) for cell in rows} == {(0, ())}
    assert len(rows) == matrix.repeats


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "key 'block' is missing"),
        ("block = []", "block = .*at least 1"),
        (BLOCK + "\ncolour = 1", "unknown key 'block.0.colour'"),
        ("repeets = 2\n" + BLOCK, "unknown key 'repeets'; did you mean 'repeats'"),
        ("repeats = 0\n" + BLOCK, "repeats = 0: input should be greater than or equal to 1"),
        ("repeats = true\n" + BLOCK, "repeats = True"),
        (
            BLOCK.replace("[50, 100]", "[0]"),
            "block.0.budget.0 = 0: input should be greater than or equal to 1",
        ),
        (BLOCK.replace("[50, 100]", "[]"), "block.0.budget"),
        (
            BLOCK + 'shows = "logits"',
            "block.0.shows.0 = 'logits': input should be 'probabilities' or 'labels'",
        ),
        (BLOCK + "nonsense", "not TOML"),
    ],
)
def test_a_bad_matrix_is_rejected_with_file_key_and_value(matrix_file, text, message):
    with pytest.raises(UsageError, match=f"tiny.toml: {message}"):
        load_matrix(str(matrix_file(text)))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('victim = "mpl"', "unknown victim 'mpl'; did you mean 'mlp'"),
        ('surrogate = "tree"', "unknown surrogate 'tree'"),
        ('data = "mnits"', "unknown data set 'mnits'; did you mean 'mnist'"),
        ('pool = "noize"', "unknown pool 'noize'; did you mean 'noise'"),
        ('knowledge = "full"', "attack 'copycat' cannot use knowledge='full'; it supports none"),
    ],
)
def test_an_unknown_name_on_an_axis_brings_the_nearest(matrix_file, line, message):
    with pytest.raises(UsageError, match=message):
        load_matrix(str(matrix_file(BLOCK + line))).tasks()


def test_an_unknown_matrix_brings_the_nearest():
    with pytest.raises(
        UsageError, match=r"unknown matrix 'digit', and no path of a \.toml file; did you mean 'digits'"
    ):
        load_matrix("digit")
    with pytest.raises(UsageError, match=r"no matrix file nothing.toml"):
        load_matrix("nothing.toml")


@pytest.mark.parametrize("name", list(shipped()))
def test_every_shipped_matrix_expands(name):
    matrix = load_matrix(name)
    assert matrix.name == name.rpartition("/")[2]
    assert matrix.description
    assert cells(matrix.tasks())


def test_only_keeps_what_every_axis_admits(matrix_file):
    tasks = load_matrix(str(matrix_file(BLOCK))).tasks()
    kept = select(tasks, ["budget=50", "defense=label_only", "defense=none", "repeat=1"])
    assert {(c.budget, c.repeat) for c in cells(kept)} == {(50, 1)}
    assert {c.defense for c in cells(kept)} == {(), ("label_only",)}
    assert {a.defense for a in kept if isinstance(a, DefenseEvaluation)} == {(), ("label_only",)}


def test_only_names_attacks_by_plugin_or_in_full(matrix_file):
    tasks = load_matrix(str(matrix_file(BLOCK))).tasks()
    assert len(cells(select(tasks, ["attack=copycat"]))) == len(cells(tasks))
    assert len(cells(select(tasks, ["attack=copycat(use_probability=true)"]))) == len(cells(tasks)) / 2


@pytest.mark.parametrize(
    ("only", "message"),
    [
        ("budget", "write axis=value"),
        ("bugdet=50", "did you mean 'budget'"),
        ("budget=51", "nothing in this matrix has it; did you mean '50'"),
        ("defense=label", "did you mean .*'label_only'"),
    ],
)
def test_a_bad_only_is_rejected(matrix_file, only, message):
    with pytest.raises(UsageError, match=message):
        select(load_matrix(str(matrix_file(BLOCK))).tasks(), [only])


def test_an_only_that_leaves_nothing_is_rejected(matrix_file):
    text = BLOCK + BLOCK.replace("[50, 100]", "[200]").replace('"none", "label_only"', '"top_k"')
    tasks = load_matrix(str(matrix_file(text))).tasks()
    with pytest.raises(UsageError, match="no cells left"):
        select(tasks, ["budget=200", "defense=none"])


def test_a_reference_takes_the_place_of_every_victim(matrix_file):
    tasks = load_matrix(str(matrix_file(BLOCK))).tasks(victim="mine.py:make")
    assert {str(task.victim) for task in tasks} == {"mine.py:make"}


def test_cells_that_may_share_a_training_do_not_stand_beside_each_other(matrix_file):
    order = cells(load_matrix(str(matrix_file(BLOCK))).tasks())
    alike = [(c.attack, c.budget, c.repeat) for c in order]
    assert all(alike[place] != alike[place + 1] for place in range(len(alike) - 1))


def test_an_optional_pool_is_measured_where_its_data_is(matrix_file, tmp_path, data_root):
    matrix = load_matrix(str(matrix_file('detect = ["noise", "usps?", "cifar10?"]\n' + BLOCK)))

    def measured(root):
        return {task.pools for task in matrix.tasks(data_root=root) if isinstance(task, DefenseEvaluation)}

    assert measured(tmp_path) == {("noise",)}
    assert ("noise", "usps") in {pools[:2] for pools in measured(data_root)}


def test_an_unknown_optional_pool_is_rejected(matrix_file):
    with pytest.raises(UsageError, match="unknown pool 'noize'"):
        load_matrix(str(matrix_file('detect = ["noize?"]\n' + BLOCK))).tasks()


def test_the_attackers_training_and_the_victims_splits_are_axes(matrix_file):
    text = """
[[block]]
attack = "copycat"
budget = 50
splits = ["disjoint", "official"]
training = ["rule", "rule(epochs=3, loss=mse-log-softmax)"]
"""
    every = cells(load_matrix(str(matrix_file(text))).tasks(repeats=1))
    assert {(cell.victim.splits, cell.training) for cell in every} == {
        (splits, training)
        for splits in ("disjoint", "official")
        for training in ("rule", "rule(loss=mse-log-softmax, epochs=3)")
    }
    kept = cells(select(every, ["splits=official", "training=rule"]))
    assert [(cell.victim.splits, cell.training) for cell in kept] == [("official", "rule")]


def test_an_optional_pool_is_attacked_with_where_its_data_is(matrix_file, tmp_path, data_root):
    text = '[[block]]\nattack = "copycat"\nbudget = 50\npool = ["noise", "usps?"]\n'
    matrix = load_matrix(str(matrix_file(text)))
    assert {cell.threat.pool for cell in cells(matrix.tasks(data_root=tmp_path))} == {"noise"}
    assert {cell.threat.pool for cell in cells(matrix.tasks(data_root=data_root))} == {"noise", "usps"}


def test_an_attack_on_membership_pays_for_every_record(matrix_file):
    text = """
[[block]]
attack = ["membership_threshold(members=30)", "membership_threshold(members=30, target=surrogate)"]
budget = [7, 9]
"""
    every = cells(load_matrix(str(matrix_file(text))).tasks(repeats=1))
    assert sorted((cell.budget, "target=surrogate" in cell.attack) for cell in every) == [
        *((7, True), (9, True), (60, False)),
    ]


def test_a_library_model_takes_no_recipe(matrix_file):
    text = """
[[block]]
attack = "copycat"
budget = 50
surrogate = ["mlp", "sklearn-tree"]
training = "rule(epochs=3)"
"""
    with pytest.raises(UsageError, match="'sklearn-tree' trains as its library does"):
        load_matrix(str(matrix_file(text))).tasks()


STUDY = """
[[block]]
attack = "copycat"
budget = 50
[study]
title = "t"
source = "s"
verdict = "v"
meaning = "m"
[[study.table]]
heading = "h"
[[study.table.row]]
id = "a"
label = "l"
metric = "extraction.fidelity"
where = {}
"""


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("where = {}", 'where = { atack = "copycat" }', "where.atack'; did you mean 'attack'"),
        ('label = "l"', 'label = "l"\npublishd = 1.0', "row.0.publishd'; did you mean 'published'"),
        ('heading = "h"', 'heading = "h"\nintroo = "i"', "table.0.introo'; did you mean 'intro'"),
        ('title = "t"', 'title = "t"\nchoice = []', "study.choice'; did you mean 'choices'"),
    ],
)
def test_an_unknown_key_of_a_study_brings_those_of_its_place(matrix_file, before, after, said):
    load_matrix(str(matrix_file(STUDY)))
    with pytest.raises(UsageError, match=said):
        load_matrix(str(matrix_file(STUDY.replace(before, after))))


WHOLE = f'name = "tiny"\n{BLOCK}'


@pytest.mark.parametrize(
    "content",
    [
        WHOLE.encode("utf-8-sig"),
        WHOLE.replace("\n", "\r\n").encode(),
        WHOLE.replace("\n", "\r\n").encode("utf-8-sig"),
    ],
    ids=["byte-order mark", "CRLF", "both"],
)
def test_a_matrix_of_another_editor_is_read(tmp_path, content):
    (tmp_path / "tiny.toml").write_bytes(content)
    (tmp_path / "plain.toml").write_text(WHOLE)
    other = load_matrix(str(tmp_path / "tiny.toml"))
    assert other.tasks() == load_matrix(str(tmp_path / "plain.toml")).tasks()
    assert other.text == WHOLE


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('description = "é"\n'.encode("latin-1"), "line 1 is not UTF-8; save the file as UTF-8"),
        (WHOLE.encode("utf-16"), "line 1 is not UTF-8"),
        (b"a = " + b"[" * 3_000 + b"]" * 3_000, "brackets are nested too deeply; at most 12"),
        (b"a = " + b"{a=" * 3_000 + b"1" + b"}" * 3_000, "brackets are nested too deeply; at most 12"),
        (b".".join([b"a"] * 3_000) + b" = 1", "a.a.*: tables are nested too deeply; at most 12"),
        (b"[" + b".".join([b"a"] * 3_000) + b"]", "a.a.*: tables are nested too deeply; at most 12"),
        (b"seed = " + b"9" * 5_000, "not TOML: .*4300 digits"),
        (b"seed = 9223372036854775808", "seed = 9223372036854775808: integers of 64 bits are allowed"),
        (b"repeats = inf", "repeats = inf: finite numbers are allowed"),
        (b"reference_budget.digits = nan", "reference_budget.digits = nan: finite"),
        (b'name = "a"\nblock = []\nseed = -1', "seed = -1: input should be greater than or equal to 0"),
        (b"name = 2026-11-28", r"name = datetime.date\(2026, 11, 28\): input should be a valid string"),
        (b'description = "a\\u0000b"', r"description = 'a.x00b': it has control characters"),
        (b'"a\\u0007" = 1', "top level: a key has control characters"),
        (b"#" * 200_000, "has more than 131,072 bytes"),
        (b"\0", "not TOML"),
        (b'plugins = ["a\\u0000b.py"]', "plugins.0 = .*control characters"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_sentence_and_exit_code_2(tmp_path, content, message):
    (tmp_path / "tiny.toml").write_bytes(content)
    with pytest.raises(UsageError, match=f"tiny.toml: {message}") as raised:
        load_matrix(str(tmp_path / "tiny.toml"))
    assert str(raised.value).isprintable()


@pytest.mark.parametrize(
    "name",
    [
        *(
            "",
            " ",
            ".",
            "..",
            "../../x",
            "a/b",
            "a\\\\b",
            "/etc/x",
            "~",
            "-x",
            "x.",
            "a b",
            "ä",
            "x" * 101,
            "x" * 5_000,
        ),
        *("con", "CON", "nul.txt", "com1", "a\\nb", "a:b", ".hidden"),
    ],
)
def test_a_name_that_can_be_no_folder_everywhere_is_refused(tmp_path, name):
    (tmp_path / "tiny.toml").write_text(f'name = "{name}"\n{BLOCK}')
    code, text = moatbench(tmp_path, "run", "tiny.toml")
    assert code == 2
    assert "tiny.toml: name = " in text
    assert "letters from a to z, digits" in text
    assert sorted(tmp_path.iterdir()) == [tmp_path / "tiny.toml"]


def test_every_matrix_of_the_repository_has_such_a_name():
    root = Path(__file__).parents[2]
    folders = [root / "examples", root / "reports", root / "tests" / "benchmarks"]
    paths = [path for folder in folders for path in folder.rglob("*.toml")]
    matrices = [path for path in paths if "[[block]]" in path.read_text()]
    assert len(matrices) >= 3
    for path in matrices:
        assert cells(load_matrix(str(path)).tasks())


@pytest.mark.parametrize("repeats", [10**12, 2**62, MOST_CELLS])
def test_more_cells_than_a_store_can_hold_are_refused_before_any_is_made(matrix_file, monkeypatch, repeats):
    monkeypatch.setattr(matrices, "Cell", None)
    path = str(matrix_file(f"repeats = {repeats}\n{BLOCK}"))
    message = (
        rf"tiny.toml: block.0: repeats = {repeats} makes .*\(this block: .* × repeats\); at most 100,000"
    )
    with pytest.raises(UsageError, match=message):
        load_matrix(path).tasks()
    with pytest.raises(UsageError, match=message):
        load_matrix(str(matrix_file(BLOCK))).tasks(repeats=repeats)


def test_blocks_count_together(matrix_file):
    path = matrix_file("repeats = 1000\n" + BLOCK * 17)
    with pytest.raises(UsageError, match=r"block.8: repeats = 1000 makes 108000 cells up to here"):
        load_matrix(str(path)).tasks()


@pytest.mark.parametrize(
    "name", ["x" * 5_000 + ".toml", "~nobody-is-called-this/x.toml", "a\0b.toml", ".toml", "folder.toml"]
)
def test_what_is_no_matrix_file_is_one_sentence(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(UsageError, match=r"no matrix file|cannot be a path on this machine"):
        load_matrix(name)


@pytest.mark.parametrize(
    "victim",
    [
        "",
        "mine.py",
        "mine.py:",
        ":make",
        "a.py:b:c",
        "..:x",
        "a b:c",
        "a\0.py:x",
        "mine.py:a.b",
        "\ud800.py:x",
    ],
)
def test_what_is_no_reference_to_a_victim_is_refused_by_the_plan(matrix_file, victim):
    with pytest.raises(UsageError, match=r"--victim .*: write FILE.py:FUNCTION or package.module:FUNCTION"):
        load_matrix(str(matrix_file(BLOCK))).tasks(victim)


def test_the_alternatives_of_a_row_are_bounded(matrix_file):
    many = ", ".join(f'"{number}"' for number in range(32))
    text = STUDY.replace("where = {}", f"where = {{ data = [{many}], victim = [{many}] }}")
    with pytest.raises(UsageError, match=r"where = .*: 1,024 combinations of alternatives; at most 1,000"):
        load_matrix(str(matrix_file(text)))


REPORT = '[report]\nsells = "labels"\naccuracy = 0.02\nthresholds = [0.9, 0.3]\nconfirm = 7\nquota = 100\n'


def test_a_matrix_has_options_of_the_report_and_evaluations_get_its_thresholds(matrix_file):
    matrix = load_matrix(str(matrix_file(REPORT + BLOCK)))
    assert (matrix.report.sells, matrix.report.accuracy, matrix.report.confirm) == ("labels", 0.02, 7)
    assert (matrix.report.quota, matrix.report.rate, matrix.report.brier) == (100, None, 0.02)
    evaluations = [task for task in matrix.tasks() if isinstance(task, DefenseEvaluation)]
    assert {task.thresholds for task in evaluations} == {(0.3, 0.9)}


def test_without_options_evaluations_are_those_of_older_matrices(matrix_file):
    first, *_ = load_matrix(str(matrix_file(BLOCK))).tasks()
    same, *_ = load_matrix(str(matrix_file("[report]\nthresholds = [0.9, 0.5]\n" + BLOCK, "same"))).tasks()
    assert "thresholds" not in first.spec()
    assert same == first


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("confrm = 3", r"unknown key 'report.confrm'; did you mean 'confirm'"),
        ("confirm = 2.5", r"report.confirm = 2.5: input should be a valid integer"),
        ("confirm = -1", r"report.confirm = -1: .*greater than or equal to 0"),
        ('sells = "label"', r"report.sells = 'label': .*'labels', 'ranking' or 'probabilities'"),
        ("thresholds = [0.5, 1.2]", r"report.thresholds.1 = 1.2: .*less than or equal to 1"),
        ("thresholds = []", r"report.thresholds = \[\]: .*at least 1 item"),
        ("rate = 0", r"report.rate = 0: .*greater than 0"),
        ('accuracy = "1"', r"report.accuracy = '1': input should be a valid number"),
    ],
)
def test_an_option_that_is_not_allowed_is_named_with_file_key_and_value(matrix_file, line, message):
    path = matrix_file(f"[report]\n{line}\n{BLOCK}")
    with pytest.raises(UsageError, match=message) as error:
        load_matrix(str(path))
    assert str(path) in str(error.value)


@pytest.mark.parametrize("name", sorted(shipped()))
def test_replications_and_the_small_matrices_confirm_nothing_and_the_others_do(name):
    matrix = load_matrix(name)
    alone = name in ("ci", "smoke") or bool(matrix.study and matrix.study.page)
    assert (matrix.report.confirm == 0) == alone
