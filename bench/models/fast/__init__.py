"""Faster training and inference on the CPU, with the same results as plain PyTorch to the last bit.

Set the environment variable ``MOATBENCH_FAST=0`` to switch it off: networks then use PyTorch's own
convolution, pooling, autograd and Adam. Worker processes inherit the variable. The switch is read when a
network is built and when its training starts; set it before the first of both.
"""

from __future__ import annotations

import os


def enabled() -> bool:
    """Return whether the fast path is used: True unless ``MOATBENCH_FAST`` is "0"."""
    return os.environ.get("MOATBENCH_FAST") != "0"
