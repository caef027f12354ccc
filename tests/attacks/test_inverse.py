"""The inverses of defenses: each is found by the defense's name, and ``recover`` depends on all of them."""

import pytest

from attacks.inverse import INVERSES, UnknownDefenseInverse, inverse_of
from bench import sources
from bench.plugins import attacks, defenses


def test_every_defense_has_an_inverse_in_a_module_of_its_name():
    # Without one only labels are used; that is for defenses from elsewhere.
    assert set(INVERSES) == set(defenses.names())
    for name, inverse in INVERSES.items():
        assert inverse.__module__ == f"attacks.inverse.{name}"


@pytest.mark.parametrize("name", ["homemade", "base", "numerics", "__init__"])
def test_a_defense_without_an_inverse_gets_the_label_only_fallback(name):
    assert inverse_of(name) is UnknownDefenseInverse


@pytest.fixture
def digest(monkeypatch):
    """Return an attack's source digest if the file of one module had another line."""
    read = sources._read

    def of(attack, edited):
        file = f"{str(edited).replace('.', '/')}.py"
        monkeypatch.setattr(
            sources, "_read", lambda path: read(path) + (b"\nedited = 1" if path.endswith(file) else b"")
        )
        return attacks.source_digest(attack)

    return of


@pytest.mark.parametrize("module", ["rounded", "numerics.sigmoid_fit", "base", "none"])
def test_an_edited_inverse_changes_the_digest_of_the_attacks_that_use_it(module, digest):
    edited = f"attacks.inverse.{module}"
    changed = [name for name in attacks.names() if digest(name, edited) != digest(name, None)]
    assert changed == ["auto", "recover"]
