"""README's section on a live endpoint works as it is pasted, but for the port."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from in_process import moatbench

ROOT = Path(__file__).parents[2]
SECTION = (ROOT / "README.md").read_text().split("\n## A live endpoint\n")[1].split("\n## ")[0]


@pytest.fixture
def server(tmp_path):
    """Return the URL of the example's server, started in ``tmp_path``."""
    script = re.search(r"^python (\S+)", SECTION, re.MULTILINE)[1]
    command = [sys.executable, str(ROOT / script), "--port", "0"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()


@pytest.mark.slow
def test_readmes_campaign_runs_and_ends_with_the_report(server, tmp_path):
    name, text = re.search(r"^cat > (\S+) <<'EOF'\n(.*?)^EOF$", SECTION, re.MULTILINE | re.DOTALL).groups()
    changed, times = re.subn(r"http://127\.0\.0\.1:\d+/predict", server, text)
    assert times == 1
    (tmp_path / name).write_text(changed)
    commands = re.findall(r"^moatbench (.*)$", SECTION, re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        code, printed = moatbench(tmp_path, *command.split())
        assert code == 0, printed
    page = (tmp_path / "results/digits/report.md").read_text()
    assert f"# What does it cost to extract the model behind `{server}`?" in page
    assert re.search(r"^\*\*400 inputs, \$0\.60 and .*\*\* buy a surrogate that agrees", page, re.MULTILINE)
