"""Data that users bring: recognised, brought back to what the file has, and refused in one sentence."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bench.data.user_data import Layout, data_of, load_data
from bench.errors import UsageError

ROWS = 120


def people(rows=ROWS, seed=0):
    """Return a table with every kind of column, and a label."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "height": rng.normal(170, 10, rows),
            "age": rng.integers(18, 90, rows),
            "member": rng.random(rows) < 0.5,
            "town": rng.choice(["Ghent", "Bruges", "Mons"], rows),
            "debt": np.where(rng.random(rows) < 0.3, np.nan, rng.normal(0, 1, rows)),
            "job": pd.Series(rng.choice(["cook", "clerk", None], rows), dtype=object),
            "good": rng.choice(["no", "yes"], rows),
        }
    )


@st.composite
def tables(draw):
    """Draw a table of one to six columns of any kind, with or without missing values."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    columns = {}
    for number in range(draw(st.integers(1, 6))):
        kind = draw(st.sampled_from(["number", "single", "integer", "small", "boolean", "text", "category"]))
        values = {
            "number": lambda: rng.normal(0, 10.0 ** rng.integers(-3, 9), ROWS),
            "single": lambda: rng.random(ROWS, dtype=np.float32),
            "integer": lambda: rng.integers(-1000, 1000, ROWS),
            "small": lambda: rng.integers(0, 255, ROWS).astype(np.uint8),
            "boolean": lambda: rng.random(ROWS) < 0.5,
            "text": lambda: rng.choice([" a", "b", "ü", "-"], ROWS),
            "category": lambda: rng.choice(["low", "high"], ROWS),
        }[kind]()
        series = pd.Series(values, dtype="category" if kind == "category" else None)
        if draw(st.booleans()) and kind not in ("integer", "small"):
            series = series.astype(object) if kind == "boolean" else series
            series[rng.random(ROWS) < 0.2] = np.nan
        columns[f"column {number}"] = series
    return pd.DataFrame(columns)


@settings(max_examples=25, deadline=None)
@given(tables())
def test_a_table_comes_back_as_the_model_knows_it(table):
    data = data_of(table, np.arange(ROWS) % 2)
    again = data.frame(data.x)
    assert data.x.dtype == np.float32
    assert not data.space.problem(data.x)
    assert list(again.columns) == list(table.columns)
    for name in table:
        before, after = table[name], again[name]
        assert after.dtype == before.dtype
        assert (after.isna() == before.isna()).all()
        if pd.api.types.is_float_dtype(before.dtype):
            assert np.allclose(after, before, rtol=1e-6, equal_nan=True)
        else:
            assert (after[~after.isna()] == before[~before.isna()]).all()


@settings(max_examples=12, deadline=None)
@given(tables(), st.integers(0, 2**32 - 1))
def test_inputs_that_an_attacker_makes_are_ones_that_the_model_knows(table, seed):
    data = data_of(table, np.arange(ROWS) % 2)
    made = data.frame(data.space.uniform(50, np.random.default_rng(seed)))
    for name in table:
        assert made[name].dtype == table[name].dtype or table[name].isna().any()
        if not pd.api.types.is_float_dtype(table[name].dtype):
            assert set(made[name].dropna()) <= set(range(-1000, 1000)) | set(table[name].dropna())


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_table_is_read_with_its_schema(tmp_path, suffix):
    path = tmp_path / f"people.{suffix}"
    people().to_csv(path, index=False) if suffix == "csv" else people().to_parquet(path)
    data = load_data(path, label="good")
    kinds = {each.name: each.kind for each in data.space.columns}
    assert kinds == {
        "height": "number",
        "age": "integer",
        "member": "boolean",
        "town": "category",
        "debt": "number",
        "job": "category",
    }
    assert [each.name for each in data.space.columns if each.missing] == ["debt", "job"]
    assert data.class_names == ("no", "yes")
    assert data.space.columns[3].categories == ("Bruges", "Ghent", "Mons")
    assert "values are missing in columns 'debt', 'job'" in data.notes


def test_labels_that_are_equal_numbers_are_one_class():
    data = data_of(people().drop(columns="good"), np.arange(ROWS) % 3 * 1.0)
    assert data.class_names == ("0", "1", "2")
    assert "labels are read as whole numbers" in data.notes


def test_rows_without_a_label_are_left_out_and_counted(tmp_path):
    table = people(ROWS + 7)
    table.loc[:6, "good"] = None
    table.to_csv(tmp_path / "people.csv", index=False)
    data = load_data("people.csv", label="good", folder=tmp_path)
    assert len(data) == len(data.y) == ROWS
    assert "7 rows without a label are left out" in data.notes


def test_a_file_of_columns_declares_what_cannot_be_seen(tmp_path):
    people().assign(code=[["1", "2", "3+"][n % 3] for n in range(ROWS)]).to_csv(
        tmp_path / "p.csv", index=False
    )
    with pytest.raises(
        UsageError, match=r"column 'code' holds numbers, and text in 40 rows \('3\+'\); leave"
    ):
        load_data("p.csv", label="good", folder=tmp_path)
    (tmp_path / "columns.toml").write_text(
        '[code]\ncategories = ["1", "2", "3+", "4+"]\n[age]\nlow = 0\nhigh = 120\n'
    )
    data = load_data("p.csv", label="good", columns="columns.toml", folder=tmp_path)
    by_name = {each.name: each for each in data.space.columns}
    assert by_name["code"].categories == ("1", "2", "3+", "4+")
    assert (by_name["age"].low, by_name["age"].high) == (0, 120)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ("[agee]\nlow = 0", r"no column 'agee' is there to declare; did you mean 'age'"),
        ("[age]\nlow = 30", r"column 'age' holds 1\d to 8\d, but \[30, 8\d\] is declared"),
        ('[height]\nkind = "integer"', r"column 'height' is declared integer, but holds 1\d\d\."),
        ('[town]\ncategories = ["Ghent"]', r"column 'town' holds 'Bruges', which is not among its declared"),
        ('[town]\nkind = "number"', r"column 'town' is declared number, but holds"),
        ("[age]\nlowest = 3", r"columns.toml: age.lowest = 3: .*; of each column, kind, low, high"),
        ("[age", r"columns.toml: not TOML"),
    ],
)
def test_a_declaration_that_the_data_break_is_refused(tmp_path, declared, message):
    people().to_csv(tmp_path / "p.csv", index=False)
    (tmp_path / "columns.toml").write_text(declared)
    with pytest.raises(UsageError, match=message):
        load_data("p.csv", label="good", columns="columns.toml", folder=tmp_path)


def bad(**columns):
    return people().assign(**columns)


BAD = {
    "three rows": (people(3), "3 rows are too few"),
    "one class": (bad(good="yes"), "every label is 'yes'; two classes are needed"),
    "classes as many as rows": (bad(good=[f"c{n}" for n in range(ROWS)]), "120 different labels in 120 rows"),
    "a quantity as label": (bad(good=np.linspace(0.1, 1, ROWS)), "labels are no whole numbers"),
    "a missing label column": (
        people().rename(columns={"good": "god"}),
        "no column 'good'; did you mean 'god'",
    ),
    "text among numbers": (
        bad(age=[*people()["age"][1:], "old"]),
        r"column 'age' holds numbers, and text in 1 rows \('old'\)",
    ),
    "an identifier": (bad(key=[f"id {n}" for n in range(ROWS)]), "column 'key' holds 120 different texts"),
    "infinity": (bad(debt=np.inf), "column 'debt' holds infinity"),
    "numbers too large": (bad(debt=[1e300, *[0.5] * (ROWS - 1)]), "beyond single precision"),
    "no header": (
        pd.DataFrame(np.random.default_rng(0).random((ROWS, 3))).round(2),
        "its first line holds values",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_table_that_cannot_be_assessed_is_refused_in_one_sentence(tmp_path, case):
    table, message = BAD[case]
    table.to_csv(tmp_path / "bad.csv", index=False, header=case != "no header")
    with pytest.raises(UsageError, match=f"^bad.csv: .*{message}") as caught:
        load_data("bad.csv", label="good", folder=tmp_path)
    assert "\n" not in str(caught.value)


def test_a_constant_column_and_large_integers_are_noted():
    table = bad(one=3, big=np.arange(ROWS) * 10**6).drop(columns="good")
    notes = data_of(table, np.arange(ROWS) % 2).notes
    assert any("one value alone is in column 'one'" in note for note in notes)
    assert any("integers beyond 16,777,216 are rounded" in note and "'big'" in note for note in notes)


@pytest.mark.parametrize("name", ["empty.csv", "missing.csv", "data.pkl", "model.joblib", "data.xlsx"])
def test_a_file_that_is_not_read_is_refused_with_what_to_do(tmp_path, name):
    if name != "missing.csv":
        (tmp_path / name).write_bytes(b"" if name == "empty.csv" else b"content")
    message = {
        "empty.csv": "the file is empty",
        "missing.csv": "no data file 'missing.csv'",
        "data.xlsx": "it cannot be read; give .csv",
    }.get(name, "pickled data are never loaded.*frame.to_parquet")
    with pytest.raises(UsageError, match=message):
        load_data(name, folder=tmp_path)


def test_no_pickle_in_an_array_is_loaded(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("it was loaded",))

    np.savez(tmp_path / "trap.npz", x=np.array([Trap()] * ROWS, dtype=object), y=np.arange(ROWS) % 2)
    np.save(tmp_path / "trap.npy", np.array([Trap()] * ROWS, dtype=object))
    for name in ("trap.npz", "trap.npy"):
        with pytest.raises(UsageError, match="pickles are never loaded"):
            load_data(name, folder=tmp_path)


def images(*shape, high=1.0, dtype=np.float32):
    return (np.random.default_rng(0).random((ROWS, *shape)) * high).astype(dtype)


@pytest.mark.parametrize(
    ("given_x", "inside"),
    [
        (images(3, 8, 9), (3, 8, 9)),
        (images(8, 9, 3), (3, 8, 9)),
        (images(8, 9, 3, high=255, dtype=np.uint8), (3, 8, 9)),
        (images(8, 9, high=255, dtype=np.uint8), (1, 8, 9)),
        (images(1, 8, 9, high=255), (1, 8, 9)),
        (images(8, 9, 1, high=16), (1, 8, 9)),
    ],
)
def test_images_are_channels_first_in_the_unit_range_inside_and_as_they_were_for_the_model(given_x, inside):
    data = data_of(given_x, np.arange(ROWS) % 2)
    assert data.x.shape[1:] == inside
    assert data.space.unit
    assert not data.space.problem(data.x)
    again = data.array(data.x)
    assert again.shape == given_x.shape
    assert again.dtype == given_x.dtype
    assert np.allclose(again, given_x, rtol=1e-5)


def test_sequences_and_other_ranges_take_their_range_from_the_data():
    data = data_of(images(7, 2, high=10) - 5, np.arange(ROWS) % 2)
    assert data.space.layout == "sequences"
    assert -5 <= data.space.low[0] < -4
    assert 4 < data.space.high[0] <= 5
    assert data.array(data.x).shape == (ROWS, 7, 2)


def test_a_folder_of_images_has_a_class_for_each_folder_in_it(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(ROWS):
        folder = tmp_path / "pictures" / ("cat" if number % 3 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (6, 5, 3) if number % 2 else (6, 5)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    data = load_data("pictures", folder=tmp_path)
    assert data.x.shape == (ROWS, 3, 6, 5)
    assert 0.9 < data.x.max() <= 1
    assert data.class_names == ("cat", "dog")
    assert np.bincount(data.y).tolist() == [80, 40]
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "pictures" / "cat" / "small.png")
    with pytest.raises(
        UsageError, match=r"small.png: it has 4×4 pixels, the first image 5×6; give them one size"
    ):
        load_data("pictures", folder=tmp_path)


def test_arrays_are_named_in_an_npz_and_labels_lie_beside_an_npy(tmp_path):
    x, y = images(4), np.arange(ROWS) % 2
    np.savez(tmp_path / "all.npz", inputs=x, target=y, other=x)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    for name, label in (("all.npz", None), ("all.npz", "target"), ("x.npy", "y.npy")):
        data = load_data(name, label=label, folder=tmp_path)
        assert np.array_equal(data.x, x)
        assert np.array_equal(data.y, y)
    with pytest.raises(UsageError, match="no array 'targets'; did you mean 'target'"):
        load_data("all.npz", label="targets", folder=tmp_path)
    with pytest.raises(UsageError, match=r"labels of a \.npy file are another one"):
        load_data("x.npy", label="z.npy", folder=tmp_path)
    np.savez(tmp_path / "nan.npz", x=np.full((ROWS, 2, 2), np.nan), y=y)
    with pytest.raises(UsageError, match="120 inputs hold NaN or infinity"):
        load_data("nan.npz", folder=tmp_path)


def test_further_files_share_the_schema_of_the_first(tmp_path):
    people().to_csv(tmp_path / "a.csv", index=False)
    more = people(30, seed=1).drop(columns="good")
    more.loc[0, "town"] = "Namur"
    more.loc[1, "age"] = 150
    more.to_csv(tmp_path / "b.csv", index=False)
    data = load_data("a.csv", label="good", folder=tmp_path, also=("b.csv",))
    (x, y), by_name = data.others[0], {each.name: each for each in data.space.columns}
    assert y is None
    assert len(x) == 30
    assert not data.space.problem(x)
    assert "Namur" in by_name["town"].categories
    assert by_name["age"].high == 150
    people().assign(wealth=1.5).to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(UsageError, match=r"b.csv: no column 'wealth', as a.csv has"):
        load_data("a.csv", label="good", folder=tmp_path, also=("b.csv",))


# --- declared axes and range

RNG = np.random.default_rng(0)


def arrays_of(tmp_path, x, **declared):
    np.savez(tmp_path / "d.npz", x=x)
    return load_data("d.npz", folder=tmp_path, layout=Layout(**declared))


def test_axes_that_could_be_either_are_as_they_are_declared(tmp_path):
    x = RNG.random((120, 3, 5, 3), dtype=np.float32)
    for channels, shape in (("first", (3, 5, 3)), ("last", (3, 3, 5))):
        data = arrays_of(tmp_path, x, channels=channels)
        assert data.space.shape == shape
        assert np.array_equal(data.array(data.x), x)


def test_a_declared_range_is_that_of_made_inputs_and_what_the_model_is_given(tmp_path):
    x = RNG.integers(20, 90, (120, 1, 4, 4)).astype(np.float32)
    data = arrays_of(tmp_path, x, range=(0, 255))
    assert data.space.unit
    assert data.x.max() < 0.4
    np.testing.assert_allclose(data.array(data.x), x, rtol=1e-6)
    signed = arrays_of(tmp_path, x / 100, range=(-1, 1))
    assert (signed.space.low, signed.space.high) == ((-1,), (1,))
    assert any("values from -1 to 1: as is declared" in note for note in signed.notes)
    steps = arrays_of(tmp_path, x[:, 0], range=(0, 100))
    assert (steps.space.low, steps.space.high) == ((0,), (100,))


def test_pictures_are_given_to_a_model_as_it_is_declared(tmp_path):
    for number, name in enumerate("ab"):
        (tmp_path / "p" / name).mkdir(parents=True)
        for count in range(60):
            pixels = RNG.integers(0, 256, (4, 6, 3), dtype=np.uint8)
            pixels[0, 0] = number
            Image.fromarray(pixels).save(tmp_path / "p" / name / f"{count}.png")
    data = load_data("p", folder=tmp_path, layout=Layout("last", (0, 255)))
    assert data.space.shape == (3, 4, 6)
    assert data.x.max() <= 1
    given = data.array(data.x[:2])
    assert (given.shape, given.dtype) == ((2, 4, 6, 3), np.uint8)
    assert any("(n, height, width, channels) with pixels from 0 to 255" in note for note in data.notes)


@pytest.mark.parametrize(
    ("shape", "declared", "message"),
    [
        ((120, 4), {"channels": "last"}, "holds a table, of which --columns declares ranges"),
        ((120, 4, 4), {"channels": "last"}, "without an axis of channels; leave out channels"),
        ((120, 1, 4, 4), {"range": (0, 0.5)}, "values are from .* to 0.99.*, not within the range 0 to 0.5"),
    ],
)
def test_what_does_not_fit_a_declaration_is_a_sentence(shape, declared, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        arrays_of(tmp_path, RNG.random(shape, dtype=np.float32), **declared)
