import ast
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import moatbench
from bench import plugins

ROOT = Path(moatbench.__file__).parent
HARNESS = (
    "bench.augmentation",
    "bench.calls",
    "bench.encoding",
    "bench.errors",
    "bench.inputs",
    "bench.linear_programme",
    "bench.numerics",
    "bench.parameters",
    "bench.plugins",
    "bench.seeds",
)
PACKAGES = ("attacks", "bench", "defenses")
ALLOWED = {
    # An attack may be built on others, and on what they share.
    "attacks": {
        "attacks.base",
        "attacks.active_thief",
        "attacks.equation_solving",
        "attacks.labels",
        "attacks.recover",
        *HARNESS,
    },
    "defenses": {"defenses.base", *HARNESS},
}
SHARED = {
    "attacks": (
        "attacks.active",
        "attacks.common",
        "attacks.inverse",
        "attacks.restoring",
        "attacks.transfer_sets",
    ),
    "defenses": ("defenses.gradient_angle", "defenses.networks", "defenses.tuning", "defenses.predicates"),
}


RENAMED = [
    ("Learner", "Surrogate"),
    ("LearnerFactory", "SurrogateFactory"),
    ("Path", "StrengthRange"),
    ("Stack", "DefenseStack"),
    ("Streams", "RandomSeeds"),
]
PUBLIC = [
    "Answers",
    "Api",
    "Attack",
    "Batch",
    "BudgetError",
    "Calibration",
    "Claims",
    "Column",
    "Defense",
    "DefenseStack",
    "Extraction",
    "InputSpace",
    "Known",
    "Labelled",
    "MembershipInference",
    "MissingDataError",
    "MoatbenchError",
    "OutputDefense",
    "Plugin",
    "Pool",
    "Predicate",
    "RandomSeeds",
    "Records",
    "Result",
    "ScreenDefense",
    "Shadow",
    "Simulation",
    "Splits",
    "StoreError",
    "StrengthRange",
    "Surrogate",
    "SurrogateFactory",
    "Target",
    "TransferSet",
    "UsageError",
    "Victim",
    "VictimError",
    "__version__",
    "assess",
    "legacy_numpy",
    "predicates",
    "random_state",
]


def test_the_public_names_are_these_and_no_others():
    assert moatbench.__all__ == PUBLIC
    assert all(hasattr(moatbench, name) for name in PUBLIC)


@pytest.mark.parametrize("package", ["attacks", "defenses"])
def test_a_module_of_attacks_or_defenses_holds_one_plugin_of_its_name(package):
    registry = getattr(plugins, package)
    modules = {path.stem for path in (ROOT / package).glob("*.py")} - {"__init__", "base"}
    assert {registry.get(name).__module__ for name in modules} == {f"{package}.{name}" for name in modules}
    shipped = [name for name in registry.names() if registry.get(name).__module__.startswith(f"{package}.")]
    assert sorted(modules) == shipped


def test_every_renamed_name_has_a_new_one():
    assert dict(RENAMED) == moatbench._RENAMED


@pytest.mark.parametrize(("old", "new"), RENAMED)
def test_a_renamed_class_works_under_its_old_name_with_a_warning_that_says_the_new_one(old, new):
    with pytest.warns(FutureWarning, match=f"moatbench.{old} is now moatbench.{new}"):
        assert getattr(moatbench, old) is getattr(moatbench, new)


def test_a_name_that_never_was_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="Attacker"):
        _ = moatbench.Attacker


def test_a_finished_surrogate_under_its_old_name_works_with_a_warning():
    x, y = np.zeros((1, 1, 2, 2), dtype=np.float32), np.ones((1, 1), dtype=np.float32)
    with pytest.warns(FutureWarning, match="surrogate="):
        old = moatbench.TransferSet(x, y, copy=np.zeros_like)
    assert old.surrogate is np.zeros_like
    with pytest.warns(FutureWarning, match=r"TransferSet\.surrogate"):
        assert old.copy is np.zeros_like
    assert replace(old, facts={"more": 1.0}).surrogate is np.zeros_like


def test_a_strength_range_under_its_old_name_works_with_a_warning():
    with pytest.warns(FutureWarning, match="strength = StrengthRange"):

        class Old(moatbench.OutputDefense):
            path = moatbench.StrengthRange("scale", 0.1, 1.0)

    assert Old.strength == Old.path


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module in PACKAGES:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("folder", ["attacks", "defenses"])
def test_plugins_import_only_their_base_and_what_it_stands_on(folder):
    for path in (ROOT / folder).rglob("*.py"):
        ours = {name for name in imports(path) if name.partition(".")[0] in PACKAGES}
        ours = {name for name in ours if not name.startswith(SHARED[folder])}
        assert ours <= ALLOWED[folder], path.name


@pytest.mark.slow
def test_importing_the_public_page_needs_no_figures():
    import subprocess

    code = "import sys, moatbench; print('matplotlib.pyplot' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "False\n"
