"""A victim on another machine is the same one; another recipe, other data and another model are not."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.data.datasets import Labelled, Splits
from bench.data.sketches import PARTS, data_digest, data_sketch
from bench.gate.baseline import Baseline, _checksum, export, read
from bench.gate.command import gate
from bench.gate.runs import differences, unclear_victims, victim_notes, victims_equal
from bench.gate.victims import MEAN_L1, SAME_TOP1, Sameness, match_victims
from bench.run_facts import Meta, ReferenceAnswers, VictimFacts

RECIPE = "mlp on digits, disjoint splits 700/150/500/447, seed 0; adam, 660 steps"
VERSIONS = {"torch": "2.13.0", "moatbench": "0.1.0", "scikit-learn": "1.9.1"}


def answers(seed=0, *, shift=0.0, flips=0, rows=256, classes=10):
    """Answers of a confident model; ``shift``: mean L1 that is moved; ``flips``: rows with another top-1."""
    rng = np.random.default_rng(seed)
    found = np.full((rows, classes), 0.1 / (classes - 1))
    top = rng.integers(classes, size=rows)
    found[np.arange(rows), top] = 0.9
    found[np.arange(rows), top] -= shift / 2
    found[np.arange(rows), (top + 1) % classes] += shift / 2
    swapped = np.arange(flips)
    found[swapped] = np.roll(found[swapped], 1, axis=1)
    return ReferenceAnswers.of(found)


def splits(seed=0, n=40):
    rng = np.random.default_rng(seed)
    parts = [
        Labelled(rng.random((n, 1, 8, 8), dtype=np.float32), rng.integers(10, size=n).astype(np.int64))
        for _ in PARTS
    ]
    return Splits(*parts, classes=10)


def facts(name="digits/mlp", given=None, **values):
    data = splits() if given is None else given
    known = {
        "victim": name,
        "fingerprint": "a",
        "accuracy": 0.95,
        "data": data_digest(data),
        "sketch": data_sketch(data),
        "answers": answers(),
        "sizes": {"train": 40, "calibration": 40, "pool": 40, "test": 40},
    }
    known |= {"recipe": RECIPE} if ":" not in name else {}
    return VictimFacts.model_validate(known | values)


def run(victim, **versions):
    return Baseline(Meta(victims=[victim], versions=VERSIONS | versions), [], [])


def sameness(before, after):
    (match,) = match_victims(before.meta, after.meta).values()
    return match.sameness


def test_a_victim_that_was_trained_anew_by_its_recipe_is_the_same_and_a_line_says_how_far_it_is():
    before, after = run(facts()), run(facts(fingerprint="b", answers=answers(shift=0.003)), torch="2.13.9")
    assert differences(before, after) == {}
    assert victims_equal(before, after) == {"digits/mlp": False}
    assert victim_notes(before, after) == [
        "Victim digits/mlp was trained anew: its answers differ by a mean L1 of 0.003 on 256 test inputs."
    ]
    assert victim_notes(before, before) == []
    assert victims_equal(before, before) == {"digits/mlp": True}


def test_a_shipped_victim_whose_weights_are_equal_under_other_minor_versions_is_equal():
    after = run(facts(fingerprint="b"), **{"scikit-learn": "1.9.2"})
    assert victims_equal(run(facts()), after) == {"digits/mlp": True}


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (facts(fingerprint="b", recipe=RECIPE.replace("seed 0", "seed 1")), "is another model"),
        (facts(fingerprint="b", recipe=RECIPE.replace("660", "330")), "is another model"),
        (facts(given=splits(1), fingerprint="b"), "has other data"),
    ],
)
def test_another_recipe_and_other_data_are_another_victim(other, said):
    found = differences(run(facts()), run(other))
    assert list(found) == ["victim"]
    assert found["victim"].startswith(f"digits/mlp {said}")


def test_with_another_major_version_a_shipped_victim_is_the_same_only_if_its_answers_are():
    close = run(facts(fingerprint="b", answers=answers(shift=0.005)), torch="3.0.0")
    far = run(facts(fingerprint="b", answers=answers(shift=0.2)), torch="3.0.0")
    assert list(differences(run(facts()), close)) == ["versions"]
    assert list(differences(run(facts()), far)) == ["victim", "versions"]


@pytest.mark.parametrize("name", ["digits/mlp", "mine.py:make"])
def test_a_victim_that_differs_by_rounding_keeps_facts_and_one_that_differs_more_does_not(name):
    for given, kept in (
        (answers(shift=1e-5), True),
        (answers(shift=1e-3), False),
        (answers(flips=1), False),
    ):
        before, after = run(facts(name)), run(facts(name, fingerprint="b", answers=given))
        assert differences(before, after) == {}
        assert victims_equal(before, after) == {name: kept}
        assert len(victim_notes(before, after)) == 1


OWN = "mine.py:make"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (answers(), Sameness.close),
        (answers(shift=0.9 * MEAN_L1), Sameness.close),
        (answers(shift=1.1 * MEAN_L1), Sameness.other),
        (answers(flips=int(256 * (1 - SAME_TOP1))), Sameness.other),  # each by more than 1
        (answers(1), Sameness.other),
        (answers(rows=100), Sameness.other),
    ],
)
def test_a_victim_of_the_user_is_the_same_if_its_answers_agree(given, expected):
    before, after = run(facts(OWN)), run(facts(OWN, fingerprint="b", answers=given))
    assert sameness(before, after) is expected
    assert (differences(before, after) == {}) == (expected is Sameness.close)


def test_the_top_1_counts_where_answers_are_flat():
    flat = np.full((256, 10), 0.1)
    flat[:, 0] += 1e-4
    other = flat.copy()
    other[:6, 1] += 2e-4
    before = run(facts(OWN, answers=ReferenceAnswers.of(flat)))
    assert sameness(before, run(facts(OWN, fingerprint="b", answers=ReferenceAnswers.of(other)))) is (
        Sameness.other
    )


def rounded_otherwise(given, seed=3):
    """The same splits with every input moved by its last bit, up or down."""
    rng = np.random.default_rng(seed)
    parts = []
    for part in PARTS:
        x = getattr(given, part).x
        away = np.where(rng.random(x.shape) < 0.5, np.float32(0), np.float32(1))
        parts.append(Labelled(np.nextafter(x, away), getattr(given, part).y))
    return Splits(*parts, classes=given.classes)


def replaced(given, part, change):
    x, y = getattr(given, part).x.copy(), getattr(given, part).y.copy()
    change(x, y)
    parts = {name: getattr(given, name) for name in PARTS} | {part: Labelled(x, y)}
    return Splits(**parts, classes=given.classes)


def test_inputs_that_differ_in_their_last_bits_are_the_same_data():
    given, other = splits(n=700), rounded_otherwise(splits(n=700))
    assert data_digest(given) != data_digest(other)
    assert sameness(run(facts(OWN, given)), run(facts(OWN, other, fingerprint="b"))) is Sameness.close


def one_image(x, _):
    x[3] = 1 - x[3]


def one_pixel(x, _):
    x[3, 0, 2, 2] = 1 - np.round(x[3, 0, 2, 2])


def order(x, _):
    x[:] = x[::-1].copy()


def brighter(x, _):
    x *= 0.999


def one_label(_, y):
    y[0] = (y[0] + 1) % 10


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("change", [one_image, one_pixel, order, brighter, one_label])
def test_another_image_label_or_order_is_other_data(part, change):
    given = splits(n=700)
    before = run(facts(OWN, given))
    after = run(facts(OWN, replaced(given, part, change), fingerprint="b"))
    assert differences(before, after) == {"victim": f"{OWN} has other data"}


OLD = {"recipe": "", "data": "", "sketch": None, "answers": None}


@pytest.mark.parametrize("name", ["digits/mlp", OWN])
@pytest.mark.parametrize("swapped", [False, True])
def test_of_an_older_baseline_a_note_says_that_the_victim_may_be_another(name, swapped):
    sides = [run(facts(name, **OLD)), run(facts(name, fingerprint="b", accuracy=0.94))]
    before, after = reversed(sides) if swapped else sides
    assert differences(before, after) == {}
    assert victims_equal(before, after) == {name: False}
    assert unclear_victims(before, after) == [name]
    (note,) = victim_notes(before, after)
    assert note.startswith(f"Victim {name} may be another model")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"accuracy": 0.90}, "an accuracy of 0.950 instead of 0.900"),
        ({"sizes": {"train": 40, "calibration": 40, "pool": 40, "test": 41}}, "splits of other sizes"),
        ({"parameters": 3}, "4 parameters instead of 3"),
    ],
)
def test_of_an_older_baseline_what_is_known_is_compared(values, said):
    found = differences(run(facts(**OLD | values)), run(facts(fingerprint="b", parameters=4)))
    assert list(found) == ["victim"]
    assert found["victim"].endswith(said)


def test_an_older_baseline_with_the_same_fingerprint_has_the_same_victim():
    assert victims_equal(run(facts(**OLD)), run(facts())) == {"digits/mlp": True}


def test_answers_that_are_kept_are_few_and_read_back_as_they_were():
    rng = np.random.default_rng(0)
    for classes, rows in ((2, 256), (10, 256), (100, 40), (10_000, 1)):
        given = rng.random((300, classes))
        kept = ReferenceAnswers.of(given)
        assert kept.array().shape == (rows, classes)
        assert np.array_equal(kept.array(), given[:rows].astype(np.float32))
        assert len(kept.floats) < 60_000
    with pytest.raises(ValueError, match="reshape"):
        ReferenceAnswers(rows=2, classes=3, floats=answers().floats)


FORMAT_2 = Path(__file__).with_name("baseline-format-2.json")
"""A part of what the first version exported: two evaluations, and three repeats of two cells."""


def test_a_baseline_of_the_second_format_is_read_as_it_was(tmp_path):
    old = read(FORMAT_2)
    cells = [record for record in old.records if record.kind == "cell"]
    assert [len(cells), len(old.records)] == [6, 8]
    for record in cells:
        assert record.arrays["agreement"].shape == (447,)
        assert record.arrays["agreement"].mean() == pytest.approx(record.metrics["extraction.fidelity"])
    # Written again, it is a file of this format with the same content.
    export(old, tmp_path / "again.json")
    again = read(tmp_path / "again.json")
    assert [each.comparable() for each in again.records] == [each.comparable() for each in old.records]
    assert again.meta == old.meta
    assert len((tmp_path / "again.json").read_text()) < 1.1 * len(FORMAT_2.read_text())


def test_a_baseline_of_the_second_format_is_compared_and_says_what_it_lacks(tmp_path, capsys):
    other = json.loads(FORMAT_2.read_text())
    other["meta"]["victims"][0]["fingerprint"] = "0"
    other["checksum"] = _checksum(other)
    path = tmp_path / "other.json"
    path.write_text(json.dumps(other))
    assert gate(FORMAT_2, path, tolerance=2) == 0
    said = capsys.readouterr().out
    assert "Victim digits/mlp may be another model" in said
    assert "cannot tell  claim" in said
    assert gate(FORMAT_2, path, tolerance=2, strict=True) == 3


def test_what_may_flag_has_its_bits_in_the_export(tmp_path):
    whole = read(FORMAT_2)
    rng = np.random.default_rng(0)
    bits = {name: (rng.random(size) < 0.3).astype(np.uint8) for name, size in SIZES.items()}
    flagged = [replace(r, arrays=r.arrays | bits | {"correct": bits["flagged.test"]}) for r in whole.records]
    export(Baseline(whole.meta, flagged, []), tmp_path / "flagged.json")
    for record in read(tmp_path / "flagged.json").records:
        assert record.arrays.keys() - {"agreement"} == SIZES.keys()
        for name, array in bits.items():
            assert np.array_equal(record.arrays[name], array)


SIZES = {"flagged.test": 447, "flagged.noise": 8, "flagged.synthetic": 1, "flagged.none": 0}
