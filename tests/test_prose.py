"""Words that METHOD's glossary has replaced do not come back: not in documents, code, matrices or reports."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RETIRED = re.compile(
    r"(?<!active_)(?<!active)thie(?:f|ves)|told from zero|honest[ _]users|apprentice|workbench", re.IGNORECASE
)
"""``active_thief`` is the name of a plugin, ActiveThief of a paper."""
PATHS = (
    "*.md",
    "*.py",
    "*.toml",
    "*.yml",
    "attacks/**/*.py",
    "bench/**/*.py",
    "bench/**/*.md",
    "bench/matrices/**/*.toml",
    "defenses/**/*.py",
    "examples/**/*.md",
    "examples/**/*.py",
    "examples/**/*.toml",
    "reports/**/*.md",
    "reports/**/*.py",
    "reports/**/*.svg",
    "reports/**/*.toml",
    "tests/**/*.py",
)
"""The files that are checked, as patterns."""


def text_of(path: Path) -> str:
    """Return a file's text on one line, without comment signs and without the names of random seeds."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py" and "derive" in text:  # parsing them all takes long
        for call in ast.walk(ast.parse(text)):
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "derive":
                text = text.replace(ast.get_source_segment(text, call) or "", "derive()")
    return " ".join(re.sub(r"^\s*#", " ", text, flags=re.MULTILINE).split())


@pytest.mark.parametrize("pattern", PATHS)
def test_no_retired_word_is_used(pattern):
    paths = [path for path in sorted(ROOT.glob(pattern)) if path != Path(__file__)]
    assert paths, f"no file matches {pattern}"
    texts = {path.relative_to(ROOT).as_posix(): text_of(path) for path in paths}
    found = [
        f"{name}: …{text[max(0, word.start() - 40) : word.end() + 40]}…"
        for name, text in texts.items()
        for word in RETIRED.finditer(text)
    ]
    assert not found, "\n".join(found)


def test_the_check_finds_words_across_lines_and_inside_names(tmp_path):
    code = tmp_path / "code.py"
    code.write_text('class Workbench:  # what honest\n    # users see\n    seed = derive(0, "apprentice")\n')
    assert RETIRED.findall(text_of(code)) == ["Workbench", "honest users"]
    assert not RETIRED.search("active_thief, ActiveThief")
