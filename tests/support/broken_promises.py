"""Plugins that each break the promise called ``how``; tests load this as a file."""

import numpy as np

from moatbench import (
    Answers,
    Claims,
    Defense,
    Extraction,
    MembershipInference,
    TransferSet,
    random_state,
)


def changed(p, row, values):
    p[row] = values
    return p


class Liar(Defense):
    """Answers as ``how`` says; ``later``: not to the queries that check a fitted defense."""

    name = "liar"

    def __init__(self, *, how: str = "nothing", later: bool = False) -> None:
        self.how, self.later, self.asked, self.calls = how, later, 0, 0

    @property
    def claims(self):
        if self.how == "claims":
            return {"keeps_label": True}
        own = {
            "seed": Claims(keeps_label=False, ties=True, consistent_noise=True),
            "normalises": Claims(keeps_label=False, ties=True, normalises=True),
            "ties": Claims(keeps_label=False),
            "number": Claims(keeps_label=False, ties=True, stochastic=True, consistent_noise=True),
            "counts": Claims(keeps_label=False, ties=True),
        }
        kept = own.get(self.how, Claims())
        loose = ("sums to 5", "percent", "negative", "twice", "alone", "later")
        return Claims(keeps_label=False, ties=True) if self.how in loose else kept

    def fit(self, calibration):
        if self.how == "fit":
            np.zeros(3) + np.zeros(4)
        self.in_use = False

    def answer(self, batch):
        p, n = batch.probabilities.copy(), len(batch)
        nothing = np.zeros(n, dtype=bool)
        everything = ~nothing
        self.asked += n
        if self.later and batch.client == "probe":
            return Answers.of(p)
        self.calls += 1
        if self.how == "raises":
            raise ValueError("shapes (3,) (4,)")
        special = {
            "array": lambda: p,
            "width": lambda: Answers.of(p[:, :2]),
            "rows": lambda: Answers.of(np.concatenate([p, p])),
            "dtype": lambda: Answers.of(p.astype(np.float32)),
            "list": lambda: Answers(p.tolist(), nothing, nothing),
            "mask shape": lambda: Answers(p, nothing[:, None], nothing),
            "mask type": lambda: Answers(p, nothing, nothing.astype(int)),
            "rejects": lambda: Answers(p * np.nan, everything, nothing),
            "flags": lambda: Answers(p, nothing, everything),
            "nan": lambda: Answers.of(p * np.nan),
            "infinity": lambda: Answers.of(changed(p, 0, np.inf)),
            "sums to 5": lambda: Answers.of(np.full_like(p, 0.5)),
            "percent": lambda: Answers.of(100 * p),
            "negative": lambda: Answers.of(p - 0.5),
            "label": lambda: Answers.of(p[:, ::-1].copy()),
            "ties": lambda: Answers.of(np.full_like(p, 1 / p.shape[1])),
            "normalises": lambda: Answers.of(p),
            "twice": lambda: Answers.of(np.eye(p.shape[1])[(np.arange(n) + self.asked) % p.shape[1]]),
            "alone": lambda: Answers.of(np.eye(p.shape[1])[[n % p.shape[1]] * n]),
            "seed": lambda: Answers.of(np.eye(p.shape[1])[[batch.seed % p.shape[1]] * n]),
            "number": lambda: Answers.of(np.eye(p.shape[1])[(batch.number + np.arange(n)) // 7 % p.shape[1]]),
            "counts": lambda: Answers.of(np.eye(p.shape[1])[(batch.number + np.arange(n)) // 7 % p.shape[1]]),
            "later": lambda: Answers.of(np.eye(p.shape[1])[[min(self.calls, 2) - 1] * n]),
        }
        return special.get(self.how, lambda: Answers.of(p))()


class Forger(Extraction):
    """Returns a transfer set that ``how`` says."""

    name = "forger"

    def __init__(self, *, how: str = "nothing") -> None:
        self.how = how

    def applicable(self, pool, target):
        return True if self.how == "reason" else ""

    def acquire(self, api, pool, surrogates, seeds):
        order = random_state(seeds.order).permutation(len(pool.x))
        if self.how == "overspends":
            api.budget = 10**9
            api.predict(pool.x[: 10**4])
        x = pool.x[order[: api.budget]]
        if self.how == "asks nan":
            api.predict(x * np.nan)
        if self.how == "asks outside":
            api.predict(x + 0.5)
        if self.how == "hides":
            try:
                y = api.predict(x).astype(np.float32)
            except Exception:  # noqa: BLE001  # what such an attack does
                y = np.full((len(x), api.nb_classes), 0.1, dtype=np.float32)
            return TransferSet(x[:0], y[:0])
        y = api.predict(x).astype(np.float32)
        one_hot = np.eye(10, dtype=np.float32)

        def late(inputs):
            api.predict(inputs)
            return one_hot[np.zeros(len(inputs), dtype=int)]

        made = {
            "tuple": lambda: (x, y),
            "nan": lambda: TransferSet(x, changed(y, 3, np.nan)),
            "infinity": lambda: TransferSet(changed(x.copy(), 0, np.inf), y),
            "fewer": lambda: TransferSet(x[:17], y),
            "dtype": lambda: TransferSet(x.astype(np.float64), y),
            "width": lambda: TransferSet(x, y[:, :9]),
            "shape": lambda: TransferSet(x[:, :, :4], y),
            "unasked": lambda: TransferSet(pool.x[order[-len(x) :]], y),
            "more": lambda: TransferSet(np.concatenate([x, x]), np.concatenate([y, y])),
            "targets": lambda: TransferSet(x, 2 * y),
            "swapped": lambda: TransferSet(x, y[::-1].copy()),
            "fact": lambda: TransferSet(x, y, facts={"found": "much"}),
            "nan fact": lambda: TransferSet(x, y, facts={"found": float("nan")}),
            "own fidelity": lambda: TransferSet(x, y, facts={"fidelity": 1.0}),
            "surrogate shape": lambda: TransferSet(x, y, surrogate=lambda _: one_hot),
            "surrogate nan": lambda: TransferSet(x, y, surrogate=lambda x: np.full((len(x), 10), np.nan)),
            "surrogate logits": lambda: TransferSet(x, y, surrogate=lambda x: np.full((len(x), 10), 5.0)),
            "surrogate raises": lambda: TransferSet(x, y, surrogate=lambda _: 1 / 0),
            "surrogate asks": lambda: TransferSet(x, y, surrogate=late),
            # These are allowed.
            "shuffled": lambda: TransferSet(x[::-1].copy(), y[::-1].copy()),
            "labels": lambda: TransferSet(x, one_hot[y.argmax(axis=1)]),
            "part": lambda: TransferSet(x[::2].copy(), y[::2].copy()),
            "numpy fact": lambda: TransferSet(x, y, facts={"found": np.int64(3), "other": None}),
        }
        return made.get(self.how, lambda: TransferSet(x, y))()


class Guesser(MembershipInference):
    """Returns the scores that ``how`` says."""

    name = "guesser"

    def __init__(self, *, members: int = 20, target: str = "victim", how: str = "nothing") -> None:
        super().__init__(members=members, target="victim")
        self.how = how

    def infer(self, api, known, queried, seeds):
        made = {
            "shape": np.zeros((len(queried), 1)),
            "range": np.full(len(queried), 7.0),
            "nan": np.full(len(queried), np.nan),
            "text": ["a"] * len(queried),
        }
        return made.get(self.how, np.zeros(len(queried)))
