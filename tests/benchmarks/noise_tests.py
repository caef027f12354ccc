"""Prints false alarms and power of the tests of fresh noise, by simulation; METHOD.md quotes them.

``PYTHONPATH=.:tests/support python tests/benchmarks/noise_tests.py [SIMULATIONS]`` (2000: 15 minutes)
"""

import math
import sys

import numpy as np
from simulated_noise import NOISES, differences, streams

from bench.metrics.independence import agreement_in_streams, agreement_of_draws
from bench.runner.noise_checks import DRAWS

LEVELS = 0.05, 0.05 / 30


def rates(chances):
    """Return the shares of p-values up to each level, as text."""
    found = np.asarray(chances)
    return ", ".join(f"p <= {level:.5f}: {(found <= level).mean():.4f}" for level in LEVELS)


def fresh(simulations):
    """Print the shares of small p-values where noise is fresh."""
    for name, answer in NOISES.items():
        made = (differences(np.random.default_rng(n), answer) for n in range(simulations))
        found = [agreement_of_draws(each, n)[1] for n, each in enumerate(made)]
        print(f"fresh, {name}, same input: {rates(found)}", flush=True)
        if name != "rare":
            made = (streams(np.random.default_rng(n), answer, queries=32) for n in range(simulations))
            found = [agreement_in_streams(each, n)[1] for n, each in enumerate(made)]
            print(f"fresh, {name}, across inputs: {rates(found)}", flush=True)


def keyed(simulations):
    """Print the shares of small p-values where an input decides a part of the noise."""
    for inputs in (447, 850):
        draws = round(DRAWS / math.sqrt(inputs))
        for rho in (0.08, 0.09, 0.1, 0.11):
            for name in ("clipped", "rounded"):
                answer = NOISES[name]
                made = (
                    differences(np.random.default_rng(n), answer, inputs, draws, rho, 10)
                    for n in range(simulations)
                )
                found = [agreement_of_draws(each, n)[1] for n, each in enumerate(made)]
                print(f"{name}, {rho} keyed, {inputs} inputs, {draws} draws: {rates(found)}", flush=True)


if __name__ == "__main__":
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    fresh(number)
    keyed(number // 20)
