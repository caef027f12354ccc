import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from in_process import moatbench

from bench.errors import StoreError
from bench.records import ClaimsRecord, Costs, Info, PlannedTask, QueryCounts, Record, task_of
from bench.run_facts import Meta, VictimFacts
from bench.store import SCHEMA, Store
from bench.tasks import Cell, DefenseEvaluation, ThreatModel, VictimSpec

THREAT = ThreatModel("noise", "none", "none", "mlp", "labels")
CELL = Cell(VictimSpec("digits", "mlp"), (), THREAT, "own_labels", 1, 0, 2, 0)


def record(key="a", status="ok", **fields):
    return Record(key, CELL, status, **fields)


def planned(*keys):
    return [PlannedTask(key, CELL, {"victim": f"print of {key}"}) for key in keys]


def test_what_is_put_is_read_back(tmp_path):
    hits = np.array([1, 0, 1, 1, 0, 0, 0, 1, 1], dtype=np.uint8)
    full = record(
        metrics={"extraction.fidelity": 0.1 + 0.2, "extraction.kl": None},
        arrays={"victim_label": np.arange(17, dtype=np.uint8), "agreement": hits},
        info=Info(steps=3, flags=["overlap"]),
        costs=Costs(seconds={"train": 0.5}),
        error=None,
    )
    with Store(tmp_path / "s.sqlite", create=True) as store:
        store.set_plan(planned("a"))
        store.put(full)
    with Store(tmp_path / "s.sqlite") as store:
        (back,) = store.records()
    assert back.comparable() == full.comparable()
    assert back.costs == full.costs
    assert np.array_equal(back.arrays["agreement"], hits)


def test_a_record_takes_the_place_of_an_older_one(tmp_path):
    with Store(tmp_path / "s.sqlite", create=True) as store:
        store.set_plan(planned("a"))
        store.put(record(status="failed", error="no luck", arrays={"agreement": np.ones(3, dtype=np.uint8)}))
        assert store.done() == set()
        store.put(record())
        assert store.done() == {"a"}
        assert [(r.status, r.arrays) for r in store.records()] == [("ok", {})]


def test_costs_do_not_count_when_two_runs_are_compared():
    one, two = (
        record(info=Info(steps=3), costs=costs) for costs in (Costs(memory_mib=1), Costs(shared=True))
    )
    assert one.comparable() == two.comparable()
    assert one.comparable() != record(info=Info(steps=4)).comparable()


def test_records_come_in_the_order_of_the_plan_and_only_those_of_the_plan(tmp_path):
    with Store(tmp_path / "s.sqlite", create=True) as store:
        for key in "abc":
            store.put(record(key))
        store.set_plan(planned("c", "a", "d"))
        assert [r.key for r in store.records()] == ["c", "a"]
        assert store.missing() == [CELL]


def test_a_record_keeps_the_ingredients_of_its_key_when_the_plan_is_another(tmp_path):
    with Store(tmp_path / "s.sqlite", create=True) as store:
        store.set_plan(planned("a", "b"))
        store.put(record("a"))
        store.set_plan(planned("c"))
        store.put(record("d"))
        assert store.stored() == [*planned("a"), PlannedTask("d", CELL, {})]


def test_meta_is_kept_by_name(tmp_path):
    with Store(tmp_path / "s.sqlite", create=True) as store:
        victims = [VictimFacts(victim="digits/mlp")]
        store.set_meta(Meta(jobs=1, victims=victims))
        store.set_meta(Meta(jobs=2))
        assert store.meta() == Meta(jobs=2, victims=victims)


def test_clear_forgets_every_record(tmp_path):
    with Store(tmp_path / "s.sqlite", create=True) as store:
        store.set_plan(planned("a"))
        store.put(record(arrays={"agreement": np.ones(3, dtype=np.uint8)}))
        store.clear()
        assert store.done() == set()
        assert list(store.records()) == []


def untouched(path, message):
    before = path.read_bytes(), path.stat().st_mtime_ns
    with pytest.raises(StoreError, match=message):
        Store(path, create=True)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert [child.name for child in path.parent.iterdir()] == [path.name]


def test_a_file_that_is_not_a_database_is_rejected_untouched(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("my notes, much longer than a header of SQLite is, so that it is read as one " * 9)
    untouched(path, "not a moatbench store")


def test_another_programs_database_is_rejected_untouched(tmp_path):
    path = tmp_path / "other.sqlite"
    db = sqlite3.connect(path)
    db.execute("create table theirs (x)")
    db.commit()
    db.close()
    untouched(path, "not a moatbench store")


def test_a_newer_store_is_rejected_untouched(tmp_path):
    path = tmp_path / "new.sqlite"
    Store(path, create=True).close()
    db = sqlite3.connect(path)
    db.execute(f"pragma user_version = {SCHEMA + 1}")
    db.execute("pragma journal_mode = delete")
    db.close()
    untouched(path, "newer moatbench")


def test_a_corrupt_store_is_rejected_untouched(tmp_path):
    path = tmp_path / "bad.sqlite"
    with Store(path, create=True) as store:
        store.set_plan(planned(*map(str, range(2000))))
    content = bytearray(path.read_bytes())
    content[8192:40_000] = b"\x07" * (40_000 - 8192)
    path.write_bytes(content)
    untouched(path, "corrupt|not a moatbench store")


def test_a_store_that_is_not_there_is_not_made_by_reading(tmp_path):
    with pytest.raises(StoreError, match="no store at"):
        Store(tmp_path / "s.sqlite")
    assert not list(tmp_path.iterdir())


def test_an_empty_file_is_not_a_store(tmp_path):
    path = tmp_path / "empty.sqlite"
    path.touch()
    untouched(path, "not a moatbench store")


HOLDS = """
import sys
from pathlib import Path
from bench.store import Store
with Store(Path(sys.argv[1]), create=True) as store:
    print("open", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that has the store ``s.sqlite`` open for writing; it ends with its input."""
    path = tmp_path / "s.sqlite"
    with Store(path, create=True) as store:
        store.set_plan(planned("a"))
        store.put(record())
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    call = [sys.executable, "-c", HOLDS, str(path)]
    with subprocess.Popen(call, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout.readline() == "open\n"
        yield process
        process.kill()


def test_a_second_writer_is_told_who_writes_and_readers_are_not_stopped(holder, tmp_path):
    path = tmp_path / "s.sqlite"
    with pytest.raises(StoreError) as caught:
        Store(path, create=True)
    said = str(caught.value)
    assert f"is being written by process {holder.pid} on " in said
    assert "UTC: -c" in said
    assert "\n" not in said
    with Store(path) as store:
        assert store.done() == {"a"}
    holder.communicate()
    with Store(path, create=True) as store:
        assert store.done() == {"a"}
    assert [each.name for each in tmp_path.iterdir()] == ["s.sqlite"]


def test_a_link_to_a_store_is_the_same_store_to_a_second_writer(tmp_path):
    path, link, hard = tmp_path / "s.sqlite", tmp_path / "link.sqlite", tmp_path / "hard.sqlite"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.symlink_to(tmp_path, target_is_directory=True)
    with Store(path, create=True):
        link.symlink_to(path)
        for other in (link, elsewhere / "s.sqlite"):
            with pytest.raises(StoreError, match=f"is being written by process {os.getpid()} on"):
                Store(other, create=True)
        hard.hardlink_to(path)
        with pytest.raises(StoreError, match=r"has 2 names \(hard links\) and cannot be written safely"):
            Store(hard, create=True)
        hard.unlink()
    with Store(link, create=True) as store:
        store.set_meta(Meta(jobs=2))
    with Store(path) as store:
        assert store.meta() == Meta(jobs=2)


def test_a_reader_sees_one_moment_of_a_store_that_is_being_written(tmp_path):
    with Store(tmp_path / "s.sqlite", create=True) as writer:
        writer.set_meta(Meta(jobs=2))
        writer.set_plan(planned("a", "b"))
        writer.put(record("a"))
        with Store(tmp_path / "s.sqlite") as reader:
            assert reader.meta() == Meta(jobs=2)
            writer.set_meta(Meta(jobs=3))
            writer.set_plan(planned("b", "c"))
            writer.put(record("b"))
            assert [each.key for each in reader.records()] == ["a"]
            assert len(reader.missing()) == 1
            assert reader.meta() == Meta(jobs=2)
        with Store(tmp_path / "s.sqlite") as reader:
            assert [each.key for each in reader.records()] == ["b"]
            assert reader.meta() == Meta(jobs=3)


def test_a_killed_writer_holds_nothing_up(holder, tmp_path):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with Store(tmp_path / "s.sqlite") as store:
        assert store.done() == {"a"}
    with Store(tmp_path / "s.sqlite", create=True) as store:
        assert store.done() == {"a"}


def test_a_second_run_on_a_store_ends_before_work_with_exit_code_2(holder, matrix_file, tmp_path):
    file = matrix_file('[[block]]\nattack = "copycat"\nbudget = 20\n')
    before = (tmp_path / "s.sqlite").read_bytes()
    code, said = moatbench(tmp_path, "run", str(file), "--store", "s.sqlite", "--out", "out")
    assert code == 2
    assert f"is being written by process {holder.pid} on" in said
    assert (tmp_path / "s.sqlite").read_bytes() == before


@pytest.fixture
def shared():
    """A store in a folder that every user may enter."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        with Store(folder / "s.sqlite", create=True) as store:
            store.set_plan(planned("a"))
            store.put(record())
        yield folder / "s.sqlite"


@pytest.fixture
def nobody():
    """Become a user without rights, as far as the system lets us."""
    if os.getuid():
        pytest.skip("only root can become another user")
    os.setresgid(65534, 65534, 0)
    os.setresuid(65534, 65534, 0)
    yield
    os.setresuid(0, 0, 0)
    os.setresgid(0, 0, 0)


@pytest.mark.usefixtures("shared", "nobody")
def test_a_store_of_another_user_is_read_and_not_written(shared):
    with Store(shared) as store:
        assert store.done() == {"a"}
    with pytest.raises(StoreError, match=r"s\.sqlite may not be written by this user"):
        Store(shared, create=True)
    assert [each.name for each in shared.parent.iterdir()] == ["s.sqlite"]


def test_a_store_that_may_not_be_read_says_so(shared, request):
    shared.chmod(0o600)
    request.getfixturevalue("nobody")
    with pytest.raises(StoreError, match="may not be read by this user"):
        Store(shared)


def test_a_store_in_a_folder_of_another_user_is_not_made(shared, request):
    request.getfixturevalue("nobody")
    with pytest.raises(StoreError, match=r"new\.sqlite cannot be written \(Permission denied\)"):
        Store(shared.parent / "new.sqlite", create=True)


def test_a_log_that_a_killed_run_left_is_read_or_explained_to_another_user(shared, request):
    """Without the right to write in the folder, SQLite can read a log only where its index is there too."""
    with Store(shared, create=True) as store:
        store.put(record("b"))
        for suffix in ("", "-wal"):
            copy = Path(f"{shared.parent / 'copy.sqlite'}{suffix}")
            copy.write_bytes(Path(f"{shared}{suffix}").read_bytes())
    request.getfixturevalue("nobody")
    with pytest.raises(StoreError, match="the run that wrote it did not end") as caught:
        Store(shared.parent / "copy.sqlite")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("create", [False, True])
def test_a_folder_is_no_store(create, tmp_path):
    with pytest.raises(StoreError, match="is a folder"):
        Store(tmp_path, create=create)


def test_an_error_in_the_middle_is_one_sentence(tmp_path):
    with Store(tmp_path / "s.sqlite", create=True) as store:
        store.set_plan(planned("a"))
        store._db.execute("drop table records")
        with pytest.raises(StoreError, match="cannot be read or written") as caught:
            store.put(record())
        assert "\n" not in str(caught.value)


THREATS = st.builds(ThreatModel, st.text(), st.text(), st.text(), st.text(), st.text())
SPECS = st.builds(
    VictimSpec,
    data=st.sampled_from(["digits", "fashion-mnist"]),
    architecture=st.sampled_from(["mlp", "tree", "lenet"]),
    seed=st.integers(0, 2**40),
    splits=st.sampled_from(["disjoint", "official"]),
) | st.builds(VictimSpec, st.text(min_size=1).map("{}.py:make".format), st.just(""), st.integers(0, 9))
STACKS = st.lists(st.text(), max_size=3).map(tuple)
COUNTS = st.integers(0, 10**6)
CELLS = st.builds(Cell, SPECS, STACKS, THREATS, st.text(), COUNTS, COUNTS, COUNTS, COUNTS, st.text())
EVALUATIONS = st.builds(DefenseEvaluation, SPECS, STACKS, STACKS, COUNTS, COUNTS)
NUMBERS = st.floats(allow_nan=False)
NAMES = st.text(max_size=8)
INFOS = st.builds(
    Info,
    queries=st.none() | st.builds(QueryCounts, sent=COUNTS, answered=COUNTS, refused=COUNTS, flagged=COUNTS),
    flags=st.lists(NAMES, max_size=2),
    steps=st.none() | COUNTS,
    errors=st.dictionaries(NAMES, st.none() | NUMBERS, max_size=2),
    roc=st.lists(st.lists(NUMBERS, min_size=2, max_size=2), max_size=3),
    confusion=st.none() | st.lists(st.lists(COUNTS, max_size=2), max_size=2),
    claims=st.builds(ClaimsRecord, one_hot=st.none() | st.booleans(), may_flag=st.booleans()),
    traceback=st.none() | st.text(),
)
BITS = st.lists(st.integers(0, 1), max_size=20).map(lambda bits: np.array(bits, dtype=np.uint8))
RECORDS = st.builds(
    Record,
    key=st.text(min_size=1, alphabet="0123456789abcdef"),
    task=CELLS | EVALUATIONS,
    status=st.sampled_from(["ok", "failed", "not_applicable"]),
    metrics=st.dictionaries(NAMES, st.none() | st.floats(allow_nan=False, allow_infinity=False), max_size=3),
    arrays=st.dictionaries(NAMES, BITS, max_size=2),
    info=INFOS,
    costs=st.builds(Costs, seconds=st.dictionaries(NAMES, NUMBERS, max_size=2), shared=st.booleans()),
    error=st.none() | st.text(),
)


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(records=st.lists(RECORDS, max_size=4, unique_by=lambda each: each.key))
def test_whatever_a_record_holds_is_read_back_to_the_bit(records):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.sqlite"
        plan = [PlannedTask(each.key, each.task, {"spec": each.key}) for each in records]
        with Store(path, create=True) as store:
            store.set_plan(plan)
            for each in records:
                store.put(each)
        with Store(path) as store:
            back = store.records()
            assert sorted(store.stored(), key=lambda each: each.key) == sorted(
                plan, key=lambda each: each.key
            )
    assert [each.comparable() for each in back] == [each.comparable() for each in records]
    assert [each.costs for each in back] == [each.costs for each in records]


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(task=CELLS | EVALUATIONS)
def test_a_task_is_read_back_from_its_spec(task):
    assert task_of(task.kind, json.loads(json.dumps(task.spec()))) == task
