"""README's section on serving works as it is pasted, but for the port and the key."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.serve.controls import load_controls

ROOT = Path(__file__).parents[2]
SECTION = (ROOT / "README.md").read_text().split("\n## Serve it behind controls\n")[1].split("\n## ")[0]
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)


def test_readmes_controls_can_be_read(tmp_path):
    (text,) = re.findall(r"^cat > controls\.toml <<'EOF'\n(.*?)^EOF$", SECTION, re.MULTILINE | re.DOTALL)
    (tmp_path / "controls.toml").write_text(text)
    controls = load_controls(tmp_path / "controls.toml")
    assert (controls.quota.inputs, controls.suspension.flagged, controls.size.inputs) == (5000, 50, 100)


@pytest.mark.slow
@pytest.mark.long
def test_readmes_server_answers_a_pasted_request_and_a_look(tmp_path):
    if shutil.which("curl") is None or shutil.which("bash") is None:
        pytest.skip("needs bash and curl")
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, words in (("moatbench", '-m bench "$@"'), ("python", '"$@"')):
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {words}\n')
        (programs / name).chmod(0o755)
    environ = os.environ | {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }

    def pasted(text):
        return subprocess.run(
            ["bash", "-ec", text],
            cwd=tmp_path,
            env=environ,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    init, serve = BLOCKS[0].splitlines()
    made = pasted(init)
    assert made.returncode == 0, made.stderr
    key = re.search(r"^alice (\S+)$", made.stdout, re.MULTILINE)[1]
    command = f"exec {serve.partition('#')[0]} --port 0"
    server = subprocess.Popen(
        ["bash", "-c", command], cwd=tmp_path, env=environ, stdout=subprocess.PIPE, text=True
    )
    try:
        address = server.stdout.readline().split()[-1]
        assert address.startswith("http://127.0.0.1:")
        text = BLOCKS[1].replace("http://127.0.0.1:8080", address)
        done = pasted(re.sub(r"ALICE=\S+", f"ALICE={key}", text))
    finally:
        server.terminate()
        server.wait(60)
        server.stdout.close()
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.match(r'{"predictions":\[\[0\.\d+,', done.stdout)
    assert "probabilities" in done.stdout
    assert key not in done.stdout + done.stderr
