"""A run that really ran: what it stores is read back as it was, or is named as damaged; never as another."""

import json
import logging
import random
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from in_process import moatbench

from bench.cli import session
from bench.errors import StoreError
from bench.gate.baseline import export, read
from bench.gate.compare import compare
from bench.gate.runs import differences
from bench.models import victim_training
from bench.records import AttackDeclarations, ClaimsRecord, Costs, Info
from bench.run_facts import Meta, VictimFacts
from bench.seeds import derive
from bench.store import SCHEMA, WHOLE, Store
from defenses.base import Claims

MATRIX = """
name = "tiny"
description = "Two victims, every kind of record."
plugins = ["mine.py"]
repeats = 2
retrainings = 2
detect = ["noise"]
sentinels = ["copycat(use_probability=true)"]
reference_budget = { digits = 20 }

[[block]]
victim = ["logistic", "tree"]
defense = ["none", "label_only"]
attack = "copycat(use_probability=true)"
surrogate = "logistic"
budget = 20

[[block]]
victim = "logistic"
defense = [["reverse_sigmoid(l1=0.3)", "gaussian_noise(scale=0.2)", "spoils"]]
attack = ["breaks", "membership_threshold(members=20)"]
surrogate = "logistic"
budget = 40

[[block]]
victim = "logistic"
defense = "none"
attack = ["recover", "restore"]
knowledge = "full"
training = "rule(unlabelled=pseudo-labels)"
surrogate = "logistic"
budget = 20

[[block]]
victim = "logistic"
defense = "swaps"
attack = "copycat"
surrogate = "logistic"
budget = 20
"""
PLUGINS = '''
import os

from moatbench import Answers, Defense, Extraction, OutputDefense

class Breaks(Extraction):
    """Stops where it should not."""
    name = "breaks"
    def acquire(self, api, pool, surrogates, seeds):
        raise RuntimeError("no luck")

class Swaps(OutputDefense):
    """Claims to keep the label, and does not."""
    name = "swaps"
    def __call__(self, preds):
        return preds[:, ::-1].copy()

class Spoils(Defense):
    """Changes what is not its own."""
    name = "spoils"
    def answer(self, batch):
        os.environ["SPOILT"] = "yes"
        return Answers.of(batch.probabilities)
'''


def run(folder, matrix=MATRIX, code=3):
    """Run a matrix without its report, which would take most of the time; 3: of the attack that breaks."""
    (folder / "tiny.toml").write_text(matrix)
    (folder / "mine.py").write_text(PLUGINS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "write_store_report", lambda _, out: out)
        ended, text = moatbench(folder, "run", "tiny.toml", "--jobs", "1")
    assert ended == code, text
    return folder / "results/tiny/store.sqlite"


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """The store of a run, with an export of it next to it."""
    folder = tmp_path_factory.mktemp("real")
    store = run(folder)
    assert moatbench(folder, "baseline", str(store), "--out", str(store.parent / "baseline.json"))[0] == 0
    return store


@pytest.fixture
def store(real, tmp_path):
    return Path(shutil.copy(real, tmp_path))


def content(path):
    """Everything in a store that a reader can get."""
    with Store(path) as store:
        return {
            "meta": store.meta(),
            "records": {each.key: (*each.comparable(), each.costs) for each in store.records()},
            "missing": store.missing(),
            "stored": {each.key: each for each in store.stored()},
        }


def test_every_field_that_readers_know_is_written_by_a_run(real):
    """Readers use fields, and the type checker knows them; so a field that no run writes is a mistake."""
    whole = content(real)
    records = [info for *_, info, _, _ in whole["records"].values()]
    costs = [costs for *_, costs in whole["records"].values()]
    assert {name for info in records for name in info} == set(Info.model_fields)
    assert {name for each in costs for name in each.values()} == set(Costs.model_fields)
    of_live_targets = {"campaign"}
    assert set(whole["meta"].values()) == set(Meta.model_fields) - of_live_targets
    assert set(whole["meta"].victims[0].values()) == set(VictimFacts.model_fields)
    declared = [info["attack"] for info in records if "attack" in info]
    assert {name for each in declared for name in each} == set(AttackDeclarations.model_fields)
    claims = next(info["claims"] for info in records if "claims" in info)
    assert set(claims) == set(ClaimsRecord.model_fields) == set(Claims.__dataclass_fields__)


def test_a_run_equals_its_export(real):
    whole, exported = read(real), read(real.parent / "baseline.json")
    assert differences(whole, exported) == {}
    assert {each.identity for each in exported.meta.victims} == {"digits/logistic", "digits/tree"}
    assert [each.task for each in exported.records] != []
    assert {each.task for each in whole.records} == {each.task for each in exported.records}
    rows = compare(whole, exported).rows
    assert {row.decision.value for row in rows} <= {"same", "failed"}


def test_a_baseline_of_the_first_format_is_read(real, tmp_path):
    text = json.loads((real.parent / "baseline.json").read_text())
    del text["checksum"]
    text["version"] = 1
    text["meta"] |= {"commit": None, "reference_budget": None}
    for group in text["groups"]:
        for each in group["repeats"]:
            each["info"] |= each.pop("costs", {})
            for array in each.pop("arrays", {}).values():
                each |= {"inputs": array["size"], "agreement": array["bits"]}
    (tmp_path / "old.json").write_text(json.dumps(text))
    old, new = read(tmp_path / "old.json"), read(real.parent / "baseline.json")
    assert differences(old, new) == {}
    assert [each.comparable() for each in old.records] == [each.comparable() for each in new.records]
    assert [each.costs for each in old.records] == [each.costs for each in new.records]


def test_of_two_victims_the_gate_names_the_one_that_is_another_model(tmp_path, monkeypatch):
    matrix = """
name = "tiny"
repeats = 1

[[block]]
victim = ["tree", "logistic"]
attack = "copycat(use_probability=true)"
surrogate = "logistic"
budget = 20
"""

    def other_tree(*parts):
        return derive(*parts) + (parts[-1] == "tree")

    stores = []
    for name in ("before", "after"):
        (tmp_path / name).mkdir()
        stores.append(run(tmp_path / name, matrix, 0))
        monkeypatch.setattr(victim_training, "derive", other_tree)
    real, candidate = stores
    exported = tmp_path / "baseline.json"
    assert moatbench(tmp_path, "baseline", str(real), "--out", str(exported))[0] == 0
    for baseline in (real, exported):
        code, said = moatbench(tmp_path, "gate", str(baseline), str(candidate))
        assert code == 2
        assert "victim: digits/tree is another model" in said
        assert "logistic" not in said
        assert "--allow victim" in said
        assert said.count("\n") == 1
    code, said = moatbench(tmp_path, "gate", str(real), str(candidate), "--allow", "victim")
    assert code in {0, 1, 3}
    assert "digits/tree is another model" in said


def test_two_seeds_and_two_splits_of_a_victim_are_different_victims():
    facts = {"victim": "digits/mlp", "fingerprint": "a"}
    named = [
        VictimFacts(**facts).identity,
        VictimFacts(**facts, seed=1).identity,
        VictimFacts(**facts | {"victim": "digits/mlp (official splits)"}, splits="official").identity,
    ]
    assert len(set(named)) == 3


def flipped(data, bit):
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << (bit % 8)
    return bytes(changed)


def bits(data, number, seed):
    """Bits of a file: in its header, and as many in each of its pages."""
    rng, page = random.Random(seed), 4096
    pages = range(0, len(data), page)
    chosen = [rng.randrange(8 * 100) for _ in range(number // 8)]
    chosen += [8 * start + rng.randrange(8 * 12) for start in pages]  # headers of pages
    while len(chosen) < number:
        chosen += [8 * start + rng.randrange(8 * min(page, len(data) - start)) for start in pages]
    return chosen


def one_line(error):
    text = str(error.value if hasattr(error, "value") else error)
    assert "\n" not in text
    assert "Traceback" not in text
    return text


def judged(path, whole, caplog):
    """Read a damaged store; return "refused", "same" or "named", and fail for everything else."""
    caplog.clear()
    try:
        found = content(path)
    except StoreError as error:
        one_line(error)
        return "refused"
    assert found["meta"] == whole["meta"]
    assert found["records"].items() <= whole["records"].items()
    assert found["stored"].items() <= whole["stored"].items()
    lost = whole["records"].keys() - found["records"].keys()
    tasks = {each.task for key, each in whole["stored"].items() if key in lost}
    assert set(found["missing"]) == {*whole["missing"], *tasks}
    if not lost:
        return "same"
    assert "is damaged; moatbench run makes it again" in caplog.text
    return "named"


def flip_everywhere(real, tmp_path, caplog, number, seed):
    whole, data, path = content(real), real.read_bytes(), tmp_path / "flipped.sqlite"
    outcomes = []
    for bit in bits(data, number, seed):
        path.write_bytes(flipped(data, bit))
        outcomes.append((bit, judged(path, whole, caplog)))
    return outcomes


def test_a_flipped_bit_in_a_store_is_refused_or_named_and_changes_no_result(real, tmp_path, caplog):
    outcomes = [said for _, said in flip_everywhere(real, tmp_path, caplog, 200, 1)]
    assert {"refused", "named"} <= set(outcomes)


@pytest.mark.slow
def test_many_flipped_bits_in_a_store_change_no_result(real, tmp_path, caplog):
    assert {said for _, said in flip_everywhere(real, tmp_path, caplog, 1_500, 2)} >= {"refused", "named"}


def test_a_run_mends_what_a_flipped_bit_has_damaged(real, tmp_path, caplog):
    """Whatever a reader does not refuse as no database, a writer can take up: it lacks some records."""
    whole, data = content(real), real.read_bytes()
    mended = 0
    for bit in bits(data, 60, 3):
        path = tmp_path / "flipped.sqlite"
        path.write_bytes(flipped(data, bit))
        try:
            with Store(path, create=True) as store:
                store.set_meta(whole["meta"])
                store.set_plan(list(whole["stored"].values()))
                lost = whole["stored"].keys() - {each.key for each in store.stored()}
                with Store(real) as other:
                    for record in other.records():
                        if record.key in lost:
                            store.put(record)
        except StoreError as error:
            one_line(error)
            continue
        mended += bool(lost)
        caplog.clear()
        again = content(path)
        assert again["meta"] == whole["meta"]
        assert again["records"] == {**whole["records"]}
        assert not caplog.text
    assert mended


def test_a_flipped_bit_in_a_baseline_is_refused_or_changes_nothing(real, tmp_path):
    path = real.parent / "baseline.json"
    whole, data = read(path), path.read_bytes()
    rng, other = random.Random(4), tmp_path / "flipped.json"
    refused = 0
    for _ in range(150):
        other.write_bytes(flipped(data, rng.randrange(8 * len(data))))
        try:
            found = read(other)
        except StoreError as error:
            one_line(error)
            refused += 1
            continue
        assert found.meta == whole.meta
        assert [each.comparable() for each in found.records] == [each.comparable() for each in whole.records]
        assert [each.costs for each in found.records] == [each.costs for each in whole.records]
        assert found.planned == whole.planned
    assert refused > 140


def damage(path, statement):
    db = sqlite3.connect(path)
    assert db.execute(statement).rowcount > 0
    db.commit()
    db.close()


@pytest.mark.parametrize(
    "statement",
    [
        "delete from facts where name = 'run'",
        "update facts set value = replace(value, 'logistic', 'logistik') where name = 'run'",
        "update facts set value = '[' where name = 'run'",
        "delete from plan where place = 3",
        "update plan set spec = replace(spec, '20', '30')",
        "delete from facts where name = 'plan'",
    ],
)
def test_damaged_facts_or_plan_are_an_error_for_readers_and_mended_by_a_run(statement, store, tmp_path):
    before = content(store)
    damage(store, statement)
    for words in (["report", str(store), "--out", str(tmp_path / "out")], ["gate", str(store), str(store)]):
        code, said = moatbench(tmp_path, *words)
        assert code == 2
        assert said.count("\n") == 1
        assert "is damaged" in said
    with Store(store, create=True) as mended:
        mended.set_meta(before["meta"])
        mended.set_plan(before["stored"].values())
        assert mended.done() == {key for key, record in before["records"].items() if record[3] != "failed"}
    assert content(store)["meta"] == before["meta"]


def test_a_damaged_record_runs_again_and_is_as_it_was(real, tmp_path):
    store = tmp_path / "results/tiny/store.sqlite"
    store.parent.mkdir(parents=True)
    shutil.copy(real, store)
    before = content(real)["records"]
    damage(store, "update records set metrics = replace(metrics, '0.9', '0.8') where number = 2")
    assert len(content(store)["records"]) == len(before) - 1
    run(tmp_path)
    after = content(store)["records"]
    assert after.keys() == before.keys()
    for key, record in after.items():
        # Failed cells ran again too; their tracebacks name the folder of the plugin.
        assert record[:6] == before[key][:6]
        assert record[3] == "failed" or record[:-1] == before[key][:-1]


FIRST_SCHEMA = """
create table meta (name text primary key, value text not null);
create table plan (
    place integer primary key, key text not null unique, kind text not null, spec text not null
);
create table records (
    key text primary key, kind text not null, spec text not null, status text not null,
    metrics text not null, info text not null, error text
);
create table arrays (
    key text not null references records (key) on delete cascade, name text not null,
    size integer not null, bits blob not null, primary key (key, name)
);
"""


@pytest.fixture
def first_schema(real, tmp_path):
    """The store as the first version of the program wrote it."""
    path = tmp_path / "first.sqlite"
    with Store(real) as store:
        meta, records, plan = store.meta(), store.records(), [*store._plan()]
    db = sqlite3.connect(path)
    db.executescript(f"pragma application_id = {0x6D6F6174}; pragma user_version = 1; {FIRST_SCHEMA}")
    db.executemany("insert into meta values (?, ?)", [(k, json.dumps(v)) for k, v in meta.values().items()])
    rows = [(each.key, each.kind, each.spec.decode()) for each in plan]
    db.executemany("insert into plan (key, kind, spec) values (?, ?, ?)", rows)
    for record in records:
        texts = record.spec, record.status, record.metrics, record.info.values() | record.costs.values()
        spec, status, metrics, info = (t if isinstance(t, str) else json.dumps(t) for t in texts)
        row = record.key, record.kind, spec, status, metrics, info, record.error
        db.execute("insert into records values (?, ?, ?, ?, ?, ?, ?)", row)
        for array, values in record.arrays.items():
            name, size = array, values.size
            packed = np.packbits(values).tobytes()
            if values.max(initial=0) > 1:
                name, size, packed = f"{array}{WHOLE}", 8 * values.size, values.tobytes()
            db.execute("insert into arrays values (?, ?, ?, ?)", (record.key, name, size, packed))
    db.commit()
    db.close()
    return path


def without_ingredients(whole):
    return {**whole, "stored": {key: each.task for key, each in whole["stored"].items()}}


def test_a_store_of_the_first_schema_is_read_and_brought_to_this_one_by_a_run(real, first_schema):
    before = first_schema.read_bytes()
    whole = without_ingredients(content(real))
    assert without_ingredients(content(first_schema)) == whole
    assert first_schema.read_bytes() == before
    with Store(first_schema, create=True) as store:
        assert store.done()
    assert without_ingredients(content(first_schema)) == whole
    db = sqlite3.connect(first_schema)
    assert db.execute("pragma user_version").fetchone() == (SCHEMA,)
    db.close()


def test_a_record_of_the_first_schema_that_cannot_be_read_is_named(first_schema, caplog):
    damage(first_schema, "update records set info = replace(info, '{', '[') where rowid = 3")
    caplog.set_level(logging.WARNING)
    whole = content(first_schema)
    assert len(whole["missing"]) == 1
    assert "is damaged; moatbench run makes it again" in caplog.text
    with Store(first_schema, create=True) as store:
        assert store.missing() == whole["missing"]


def test_an_export_of_a_store_of_the_first_schema_is_the_same(real, first_schema, tmp_path):
    export(read(first_schema), tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (real.parent / "baseline.json").read_bytes()
