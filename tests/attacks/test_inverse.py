"""The inverses of defenses: each is found by the defense's name, and ``recover`` depends on all of them."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import moatbench
from attacks.inverse import INVERSES, UnknownDefenseInverse, inverse_of
from bench.plugins import defenses

ROOT = Path(moatbench.__file__).parent


def test_every_defense_has_an_inverse_in_a_module_of_its_name():
    # Without one only labels are used; that is for defenses from elsewhere.
    assert set(INVERSES) == set(defenses.names())
    for name, inverse in INVERSES.items():
        assert inverse.__module__ == f"attacks.inverse.{name}"


@pytest.mark.parametrize("name", ["homemade", "base", "numerics", "__init__"])
def test_a_defense_without_an_inverse_gets_the_label_only_fallback(name):
    assert inverse_of(name) is UnknownDefenseInverse


@pytest.mark.parametrize("file", ["rounded.py", "numerics/sigmoid_fit.py", "base.py"])
def test_an_edited_inverse_changes_the_digest_of_the_attacks_that_use_it(file, tmp_path):
    shutil.copytree(ROOT / "attacks", tmp_path / "attacks")
    code = (
        "from bench.plugins import attacks\n"
        "print(*(attacks.source_digest(name) for name in ('recover', 'auto', 'copycat')))"
    )

    def digests():
        command = [
            sys.executable,
            "-c",
            f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]\n{code}",
        ]
        return subprocess.run(
            command, capture_output=True, text=True, check=True, cwd=tmp_path
        ).stdout.split()

    before = digests()
    edited = tmp_path / "attacks" / "inverse" / file
    edited.write_text(edited.read_text() + "\n# edited\n")
    changed = [old != new for old, new in zip(before, digests(), strict=True)]
    assert changed == [True, True, False]
