"""The harness knows no plugin by name: what it has to know of one is a property that the plugin declares."""

import ast
import re
from pathlib import Path

import pytest

import bench
from bench.plugins import attacks, defenses

ROOT = Path(bench.__file__).parent
WORDS = {"auto", "average", "evade", "labels", "none", "normalise", "recover", "restore", "rounded"}
"""Names that are words of English; a sentence may contain them."""
JUSTIFIED = {
    ("none", "*"): "the word of a matrix for no defense; a knowledge; an access; matplotlib's for no colour",
    ("labels", "analysis/threat_models.py"): "an output type of the API",
    ("labels", "models/defended_api.py"): "an output type of the API",
    ("labels", "plan/matrix.py"): "an output type of the API",
    ("labels", "analysis/verdicts.py"): "what is sold",
    ("labels", "analysis/eligibility.py"): "what is sold",
    ("labels", "cli/report_options.py"): "what is sold",
    ("labels", "report/answers.py"): "what is sold",
    ("labels", "report/figures/victim.py"): "what is sold",
    ("labels", "run_facts.py"): "what is sold",
    ("labels", "runner/extraction.py"): "an output type of the API",
    ("auto", "analysis/adaptive_attackers.py"): "METHOD defines the attacks that every defense has to meet",
    ("labels", "analysis/adaptive_attackers.py"): "METHOD defines the attacks that every defense has to meet",
    ("average", "analysis/adaptive_attackers.py"): "METHOD says which defenses have to meet it",
    ("evade", "analysis/adaptive_attackers.py"): "METHOD says which defenses have to meet it",
    ("label_only", "analysis/eligibility.py"): "in older records, which do not say what the defense shows",
    ("*", "plan/assessment.py"): "the matrix that is written consists of names, as a shipped one does",
    ("*", "cli/assessing.py"): "the cells of that matrix by which its time is estimated",
    ("labels", "cli/in_memory.py"): "what is sold",
    ("labels", "cli/model_options.py"): "what is sold",
    ("labels", "cli/watermark_verify.py"): "what a model returns",
    ("labels", "data/user_data.py"): "an array of classes in a file",
    ("labels", "gate/baseline.py"): "the field of an exported baseline",
    ("labels", "models/own_outputs.py"): "what a model returns",
    ("labels", "models/victim_options.py"): "what a model returns",
    ("labels", "remote/answers.py"): "what a target answers",
    ("labels", "remote/look.py"): "what a target answers",
    ("labels", "remote/target.py"): "what a target answers",
    ("labels", "remote/target_faults.py"): "what a target answers",
    ("labels", "report/target_page.py"): "what a target answers",
    ("*", "plan/live.py"): "the attacks where the user names none, as a shipped matrix names its own",
    ("copycat", "cli/target.py"): "the help names the attacks where the user names none",
    ("auto", "cli/main.py"): "a device",
    ("auto", "models/determinism.py"): "a device",
    ("label_only", "analysis/threat_models.py"): "in older records, which do not say what the defense shows",
    ("labels", "serve/"): "what clients of a server see",
    ("labels", "cli/guarding.py"): "what clients of a server see",
    ("labels", "cli/serve.py"): "what clients of a server see",
    ("labels", "cli/serving.py"): "what clients of a server see",
    ("labels", "models/defended_predictor.py"): "what clients of a server see",
    ("labels", "models/served_victim.py"): "what clients of a server see",
}
"""Why a text in the harness holds a plugin's name, by the name and the module or its folder (``*``: any)."""


def names():
    return sorted({*attacks.names(), *defenses.names()})


def named_in(source, plugins):
    """Return the plugins that the texts of a module name, docstrings left out, each with its line."""
    tree = ast.parse(source)
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            for name in (each for each in plugins if each in node.value):
                whole = rf"{re.escape(name)}(\(.*)?" if name in WORDS else rf".*\b{re.escape(name)}\b.*"
                if re.fullmatch(whole, node.value, re.DOTALL):
                    found.append((name, node.lineno))
    return found


def test_no_text_in_the_harness_names_a_plugin_without_a_reason():
    used, unjustified = set(), []
    for path in sorted(ROOT.rglob("*.py")):
        module = path.relative_to(ROOT).as_posix()
        for name, line in named_in(path.read_text(encoding="utf-8"), names()):
            folder = f"{module.partition('/')[0]}/"
            reasons = {(name, module), (name, folder), (name, "*"), ("*", module)} & JUSTIFIED.keys()
            used |= reasons
            if not reasons:
                unjustified.append(f"bench/{module}:{line} names {name!r}")
    assert not unjustified, "\n".join(unjustified)
    assert used == JUSTIFIED.keys(), f"no longer needed: {JUSTIFIED.keys() - used}"


@pytest.mark.parametrize("name", ["copycat", "own_labels", "mahalanobis", "auto"])
@pytest.mark.parametrize("use", ["name == {!r}", "text.startswith({!r} + '(')", "known = {{{!r}: 1}}"])
def test_the_check_finds_a_name_in_code(name, use):
    assert named_in(f'"""Of {name}."""\n{use.format(name)}\n', names()) == [(name, 2)]
    assert named_in(f'f"{name}({{value}})"\n', names()) == [(name, 1)]


def test_the_harness_imports_no_plugin():
    """The interfaces alone, and the predicates of benign users: it would know a plugin by its class, too."""
    imported = {
        (path.name, name)
        for path in sorted(ROOT.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in modules_in(node)
        if re.match(r"(attacks|defenses)\.", name)
    }
    shared = {"attacks.base", "defenses.base", "defenses.predicates"}
    assert {name for _, name in imported} == shared, imported


def modules_in(node):
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module in {"attacks", "defenses"}:
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return [node.module] if isinstance(node, ast.ImportFrom) and node.module else []


@pytest.mark.parametrize(
    "line", ["import attacks.copycat", "from attacks.copycat import Copycat", "from attacks import copycat"]
)
def test_the_check_finds_an_import(line):
    assert modules_in(ast.parse(line).body[0]) == ["attacks.copycat"]
