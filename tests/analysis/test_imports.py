"""What reading results needs."""

import pkgutil
import subprocess
import sys

from bench import analysis


def test_reading_results_loads_neither_torch_nor_art():
    modules = [f"bench.analysis.{module.name}" for module in pkgutil.iter_modules(analysis.__path__)]
    heavy = {"torch", "art", "attacks", "defenses"}
    code = f"import sys, {', '.join(modules)}; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert len(modules) > 5
    assert done.stdout.strip() == "set()"
