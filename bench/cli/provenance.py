"""Where results come from: the machine, the commit and the versions that a run is stored with."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "moatbench",
    "adversarial-robustness-toolbox",
    "torch",
    "torchvision",
    "numpy",
    "scipy",
    "scikit-learn",
)
"""Packages whose versions are stored with a run."""


def versions() -> dict[str, str]:
    """Return the installed versions of ``PACKAGES`` by name."""
    return {name: metadata.version(name) for name in PACKAGES}


def machine() -> dict[str, Any]:
    """Return the kind of machine: processor, cores, memory, Python, platform; no host name, no paths."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line
        ]
        cpu = models[0] if models else cpu
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory": f"{pages / 2**30:.0f} GiB",
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
    }


def commit() -> dict[str, Any]:
    """Return the commit of this code's checkout, and whether tracked files were edited; None without git."""

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
            )
        except (OSError, subprocess.CalledProcessError):
            return None
        return done.stdout.strip()

    here = git("ls-files", "--error-unmatch", Path(__file__).name)
    if not here:
        return {"commit": None, "dirty": None}
    return {
        "commit": git("rev-parse", "HEAD"),
        "dirty": bool(git("status", "--porcelain", "--untracked-files=no")),
    }
