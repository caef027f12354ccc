"""Where things are kept that can be made again."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def cache_root() -> Path:
    """Return where victims, images and lists are kept: ``MOATBENCH_CACHE``, else the user's cache folder."""
    return Path(os.environ.get("MOATBENCH_CACHE") or platformdirs.user_cache_dir("moatbench"))
