"""Made-up files that look like those of the data set adult, small enough for a test."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from bench.data import adult
from bench.data.datasets import DATASETS

SIZES = (600, 150, 400, 300)


def write_census(root: Path, rows: int = 1_600, tested: int = 900, seed: int = 0) -> dict[str, int]:
    """Write ``adult.data`` and ``adult.test`` under ``root``; return the bytes of each, by official split."""
    rng = np.random.default_rng(seed)
    folder = root / "adult"
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {}
    for split, number in (("train", rows), ("test", tested)):
        lines = [] if split == "train" else ["|1x3 Cross validator"]
        lines += [_person(rng, "" if split == "train" else ".") for _ in range(number)]
        path = folder / adult.FILES[split][0]
        path.write_text("\n".join(lines) + "\n\n")
        sizes[split] = path.stat().st_size
    return sizes


def use_census(patch: pytest.MonkeyPatch, root: Path, rows: int = 1_600, tested: int = 900) -> None:
    """Write made-up files to ``root``, and make what is known of the data set fit them."""
    sizes = write_census(root, rows, tested)
    files = {split: (name, sizes[split], md5) for split, (name, _, md5) in adult.FILES.items()}
    small = dataclasses.replace(
        DATASETS["adult"],
        official=(("train", rows), ("test", tested)),
        usable=(rows * 8 // 10, tested // 2),
        sizes=SIZES,
        pool=("train", SIZES[2]),
        files=adult.AdultFiles(files),
        expected={},
    )
    patch.setitem(DATASETS, "adult", small)


def _person(rng: np.random.Generator, dot: str) -> str:
    values: list[str] = []
    score = rng.normal(scale=0.5)
    for column in adult.COLUMNS:
        if column.kind == "category":
            number = int(rng.integers(len(column.categories)))
            if column.name == "native-country" and rng.random() < 0.9:
                number = column.categories.index(adult.HOME)
            missing = column.missing and rng.random() < 0.05
            values.append("?" if missing else column.categories[number])
            score += 0.4 * (number % 3 - 1)
        else:
            zero = column.name.startswith("capital") and rng.random() < 0.9
            value = 0 if zero else int(rng.integers(int(column.low), int(column.high) + 1))
            values.append(str(value))
            score += 2 * (value / column.high) - 1
    values[2:2] = ["12345", "Bachelors"]  # the two columns that are left out
    return ", ".join([*values, (">50K" if score > 0 else "<=50K") + dot])
