"""The command as a program of its own, on a machine that is not as expected."""

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HOME = Path(__file__).parents[2]
_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 24, 1, 2


def program(folder, *words, python=(), obey_permissions=False, disk=None, **options):
    """Run ``python -m bench WORDS`` in ``folder``; return the finished process, its output as text.

    ``python``: options of the interpreter, or what to run instead of the command. ``obey_permissions``: root
    obeys the permissions of files too. ``disk``: (folder, size) of a small file system, which only this
    program sees.
    """
    command = [sys.executable, *(python or ("-m", "bench")), *map(str, words)]
    if disk:
        place, size = disk
        mount = 'mount -t tmpfs -o size="$1" none "$2" || exit 99; shift 2; exec "$@"'
        command = ["unshare", "--mount", "sh", "-c", mount, "sh", size, str(place), *command]
    variables = os.environ | {"PYTHONPATH": str(HOME)} | options.pop("env", {})
    kept = {name: value for name, value in variables.items() if value is not None}
    return subprocess.run(
        command,
        cwd=folder,
        env=kept,
        check=False,
        text=True,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL} | options,
        preexec_fn=_give_up_root if obey_permissions else None,
    )


def require_small_disk(folder):
    """Skip the test unless a small file system can be mounted here."""
    command = ["unshare", "--mount", "mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)]
    if (
        shutil.which("unshare") is None
        or subprocess.run(command, capture_output=True, check=False).returncode
    ):
        pytest.skip("no file system can be mounted here")


def _give_up_root():
    """Root may read and write everything; the program that is started next may not."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None)
        for capability in (_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH):
            libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
