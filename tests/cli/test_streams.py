"""Output that is closed, full, ASCII or a file: no command ends otherwise for it."""

import logging
import os
import sys
from pathlib import Path

import pytest
from in_process import moatbench
from programs import program

from bench.cli import listing_cache

WORDS = ("list", "matrices")


@pytest.fixture(scope="module")
def matrices(cache):
    """The list in the cache, so that no program has to load what makes it."""
    assert cache.is_dir()
    return listing_cache.table("matrices")


@pytest.mark.usefixtures("matrices")
def test_a_reader_that_ends_first_ends_no_command(tmp_path):
    read, write = os.pipe()
    os.close(read)
    done = program(tmp_path, *WORDS, stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.usefixtures("matrices")
def test_output_that_cannot_be_written_is_one_sentence_and_exit_code_2(tmp_path):
    with Path("/dev/full").open("w") as full:
        done = program(tmp_path, *WORDS, stdout=full)
    assert done.returncode == 2
    assert done.stderr == "moatbench: the output is not complete: No space left on device\n"


@pytest.mark.usefixtures("matrices")
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_change_no_exit_code(tmp_path, closed):
    for words, code in ((WORDS, 0), (("walk",), 2)):
        shell = ("-c", "import os, sys; os.execvp('sh', ['sh', '-c', sys.argv[1] + ' ' + sys.argv[2]])")
        command = f"exec {sys.executable} -m bench {' '.join(words)}"
        done = program(tmp_path, command, closed, python=shell)
        assert done.returncode == code
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "env",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": None},
    ],
    ids=str,
)
def test_what_ascii_lacks_is_written_as_an_escape(matrices, tmp_path, env):
    assert "8×8" in matrices
    done = program(tmp_path, *WORDS, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == matrices.encode("ascii", "backslashreplace").decode() + "\n"


def test_a_command_leaves_loggers_as_they_were(tmp_path):
    watched = [logging.getLogger(name) for name in ("", "art", "bench", "httpcore2", "httpx2", "matplotlib")]
    before = [(each.level, [*each.handlers]) for each in watched]
    assert moatbench(tmp_path, "list", "attacks")[0] == 0
    assert [(each.level, [*each.handlers]) for each in watched] == before
