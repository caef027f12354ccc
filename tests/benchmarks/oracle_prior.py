"""What a prior around the victim's true answers adds to learnt inverses of ModelGuard, on digits.

Tang et al. 2024, "ModelGuard" (USENIX Security), test partial Bayes with clean answers that are drawn around
the true ones. No attacker has these: the result is an oracle's, and no attack here uses it.

Prints, for each defense and reading of the answers, the mean L1 to the true answers and the fidelity of a
surrogate, with 95 % t intervals over repeats. Each repeat has queries, secrets and surrogates of its own.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from scipy import stats

from attacks.base import Api, Array, Images, RandomSeeds, SurrogateFactory
from attacks.restore import Restore
from attacks.restoring.pairs import Pairs, ShadowModels, simulated_instances, simulated_pairs
from attacks.restoring.prior import Prior, draw
from attacks.restoring.table import TOLERANCE
from bench.data import data_files
from bench.models.interim_surrogates import InterimSurrogates
from bench.plugins import defenses
from bench.runner.context import WorkerContext
from bench.tasks import VictimSpec

DEFENSES = ("modelguard_w(eps=1.0)", "modelguard_s(eps=1.0)")
QUERIES, REPEATS = 200, 5
PUBLISHED = Prior(draw, ((8.0, 1.0),), 1)
"""Concentration 8 times the number of classes, as in the authors' code, and the floor of ``restore``."""

Readings = dict[str, Array]


def measure() -> None:
    """Print a line for each defense and reading."""
    with tempfile.TemporaryDirectory() as folder:
        context = WorkerContext(data_files.data_root(None), Path(folder))
        spec = VictimSpec("digits", "mlp", 0)
        victim, pool = context.victim(spec), context.pool(spec, "in-distribution", 0)
        test = victim.splits.test.x
        labels = victim.probabilities(test).argmax(axis=1)
        for name in map(defenses.canonical, DEFENSES):
            found: dict[str, list[tuple[float, float]]] = {}
            for repeat in range(REPEATS):
                surrogates = InterimSurrogates("mlp", (1, 8, 8), victim.classes, 100 + repeat)
                api = context.api(spec, (name,), repeat, repeat, budget=QUERIES, knowledge="full")
                given = Restore().acquire(api, pool, surrogates, RandomSeeds(repeat, 1_000 + repeat))
                if given.restoration is None:
                    raise RuntimeError("restore simulated nothing")
                x, answers = given.restoration.x, given.restoration.answers
                truth = victim.probabilities(x)
                queried = {row.tobytes() for row in x}
                rest = np.array([row for row in pool.x if row.tobytes() not in queried])
                readings = {"as is": answers, "labels": np.eye(answers.shape[1])[answers.argmax(axis=1)]}
                readings["restore"] = given.restoration.restored
                readings |= centred(api, x, answers, truth, rest, surrogates, repeat)
                trained = surrogates.fit([(x, rows) for rows in readings.values()])
                for (reading, rows), surrogate in zip(readings.items(), trained, strict=True):
                    far = float(np.abs(rows - truth).sum(axis=1).mean())
                    same = float((surrogate(test).argmax(axis=1) == labels).mean())
                    found.setdefault(reading, []).append((far, same))
            for reading, values in found.items():
                far, same = (interval(column) for column in np.array(values).T)
                print(f"{name:24} {reading:22} L1 {far}  fidelity {same}", flush=True)


def centred(
    api: Api, x: Images, answers: Array, truth: Array, rest: Images, surrogates: SurrogateFactory, seed: int
) -> Readings:
    """Return partial Bayes around the attacker's estimates and around the true answers, all else equal."""
    single = np.ones(len(x), dtype=bool)
    shadows = ShadowModels.trained(x, answers.argmax(axis=1), single, answers.shape[1], surrogates)
    instances = simulated_instances(api, shadows, answers, rest, seed)
    found = {}
    for name, centre in (("honest prior", shadows.estimates), ("ORACLE prior", truth)):
        around = ShadowModels(x, shadows.labels, single, shadows.fold, shadows.predictors, centre)
        found[name] = partial_bayes(answers, simulated_pairs(instances, around, answers, seed, PUBLISHED))
    return found


def partial_bayes(answers: Array, pairs: Pairs) -> Array:
    """Return restored answers (n, classes) from one table of the pairs of all rows, as the authors' code.

    Means of the clean rows whose simulated answers have the answer's label and are as near as the nearest, or
    within an L1 of .01.
    """
    classes = answers.shape[1]
    clean, simulated = pairs.clean.reshape(-1, classes), pairs.answers.reshape(-1, classes)
    labels, found = simulated.argmax(axis=1), np.array(answers)
    for place, answer in enumerate(answers):
        rows = np.flatnonzero(labels == answer.argmax())
        if len(rows):
            far = np.abs(simulated[rows] - answer).sum(axis=1)
            found[place] = clean[rows[far <= max(TOLERANCE, far.min())]].mean(axis=0)
    return found


def interval(values: Array) -> str:
    """Return the mean of values (n,) and a 95 % t interval, as text."""
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return f"{values.mean():.3f} [{values.mean() - half:.3f}, {values.mean() + half:.3f}]"


if __name__ == "__main__":
    measure()
