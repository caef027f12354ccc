"""The data set adult: people in the United States' census of 1994, and whether they earn over 50,000 dollars.

Becker and Kohavi 1996, UCI Machine Learning Repository, doi:10.24432/C5XW20. Two columns are left out:
``fnlwgt``, how many people of the population a row stands for, which says nothing of the person and which no
prediction API would ask for, and ``education``, which says in words what ``education-num`` says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.inputs import Column, InputSpace

Table = NDArray[np.float32]
Labels = NDArray[np.int64]

URL = "https://archive.ics.uci.edu/ml/machine-learning-databases/adult/"
FILES: Mapping[str, tuple[str, int, str]] = {
    "train": ("adult.data", 3_974_305, "5d7c39d7b8804f071cdd1f2a7c460872"),
    "test": ("adult.test", 2_003_153, "35238206dfdf7f1fe215bbb874adecdc"),
}
"""Of each official split: the name of its file, its bytes and its MD5."""
LEFT_OUT = ("fnlwgt", "education")
HOME = "United-States"


def _number(name: str, low: int, high: int) -> Column:
    return Column(name, "integer", low, high)


def _category(name: str, categories: str, *, missing: bool = False) -> Column:
    return Column.of_categories(name, categories.split(), missing=missing)


COLUMNS = (
    _number("age", 17, 90),
    _category(
        "workclass",
        "Federal-gov Local-gov Never-worked Private Self-emp-inc Self-emp-not-inc State-gov Without-pay",
        missing=True,
    ),
    _number("education-num", 1, 16),
    _category(
        "marital-status",
        "Divorced Married-AF-spouse Married-civ-spouse Married-spouse-absent Never-married Separated Widowed",
    ),
    _category(
        "occupation",
        "Adm-clerical Armed-Forces Craft-repair Exec-managerial Farming-fishing Handlers-cleaners "
        "Machine-op-inspct Other-service Priv-house-serv Prof-specialty Protective-serv Sales Tech-support "
        "Transport-moving",
        missing=True,
    ),
    _category("relationship", "Husband Not-in-family Other-relative Own-child Unmarried Wife"),
    _category("race", "Amer-Indian-Eskimo Asian-Pac-Islander Black Other White"),
    _category("sex", "Female Male"),
    _number("capital-gain", 0, 99_999),
    _number("capital-loss", 0, 4_356),
    _number("hours-per-week", 1, 99),
    _category(
        "native-country",
        "Cambodia Canada China Columbia Cuba Dominican-Republic Ecuador El-Salvador England France Germany "
        "Greece Guatemala Haiti Holand-Netherlands Honduras Hong Hungary India Iran Ireland Italy Jamaica "
        "Japan Laos Mexico Nicaragua Outlying-US(Guam-USVI-etc) Peru Philippines Poland Portugal Puerto-Rico "
        "Scotland South Taiwan Thailand Trinadad&Tobago United-States Vietnam Yugoslavia",
        missing=True,
    ),
)
SPACE = InputSpace.of_columns(COLUMNS)
CLASS_NAMES = ("<=50K", ">50K")
_NAMES = [
    *("age", "workclass", "fnlwgt", "education", "education-num", "marital-status", "occupation"),
    *("relationship", "race", "sex", "capital-gain", "capital-loss", "hours-per-week", "native-country"),
    "income",
]


def from_elsewhere(x: Table) -> NDArray[np.bool_]:
    """Return (n,) True for people whose country of birth is known and is not the United States."""
    country = x[:, [column.name for column in COLUMNS].index("native-country")]
    home = COLUMNS[-1].categories.index(HOME)
    return np.asarray(~np.isnan(country) & (country != home))


@dataclass(frozen=True)
class AdultFiles:
    """Its two files, as UCI's archive has them, in the folder ``adult``."""

    files: Mapping[str, tuple[str, int, str]] = field(default_factory=lambda: FILES, hash=False)
    fetchable: bool = True

    def paths(self, split: str, root: Path) -> list[Path]:
        """Return the file of an official split under ``root``."""
        return [root / "adult" / self.files[split][0]]

    def count(self, split: str, root: Path, size: int, values: int) -> int | None:
        """Return ``size`` if the file has as many bytes as it should; else None."""
        (path,) = self.paths(split, root)
        return size if path.is_file() and path.stat().st_size == self.files[split][1] else None

    def download(self, split: str, root: Path) -> None:
        """Download the file through pooch, which compares its MD5; raises RuntimeError without pooch."""
        try:
            import pooch
        except ImportError as error:
            raise RuntimeError("it is downloaded by pooch: pip install 'moatbench[tables]'") from error
        name, _, md5 = self.files[split]
        folder = self.paths(split, root)[0].parent
        pooch.retrieve(f"{URL}{name}", known_hash=f"md5:{md5}", fname=name, path=folder)

    def read(self, split: str, root: Path) -> tuple[Table, Labels]:
        """Return the rows (n, 12) float32 of :data:`SPACE` and their classes (n,): 1 for over 50,000 dollars.

        Raises ValueError for a value that the space does not have.
        """
        import pandas as pd  # takes half a second

        (path,) = self.paths(split, root)
        frame = pd.read_csv(
            path,
            names=_NAMES,
            comment="|",  # the first line of adult.test
            skipinitialspace=True,
            na_values="?",
            keep_default_na=False,
        )
        x = np.stack([_values(frame[column.name], column) for column in COLUMNS], axis=1)
        income = frame["income"].astype(str).str.rstrip(".")  # adult.test ends its labels with a dot
        if not income.isin(CLASS_NAMES).all():
            raise ValueError(f"{path} has other labels than {' and '.join(CLASS_NAMES)}")
        if problem := SPACE.problem(x):
            raise ValueError(f"{path}: its values {problem}")
        return x, (income == CLASS_NAMES[1]).to_numpy().astype(np.int64)


def _values(values: Any, column: Column) -> Table:
    """Return a column of a data frame as float32 (n,): categories as their numbers, NaN where missing."""
    if column.kind != "category":
        return np.asarray(values, dtype=np.float32)
    numbers = values.map({name: number for number, name in enumerate(column.categories)})
    if unknown := set(values.dropna()) - set(column.categories):
        raise ValueError(f"column {column.name} has unknown values: {', '.join(sorted(map(str, unknown)))}")
    return np.asarray(numbers, dtype=np.float32)
