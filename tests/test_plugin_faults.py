"""A plugin that cannot be used is named in one sentence, with its file and line, before anything runs."""

import os
from types import SimpleNamespace

import pytest
from in_process import moatbench

from bench.errors import UsageError
from bench.plan.matrix import load_matrix
from bench.plugins import Registry, attacks, load_file

BLOCK = '[[block]]\nattack = "mine"\nbudget = 20\n'
GOOD = """
from moatbench import Extraction
class Mine(Extraction):
    name = "mine"
    def acquire(self, api, pool, surrogates, seeds): ...
"""
INIT = GOOD + "    def __init__(self, *, a: int = 1) -> None:\n        "

AT_IMPORT = {
    "a syntax error": ("import os\ndef f(:\n    pass\n", "line 2: SyntaxError: invalid syntax"),
    "a missing module": (
        "\nimport nothing_like_it\n",
        "line 2: ModuleNotFoundError: No module named 'nothing_like_it'",
    ),
    "any exception": ("raise KeyError('one\\ntwo')\n", r"line 1: KeyError: "),
    "an exception without a text": ("class E(Exception):\n    __str__ = None\nraise E\n", "line 3: E$"),
    "no exception": ("raise BaseException('stop')\n", "line 1: BaseException: stop"),
    "an end of the program": ("import sys\nsys.exit(0)\n", r"line 2: it ends the program by sys.exit\(0\)"),
    "endless recursion": ("def f(): f()\nf()\n", "line 1: RecursionError"),
    "another encoding": (b"a = '\xe9'\n", "SyntaxError: .*utf-8"),
    "a NUL": (b"a = 1\0\n", "(SyntaxError|ValueError): .*null bytes"),
    "no plugin": ("x = 1\n", "defines no attack and no defense"),
    "a name that is no word": (
        GOOD.replace('"mine"', '"my-attack"'),
        "class Mine has name = 'my-attack'; letters",
    ),
    "a name that is no text": (GOOD.replace('"mine"', "7"), "class Mine has name = 7; letters"),
    "a name that is a list": (GOOD.replace('"mine"', "[]"), "TypeError: unhashable"),
    "a shipped name": (
        GOOD.replace('"mine"', '"copycat"'),
        r"the name 'copycat' is taken \(attacks.copycat\)",
    ),
    "one name twice": (
        GOOD + GOOD.replace("class Mine", "class Other"),
        "Mine and Other are both called 'mine'",
    ),
    "a missing method": (
        GOOD.replace("acquire", "aquire"),
        "class Mine has no acquire; every attack needs one",
    ),
    "a parameter by position": (
        GOOD + "    def __init__(self, a): ...\n",
        "parameter 'a' of Mine is not keyword-only",
    ),
    "an unknown annotation": (
        GOOD + "    def __init__(self, *, a: 'Nothing'): ...\n",
        "NameError: name 'Nothing'",
    ),
    "an annotation that nothing checks": (
        GOOD + "    def __init__(self, *, a: 3 = 1): ...\n",
        "of Mine cannot be checked",
    ),
    "parameters that raise": (
        GOOD + "    @classmethod\n    def parameters(cls): 1 / 0\n",
        "ZeroDivisionError",
    ),
}
WHEN_BUILT = {
    "an error in __init__": (
        INIT + "1 / 0\n",
        "attack 'mine' cannot be built, .*mine.py, line 7: ZeroDivisionError",
    ),
    "an end of the program": (
        INIT + "raise SystemExit(0)\n",
        r"mine.py, line 7: it ends the program by sys.exit\(0\)",
    ),
    "a forgotten parameter": (
        INIT + "pass\n",
        "'mine': its parameters cannot be written down .*has no attribute 'a'",
    ),
    "a changed parameter": (INIT + "self.a = a + 1\n", r"'mine\(a=2\)' builds 'mine\(a=3\)'"),
}


def write(tmp_path, text):
    (tmp_path / "mine.py").write_bytes(text if isinstance(text, bytes) else text.encode())
    (tmp_path / "tiny.toml").write_text(f'name = "tiny"\nplugins = ["mine.py"]\n{BLOCK}')


@pytest.mark.parametrize("fault", AT_IMPORT)
def test_a_plugin_file_that_cannot_be_used_is_named_with_line_and_error(tmp_path, fault):
    text, message = AT_IMPORT[fault]
    write(tmp_path, text)
    for _ in range(2):  # nothing half-made is left that the second reading would find
        with pytest.raises(UsageError, match=rf"tiny.toml: plugins: .*mine.py.*{message}") as raised:
            load_matrix(str(tmp_path / "tiny.toml"))
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("fault", WHEN_BUILT)
def test_a_plugin_that_cannot_be_built_is_named_with_the_error(tmp_path, fault):
    text, message = WHEN_BUILT[fault]
    write(tmp_path, text)
    with pytest.raises(UsageError, match=rf"tiny.toml: block.0.attack: .*{message}"):
        load_matrix(str(tmp_path / "tiny.toml")).tasks()


@pytest.mark.parametrize("fault", ["a syntax error", "an end of the program", "a shipped name"])
def test_the_command_ends_with_2_and_one_sentence_before_work_starts(tmp_path, fault):
    write(tmp_path, AT_IMPORT[fault][0])
    code, text = moatbench(tmp_path, "run", "tiny.toml")
    assert code == 2
    assert "mine.py" in text.splitlines()[-1]
    assert "Traceback" not in text
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    "name", ["nothing.py", "", ".", "folder.py", "x" * 5_000 + ".py", "~nobody-here/x.py", "notes.txt"]
)
def test_what_is_no_python_file_is_named(tmp_path, name):
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "notes.txt").touch()
    (tmp_path / "tiny.toml").write_text(f'name = "tiny"\nplugins = ["{name}"]\n{BLOCK}')
    with pytest.raises(
        UsageError, match=r"tiny.toml: plugins: .*(no Python file|cannot be a path|not a Python file)"
    ):
        load_matrix(str(tmp_path / "tiny.toml"))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_named(tmp_path):
    write(tmp_path, GOOD)
    (tmp_path / "mine.py").chmod(0)
    with pytest.raises(UsageError, match=r"mine.py: PermissionError"):
        load_matrix(str(tmp_path / "tiny.toml"))


def test_two_files_of_a_matrix_cannot_share_a_name(tmp_path):
    write(tmp_path, GOOD)
    (tmp_path / "other.py").write_text(GOOD)
    text = (tmp_path / "tiny.toml").read_text().replace('["mine.py"]', '["mine.py", "other.py"]')
    (tmp_path / "tiny.toml").write_text(text)
    with pytest.raises(UsageError, match=r"mine.py and .*other.py both define 'mine'"):
        load_matrix(str(tmp_path / "tiny.toml"))


def raises(error):
    def load():
        raise error

    return load


@pytest.mark.parametrize(
    ("load", "message"),
    [
        (raises(ImportError("no such thing")), "ImportError: no such thing"),
        (raises(SystemExit(0)), r"ends the program by sys.exit\(0\)"),
        (lambda: 3, "is 3, no subclass of attacks.base.Attack"),
        (lambda: attacks.get("copycat"), None),
    ],
)
def test_an_installed_plugin_that_cannot_be_loaded_is_named(monkeypatch, load, message):
    entry = SimpleNamespace(name="theirs", value="theirs:Theirs", load=load)
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [entry] * group.endswith("attacks"))
    registry = Registry("attack", "attacks", "attacks.base:Attack")
    if message is None:  # the very class that is there already hides nothing
        assert "copycat" in registry.names()
        return
    with pytest.raises(
        UsageError, match=rf"the installed attack plugin 'theirs' \(theirs:Theirs\).*{message}"
    ):
        registry.names()


def test_an_installed_plugin_hides_no_shipped_one(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(GOOD.replace('"mine"', '"copycat"'))
    module = load_file(tmp_path / "mine.py")
    entry = SimpleNamespace(name="theirs", value="theirs:Theirs", load=lambda: module)
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [entry] * group.endswith("attacks"))
    with pytest.raises(UsageError, match=r"'theirs'.*the name 'copycat' is taken"):
        Registry("attack", "attacks", "attacks.base:Attack").names()


def test_a_text_parameter_that_is_no_word_is_read_back_as_it_was(tmp_path):
    write(tmp_path, INIT.replace("a: int = 1", "a: str = 'x'") + "self.a = a\n")
    load_matrix(str(tmp_path / "tiny.toml"))
    for value in ("two words", "None", "true", "3", "a-b", "it's", "", "x)", "-"):
        text = attacks.canonical(f"mine(a={value!r})")
        assert attacks.build(text).a == value
