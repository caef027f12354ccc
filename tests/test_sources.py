"""Digests of code: what changes them, and which modules they cover."""

import importlib
import subprocess
import sys
from textwrap import dedent

import pytest

from bench import sources
from bench.plugins import load_file
from bench.sources import OWN_PACKAGES, UNRELATED, code, tree

PROGRAM = b'''"""A module."""
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

LIMIT = 5
"""How many."""


class Rule:
    """A rule."""

    def apply(self, x: int) -> int:
        """Apply it."""
        # slowly
        return x + LIMIT
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"""A module."""', b'"""One module."""'),
        (b'"""A module."""\n', b""),
        (b'"""A rule."""', b'"""A good rule."""'),
        (b'"""Apply it."""', b'"""Apply the rule."""'),
        (b'"""How many."""\n', b""),
        (b"# slowly", b"# quickly"),
        (b"x + LIMIT", b"(x +  LIMIT)"),
        (b"\n\n\nclass", b"\nclass"),
        (b"import Callable", b"import Callable, Sequence"),
        (b"\n", b"\r\n"),
    ],
)
def test_text_and_layout_do_not_count(old, new):
    assert old in PROGRAM
    assert tree(PROGRAM.replace(old, new)) == tree(PROGRAM)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"LIMIT = 5", b"LIMIT = 5.0"),
        (b"LIMIT = 5", b"LIMIT = True"),
        (b"x + LIMIT", b"x - LIMIT"),
        (b"x + LIMIT", b"LIMIT + x"),
        (b"x: int", b"x: float"),
        (b"def apply", b"@cache\n    def apply"),
        (b"class Rule", b"class Rules"),
        (b"        return x", b"        pass\n        return x"),
        (b"return x + LIMIT", b"return 'x + LIMIT'"),
    ],
)
def test_code_counts(old, new):
    assert old in PROGRAM
    assert tree(PROGRAM.replace(old, new)) != tree(PROGRAM)


def test_a_file_that_is_no_python_counts_byte_by_byte():
    assert tree(b"\0\1") != tree(b"\0\2")
    assert tree(b"def") != tree(b"de f")


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Return a function that writes modules of packages, by path, and gives the digest of "edited.start"."""
    monkeypatch.syspath_prepend(tmp_path)

    def digest(files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(dedent(text))
        importlib.invalidate_caches()
        return code("edited.start").digest()

    return digest


@pytest.mark.parametrize(
    "start",
    [
        "import edited.deep.other",
        "from edited.deep import other",
        "from .deep import other",
        "from edited.deep.other import x as y",
        "def f():\n    from edited.deep.other import x",
        "try:\n    import edited.deep.other\nexcept ImportError:\n    pass",
        "from edited.between import x",
        "if True:\n    pass\nelse:\n    from . import between",
    ],
)
def test_an_edit_of_what_is_imported_counts_directly_and_through_others(start, package):
    files = {
        "edited/__init__.py": "",
        "edited/start.py": start,
        "edited/between.py": "from .deep.other import x",
        "edited/deep/__init__.py": "",
        "edited/deep/other.py": "x = 1",
        "edited/aside.py": "x = 1",
    }
    before = package(files)
    assert package({"edited/aside.py": "x = 2"}) == before
    assert package({"edited/deep/other.py": "'''Text.'''\nx = 1  # the same"}) == before
    assert package({"edited/deep/other.py": "x = 2"}) != before
    assert package({"edited/deep/other.py": "x = 1", "edited/deep/__init__.py": "y = 1"}) != before


def test_imports_for_type_checkers_do_not_count_and_nothing_is_imported(package):
    files = {
        "edited/__init__.py": "",
        "edited/start.py": """
            from typing import TYPE_CHECKING
            import edited.stops
            if TYPE_CHECKING:
                from edited.other import x
            """,
        "edited/stops.py": "raise SystemExit",
        "edited/other.py": "x = 1",
    }
    assert package(files) == package({"edited/other.py": "x = 2"})
    assert "edited" not in sys.modules


def test_a_file_counts_with_the_modules_beside_it_and_wherever_it_lies(tmp_path):
    digests = []
    for folder, value in (("one", 1), ("two", 1), ("three", 2)):
        home = tmp_path / folder
        home.mkdir()
        (home / "plugin_of_mine.py").write_text("def f():\n    import beside_of_mine\n")
        (home / "beside_of_mine.py").write_text("import further_of_mine")
        (home / "further_of_mine.py").write_text(f"x = {value}")
        digests.append(code(load_file(home / "plugin_of_mine.py").__name__).digest())
    assert digests[0] == digests[1] != digests[2]


def test_an_edited_file_is_another_module_and_its_digest_is_that_of_what_was_loaded(tmp_path):
    path = tmp_path / "edited.py"
    path.write_text("factor = 0.5")
    first = load_file(path)
    before = code(first.__name__).digest()
    path.write_text("factor = 0.4")  # as long, and perhaps in the same second
    second = load_file(path)
    assert (first.factor, second.factor) == (0.5, 0.4)
    assert code(first.__name__).digest() == before != code(second.__name__).digest()
    path.write_text("factor = 0.5")
    assert load_file(path) is first


def test_libraries_are_named_and_not_read():
    found = code("bench.models.sklearn_surrogates")
    assert {"sklearn", "numpy"} <= found.libraries
    assert all(name.partition(".")[0] in OWN_PACKAGES for name in found.modules)


FAMILIES = ["bench.runner.extraction", "bench.runner.membership", "bench.runner.defense_evaluation"]


@pytest.mark.parametrize("family", FAMILIES)
def test_what_cannot_change_a_result_is_no_part_of_a_family(family):
    modules = code(family).modules
    unrelated = ("analysis", "report", "gate", "cli", "store", "plan.matrix", "plan.study", "runner.run")
    for package in (*unrelated, "runner.task_keys", "metrics.definitions", "keys", "sources"):
        assert not [name for name in modules if f"{name}.".startswith(f"bench.{package}.")]


@pytest.mark.slow
def test_all_modules_that_python_imports_for_a_family_are_part_of_it():
    program = f"import sys, {', '.join(FAMILIES)}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    imported = {name for name in done.stdout.split() if name.partition(".")[0] in OWN_PACKAGES}
    assert len(imported) > 40
    assert imported - code(*FAMILIES).modules.keys() <= set(UNRELATED)


def test_a_plugins_own_code_and_the_harness_do_not_overlap_in_keys():
    harness = code("bench.runner.extraction")
    plugin = code("attacks.knockoff")
    assert plugin.digest(without=harness.modules) != plugin.digest()
    own = plugin.modules.keys() - harness.modules.keys()
    assert {"attacks.knockoff", "attacks.common.art_recorder"} <= own
    assert "attacks.base" not in own


def test_digests_are_kept_while_files_stay_the_same(monkeypatch):
    code("bench.seeds")
    monkeypatch.setattr(sources, "_parse", lambda _: pytest.fail("parsed again"))
    code("bench.seeds")
