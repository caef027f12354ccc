import sqlite3

import numpy as np
import pytest

from bench.errors import StoreError
from bench.records import Costs, Info, Meta, PlannedTask, Record, VictimFacts
from bench.store import SCHEMA, Store
from bench.tasks import Cell, ThreatModel, VictimSpec

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
        arrays={"agreement": hits},
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
