"""Plugins that write into everything they get, and change the process; tests load this as a file."""

import contextlib
import os
import random
import threading
import warnings
from typing import Annotated

import numpy as np
import torch
from pydantic import Field

from moatbench import (
    Answers,
    Claims,
    Defense,
    Extraction,
    MembershipInference,
    TransferSet,
    legacy_numpy,
    random_state,
)


def spoil(array):
    """Write into an array, through NumPy and through torch, whatever its flags say."""
    with contextlib.suppress(ValueError):
        array.flags.writeable = True
    with contextlib.suppress(ValueError):
        array[...] = 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.suppress(TypeError, ValueError):
            torch.from_numpy(array).fill_(1)


class SpoilsAsDefense(Defense):
    """Spoils the arrays named ``what`` in ``fit``, ``answer`` or both, and those that it kept before."""

    name = "spoils_as_defense"

    def __init__(self, *, what: str = "inputs", hook: str = "answer") -> None:
        self.what, self.hook, self.kept = what, hook, []

    claims = Claims(keeps_label=False, ties=True, distribution=False)

    def fit(self, calibration):
        if self.hook == "fit":
            if self.what == "costs":
                calibration.costs["rounded(decimals=1)"] = (0.0, 0.0)
            elif self.what == "features":
                for depth in calibration.read_features(calibration.inputs):
                    spoil(depth)
            else:
                spoil(getattr(calibration, self.what))
        self.kept = [calibration.inputs, calibration.train_inputs, calibration.train_labels]

    def answer(self, batch):
        probabilities = batch.probabilities.copy()
        if self.hook == "answer" and self.what == "features":
            for rows in (batch.inputs, batch.inputs[:1]):
                for depth in batch.read_features(rows):
                    spoil(depth)
        elif self.hook == "answer":
            spoil(getattr(batch, self.what))
        if self.hook == "later":
            for array in self.kept:
                spoil(array)
        answers = Answers.of(probabilities)
        self.kept = [*self.kept, batch.inputs, batch.raw, answers.probabilities, answers.refused]
        return answers


class SpoilsAsAttack(Extraction):
    """Spoils the arrays named ``what`` of its pool, of answers, or the test inputs by its surrogate."""

    name = "spoils_as_attack"
    row_by_row = False

    def __init__(self, *, what: str = "x") -> None:
        self.what, self.kept = what, []

    def applicable(self, pool, target):
        if self.what == "applicable":
            for array in (pool.x, pool.y, pool.reference):
                spoil(array)
        return ""

    def acquire(self, api, pool, surrogates, seeds):
        queries = pool.x[random_state(seeds.order).permutation(len(pool.x))[: api.budget]]
        answers = api.predict(queries)
        if self.what == "answers":
            spoil(answers)
            spoil(queries)
        elif self.what == "api":
            api.budget = 10**9
            api.nb_classes = 2
        elif self.what == "surrogates":
            for surrogate in surrogates.fit([(queries, answers)], 0.1):
                spoil(surrogate(queries))
        elif self.what in {"x", "y", "reference"}:
            spoil(getattr(pool, self.what))
        targets = np.nan_to_num(answers).astype(np.float32)
        for array in self.kept:
            spoil(array)  # those of the repeat before
        self.kept = [queries, targets]
        surrogate = self.surrogate if self.what == "surrogate" else None
        return TransferSet(queries, targets, surrogate=surrogate)

    @staticmethod
    def surrogate(x):
        spoil(x)
        return np.eye(10)[np.zeros(len(x), dtype=int)]


class SpoilsAsMembership(MembershipInference):
    """Spoils the records that it gets."""

    name = "spoils_as_membership"

    def __init__(self, *, members: Annotated[int, Field(ge=20)] = 20, target: str = "victim") -> None:
        super().__init__(members=members, target="victim")

    def infer(self, api, known, queried, seeds):
        for records in (known, queried):
            for array in (records.x, records.y, records.member):
                spoil(array)
        return np.full(len(queried), 0.5)


CHANGES = {
    "gradient mode": lambda: torch.set_grad_enabled(False),
    "default dtype": lambda: torch.set_default_dtype(torch.float64),
    "default device": lambda: torch.set_default_device("meta"),
    "deterministic": lambda: torch.use_deterministic_algorithms(True),
    "threads of torch": lambda: torch.set_num_threads(3),
    "denormals": lambda: torch.set_flush_denormal(True),
    "mixed precision": lambda: torch.set_autocast_enabled("cpu", True),
    "hooks": lambda: torch.nn.modules.module.register_module_forward_hook(lambda *given: given[2] * 0),
    "numpy errors": lambda: np.seterr(all="raise"),
    "environment": lambda: os.environ.update(MOATBENCH_SPOILT="1", PATH=""),
    "working folder": lambda: os.chdir("/"),
    "generators": lambda: (np.random.seed(0), random.seed(0), torch.manual_seed(0)),
}


class Changes(Defense):
    """Changes a setting of the process in ``answer``, and in ``fit``."""

    name = "changes"

    def __init__(self, *, what: str = "generators") -> None:
        self.what = what

    def fit(self, calibration):
        CHANGES[self.what]()

    def answer(self, batch):
        CHANGES[self.what]()
        return Answers.of(batch.probabilities.copy())


class ChangesAsAttack(Extraction):
    """Changes a setting of the process while it acquires."""

    name = "changes_as_attack"

    def __init__(self, *, what: str = "generators") -> None:
        self.what = what

    def acquire(self, api, pool, surrogates, seeds):
        queries = pool.x[: api.budget].copy()
        answers = api.predict(queries)
        changed = SETTINGS[self.what] if self.what in SETTINGS else CHANGES[self.what]
        changed()
        return TransferSet(queries, answers.astype(np.float32))


class Draws(Extraction):
    """Draws each query from the three global generators, which it seeds."""

    name = "draws"

    def acquire(self, api, pool, surrogates, seeds):
        rows, answers = [], []
        with legacy_numpy(seeds.order):
            random.seed(seeds.order)
            torch.manual_seed(seeds.order)
            for _ in range(api.budget):
                drawn = np.random.randint(10**6) + random.randrange(10**6) + int(torch.randint(10**6, (1,)))
                row = drawn % len(pool.x)
                rows.append(row)
                answers.append(api.predict(pool.x[row : row + 1])[0])
        return TransferSet(pool.x[rows], np.array(answers, dtype=np.float32))


stopped = threading.Event()


def _more_settings():
    import decimal
    import gc
    import logging
    import signal
    import socket
    import sys

    return {
        "filters of warnings": lambda: warnings.simplefilter("ignore"),
        "loggers": lambda: (logging.disable(logging.CRITICAL), logging.getLogger("bench").setLevel(60)),
        "signals": lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
        "import path": lambda: sys.path.insert(0, "/nowhere"),
        "output": lambda: setattr(sys, "stdout", None),
        "decimal": lambda: setattr(decimal.getcontext(), "prec", 2),
        "recursion": lambda: sys.setrecursionlimit(5_000),
        "garbage": gc.disable,
        "sockets": lambda: socket.setdefaulttimeout(1),
        "alarm": lambda: signal.setitimer(signal.ITIMER_REAL, 1_000),
        "thread": lambda: threading.Thread(target=stopped.wait, name="mine", daemon=True).start(),
    }


SETTINGS = _more_settings()
