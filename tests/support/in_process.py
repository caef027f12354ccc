"""The command in the process of the tests, which has loaded torch and ART already."""

import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO

import pytest

from bench.cli import main
from bench.plugins import attacks, defenses
from bench.runner.local_backend import worker_context


def moatbench(folder, *words):
    """Run ``moatbench WORDS`` in ``folder``; return exit code and what was printed. It leaves no plugin."""
    worker_context.cache_clear()
    with (
        pytest.MonkeyPatch.context() as patch,
        redirect_stdout(StringIO()) as out,
        redirect_stderr(StringIO()) as err,
    ):
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["moatbench", *words])
        for registry in (attacks, defenses):
            patch.setattr(registry, "_extra", dict(registry._extra))
        try:
            main.main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
    worker_context.cache_clear()
    return code, out.getvalue() + err.getvalue()
