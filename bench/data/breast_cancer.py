"""The data set breast-cancer, which comes with scikit-learn: cell nuclei in 569 images, benign or malignant.

Wolberg, Mangasarian, Street and Street 1995, UCI Machine Learning Repository, doi:10.24432/C5DW2B.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.inputs import Column, InputSpace

_RANGES = {
    "mean radius": (6.98099995, 28.1100006),
    "mean texture": (9.71000004, 39.2799988),
    "mean perimeter": (43.7900009, 188.5),
    "mean area": (143.5, 2501.0),
    "mean smoothness": (0.0526299998, 0.163399994),
    "mean compactness": (0.0193799995, 0.345400006),
    "mean concavity": (0.0, 0.426800013),
    "mean concave points": (0.0, 0.201199993),
    "mean symmetry": (0.105999999, 0.30399999),
    "mean fractal dimension": (0.0499599986, 0.0974399969),
    "radius error": (0.111500002, 2.87299991),
    "texture error": (0.360199988, 4.88500023),
    "perimeter error": (0.757000029, 21.9799995),
    "area error": (6.80200005, 542.200012),
    "smoothness error": (0.00171300001, 0.0311299991),
    "compactness error": (0.00225199992, 0.135399997),
    "concavity error": (0.0, 0.395999998),
    "concave points error": (0.0, 0.052790001),
    "symmetry error": (0.00788199995, 0.0789500028),
    "fractal dimension error": (0.000894800003, 0.02984),
    "worst radius": (7.92999983, 36.0400009),
    "worst texture": (12.0200005, 49.5400009),
    "worst perimeter": (50.4099998, 251.199997),
    "worst area": (185.199997, 4254.0),
    "worst smoothness": (0.0711700022, 0.222599998),
    "worst compactness": (0.0272899996, 1.05799997),
    "worst concavity": (0.0, 1.25199997),
    "worst concave points": (0.0, 0.291000009),
    "worst symmetry": (0.156499997, 0.663800001),
    "worst fractal dimension": (0.0550399981, 0.207499996),
}
SPACE = InputSpace.of_columns([Column(name, "number", low, high) for name, (low, high) in _RANGES.items()])
"""Its thirty columns, each from its smallest to its largest value."""


@dataclass(frozen=True)
class BreastCancer:
    """The rows that come with scikit-learn."""

    fetchable: bool = False

    def paths(self, split: str, root: Path) -> list[Path]:
        """Return no path: the files are part of the library."""
        return []

    def count(self, split: str, root: Path, size: int, values: int) -> int:
        """Return ``size``."""
        return size

    def download(self, split: str, root: Path) -> None:
        """Do nothing."""

    def read(self, split: str, root: Path) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return all rows (569, 30) and their classes: 0 for malignant, 1 for benign."""
        from sklearn.datasets import load_breast_cancer  # takes a second

        cells = load_breast_cancer()
        return cells.data.astype(np.float32), cells.target.astype(np.int64)
