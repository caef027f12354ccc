"""Where results come from: the machine, the commit and the versions that a run is stored with."""

from __future__ import annotations

import os
import platform
import subprocess
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from bench import __version__

DISTRIBUTIONS = (
    "moatbench",
    "adversarial-robustness-toolbox",
    "torch",
    "torchvision",
    "numpy",
    "scipy",
    "scikit-learn",
)
"""Packages whose versions are stored with a run."""
HERE = Path(__file__).parents[1]
GIT_SECONDS = 30
"""git that takes longer, for example on a network drive, is not waited for."""


def installed_versions() -> dict[str, str]:
    """Return the installed versions of ``DISTRIBUTIONS`` by name."""
    return {name: _version(name) for name in DISTRIBUTIONS}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # used from a checkout that is not installed
        return __version__ if package == "moatbench" else "not installed"


def machine() -> dict[str, Any]:
    """Return the kind of machine: processor, cores, memory, Python, platform; no host name, no paths."""
    cpu = platform.processor() or platform.machine()
    with suppress(OSError):  # only Linux has it, and not in every container
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        models = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
        cpu = models[0] if models else cpu
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory": _memory(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
    }


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return "unknown"


def commit(code: Path = HERE) -> dict[str, Any]:
    """Return the commit of this code's checkout, and whether tracked files were edited; None without one.

    None also where git is missing or refuses, and where ``code``, the package's folder, lies in the
    repository of another project: its commit says nothing about this code.
    """
    # git's own variables, which a hook sets, name another repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment |= {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", *words],
                cwd=code,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=True,
                timeout=GIT_SECONDS,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return os.fsdecode(done.stdout).strip()

    if not git("ls-files", "--error-unmatch", "__init__.py"):
        return {"commit": None, "dirty": None}
    if git("rev-parse", "--show-prefix") != f"{code.name}/":
        return {"commit": None, "dirty": None}
    head, changes = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    return {"commit": head, "dirty": None if changes is None else bool(changes)}
