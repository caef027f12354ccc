"""Tables of attacks, defenses, victims, data sets and matrices for the terminal."""

from __future__ import annotations

from pathlib import Path

from tabulate import tabulate

from bench import plugins
from bench.data import data_files, datasets
from bench.parameters import describe
from bench.plan import matrix
from bench.plan.shipped_matrices import shipped
from bench.plugins import Plugin, Registry


def table(kind: str) -> str:
    """Return the table of "attacks", "defenses", "victims", "datasets" or "matrices"."""
    if kind == "attacks":
        return _plugins(plugins.attacks)
    if kind == "defenses":
        return _plugins(plugins.defenses)
    if kind == "victims":
        return _victims()
    if kind == "datasets":
        rows = [
            (info.name, "×".join(map(str, info.shape)), info.classes, info.domain)
            for info in datasets.DATASETS.values()
        ]
        return tabulate(rows, headers=["data set", "shape", "classes", "domain"])
    return tabulate(
        [(name, matrix.load_matrix(name).description) for name in shipped()],
        headers=["matrix", "description"],
    )


def _plugins(plugins: Registry[Plugin]) -> str:
    rows = []
    for name in plugins.names():
        cls = plugins.get(name)
        # A third-party plugin may have no docstring.
        summary = (cls.__doc__ or "").strip().partition("\n")[0]
        rows.append((name, summary, "", ""))
        for key, parameter in cls.parameters().items():
            default = "required" if parameter.default is parameter.empty else repr(parameter.default)
            rows.append(("", f"    {key}", default, describe(parameter)))
        strength = getattr(cls, "strength", None)
        if strength is not None:
            rows.append(("", "    l1, l1_max", f"in place of {strength.parameter}", "utility loss in (0, 2]"))
    return tabulate(rows, headers=["name", "description", "default", "allowed"])


def _victims() -> str:
    from bench.models import networks
    from bench.models.sklearn_surrogates import ESTIMATORS

    rows = []
    for name in matrix.VICTIMS:
        builder = networks.BUILDERS.get(name)
        words = {
            "logistic": "Multinomial logistic regression (scikit-learn; as a surrogate in torch).",
            "tree": "Decision tree (scikit-learn); a victim only.",
            "forest": "Random forest of 50 trees (scikit-learn); a victim only.",
            "boosting": "Gradient boosting by histograms, 50 rounds (scikit-learn); a victim only.",
        }.get(name)
        if words is None:
            words = (builder.__doc__ or "").strip().splitlines()[0].removeprefix("Return ")
        rows.append((name, words))
    rows += [
        (name, "scikit-learn's, with its own training configuration; a surrogate only.")
        for name in ESTIMATORS
    ]
    rows.append(("file.py:factory", "Your own, with --victim: returns (model, splits[, features])."))
    return tabulate(rows, headers=["victim or surrogate", "description"])


def data_table(data_root: Path | None) -> str:
    """Return the folder of the data sets, and which splits of them it holds."""
    root = data_files.data_root(data_root)
    rows = [(found.name, found.split, found.images) for found in data_files.available(root)]
    return f"{root}\n" + tabulate(rows, headers=["data set", "split", "inputs"])
