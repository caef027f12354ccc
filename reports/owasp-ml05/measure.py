"""Attacks a served victim behind each control of OWASP ML05:2023, and behind all of them.

Server and attackers are in one process, over ASGI, with a clock that attackers who wait move. Writes
``measured.json`` beside this file; ``make.py`` makes the page of it. Some minutes of one core.
"""

from __future__ import annotations

import asyncio
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attacks.base import TransferSet
from bench.data.data_files import data_root
from bench.files import write_atomically
from bench.inputs import InputSpace
from bench.metrics.balance import balanced_agreement, commonest_share, fidelity_weights, is_imbalanced
from bench.metrics.intervals import Interval, best_attack, mean_interval, paired_difference
from bench.models import surrogates
from bench.models.determinism import single_thread
from bench.models.served_victim import ServedVictim
from bench.models.victims import Victim
from bench.plugins import defenses
from bench.runner.context import WorkerContext
from bench.seeds import derive, random_state
from bench.serve import keys
from bench.serve.access_controls import Keys, Quota, Suspension
from bench.serve.app import build_app
from bench.serve.asgi import App
from bench.serve.controls import Controls
from bench.serve.secret_values import Secret
from bench.serve.state import State, state_file
from bench.tasks import VictimSpec

HERE = Path(__file__).parent
FOUND = HERE / "measured.json"
WANTED, REPEATS, ACCOUNTS = 400, 5, 25
CLOSE = 0.01
"""How far below the highest fidelity an attacker is as good."""
REQUEST, BATCH = 25, 100
"""Inputs of a request; of an attacker who sends large ones."""
QUOTA, RATE, FLAGGED = 100, 60, 10
"""Inputs of an account in all, and in any minute; flagged inputs that suspend it."""
PRICE, ACCOUNT_PRICE = 1.5, 5.0
"""Of 1,000 inputs, and of an account. An assumption; in dollars."""
DETECTOR, SHOWN, WATERMARK = "mahalanobis(fpr=0.01, action=label_only)", "label_only", "dawn(rate=0.05)"
MOST_USERS = 100
"""Users who send test inputs."""
PEPPER = "p" * 32
START = 1_800_000_000.0


@dataclass(frozen=True)
class Setup:
    """Controls that hold. ``stack``: the defenses."""

    name: str
    keys: bool = True
    quota: int | None = None
    rate: int | None = None
    flagged: int | None = None
    stack: tuple[str, ...] = ()


SETUPS = (
    Setup("none", keys=False),
    Setup("quota", quota=QUOTA),
    Setup("rate", rate=RATE),
    Setup("suspension", flagged=FLAGGED, stack=(DETECTOR,)),
    Setup("obfuscation", stack=(SHOWN,)),
    Setup("watermark", stack=(WATERMARK,)),
    Setup("all", quota=QUOTA, rate=RATE, flagged=FLAGGED, stack=(WATERMARK, DETECTOR, SHOWN)),
)


ROUNDS = 15 * len(SETUPS)
"""Requests by which the latency of a control is measured."""


@dataclass(frozen=True)
class Attacker:
    """Somebody who wants 400 answers. ``pool``: "users", "made-up", or "blend" of both, half and half."""

    name: str
    accounts: int = 1
    waits: bool = False
    request: int = REQUEST
    pool: str = "users"


ATTACKERS = (
    Attacker("one account"),
    Attacker("one account, large requests", request=BATCH),
    Attacker("one account, slow", waits=True),
    Attacker("4 accounts, slow", accounts=WANTED // QUOTA, waits=True),
    Attacker("25 accounts", accounts=ACCOUNTS),
    Attacker("25 accounts, made-up inputs", accounts=ACCOUNTS, pool="made-up"),
    Attacker("25 accounts, made-up inputs among users'", accounts=ACCOUNTS, pool="blend"),
)


@dataclass(frozen=True)
class Subject:
    """A victim, and the pool of inputs that somebody without users' data makes up."""

    spec: VictimSpec
    made: str


SUBJECTS = (
    Subject(VictimSpec("digits", "mlp", 0), "synthetic"),
    Subject(VictimSpec("adult", "mlp", 0), "marginals"),
)


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.time = START

    def __call__(self) -> float:
        """Return the time."""
        return self.time


@dataclass
class Server:
    """A served victim behind controls, in this process."""

    app: App
    clock: Clock
    state: State
    keys: list[str | None]
    space: InputSpace

    def post(self, account: int, x: NDArray[np.float32]) -> tuple[int, dict[str, str], Any]:
        """Return status, headers and JSON of the answer to one request of an account."""
        body = json.dumps({"inputs": sent_rows(x, self.space)}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        if key := self.keys[account]:
            headers.append((b"authorization", f"Bearer {key}".encode()))
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": "/predict",
        }
        scope |= {"raw_path": b"/predict", "query_string": b"", "headers": headers}
        scope |= {"client": ("127.0.0.1", 50_000 + account), "server": ("127.0.0.1", 80)}
        messages = [{"type": "http.request", "body": body, "more_body": False}]
        sent: list[Any] = []

        async def receive() -> Any:
            return messages.pop(0) if messages else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        asyncio.run(self.app(scope, receive, send))
        found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return sent[0]["status"], found, json.loads(b"".join(each.get("body", b"") for each in sent[1:]))


def sent_rows(x: NDArray[np.float32], space: InputSpace) -> list[Any]:
    """Return inputs as a client sends them: categories by name, null for a gap."""
    rows: list[Any] = x.tolist()
    for place, column in enumerate(space.columns):
        for row in rows:
            value = row[place]
            if math.isnan(value):
                row[place] = None
            elif column.kind == "category":
                row[place] = column.categories[int(value)]
    return rows


def served(setup: Setup, folder: Path, predictor: ServedVictim, accounts: int, space: InputSpace) -> Server:
    """Return a server with ``accounts`` accounts; its state is in ``folder``."""
    clock = Clock()
    state = State(state_file(folder), clock=clock)
    controls = Controls(
        keys=Keys(on=setup.keys, pepper_env="PEPPER" if setup.keys else None),
        quota=Quota(
            inputs=setup.quota or "unlimited", rate=f"{setup.rate}/minute" if setup.rate else "unlimited"
        ),
        suspension=Suspension(on=setup.flagged is not None, flagged=setup.flagged or 1),
    )
    app = build_app(predictor, controls, state, environ={"PEPPER": PEPPER})
    given: list[str | None] = [None] * accounts
    if setup.keys:
        with state.transaction() as connection:
            given = [
                keys.add(connection, Secret(PEPPER.encode()), f"client-{n}", "client", now=START, by="admin")
                for n in range(accounts)
            ]
    return Server(app, clock, state, given, space)


def predictor_of(context: WorkerContext, subject: Subject, setup: Setup) -> ServedVictim:
    """Return the victim with the defenses of a setup."""
    spec = subject.spec
    stack = context.stack(spec, tuple(repr(defenses.build(text)) for text in setup.stack), 0)
    return ServedVictim(
        context.victim(spec), stack, name=spec.data, version="1", shows="probabilities", seed=1
    )


@dataclass
class Loot:
    """What an attacker got: inputs, answers, and what it took."""

    x: list[NDArray[np.float32]] = field(default_factory=list)
    y: list[NDArray[np.float64]] = field(default_factory=list)
    sent: int = 0
    accounts: int = 0
    hours: float = 0.0


def attacked(server: Server, attacker: Attacker, x: NDArray[np.float32]) -> Loot:
    """Return what an attacker gets who sends ``x``, from one account after the other."""
    loot, left, used = Loot(), list(range(attacker.accounts)), set()
    place = turn = 0
    while place < len(x) and left:
        account = left[turn % len(left)]
        part = x[place : place + attacker.request]
        status, headers, answer = server.post(account, part)
        used.add(account)
        if status == 200:
            rows = np.array(answer["predictions"], dtype=np.float64)
            loot.x.append(part)
            loot.y.append(rows)
            loot.sent, place, turn = loot.sent + len(part), place + len(part), turn + 1
        elif status == 429 and attacker.waits and "retry-after" in headers:
            server.clock.time += float(headers["retry-after"])
        elif status in {413, 429} and len(part) > REQUEST:
            attacker = Attacker(attacker.name, attacker.accounts, attacker.waits, REQUEST, attacker.pool)
        else:
            left.remove(account)  # suspended, at its quota, or above its rate
    loot.accounts, loot.hours = len(used), (server.clock.time - START) / 3600
    return loot


def inputs_of(context: WorkerContext, subject: Subject, kind: str, repeat: int) -> NDArray[np.float32]:
    """Return the inputs that an attacker sends, in a random order."""
    rng = random_state(derive("owasp-ml05", "draw", repeat))
    users = context.victim(subject.spec).splits.pool.x
    if kind == "users":
        return np.ascontiguousarray(users[rng.permutation(len(users))[:WANTED]])
    made = context.pool(subject.spec, subject.made, 0).x
    made = made[rng.permutation(len(made))[:WANTED]]
    if kind == "made-up":
        return np.ascontiguousarray(made)
    half = WANTED // 2
    mixed = np.concatenate([users[rng.permutation(len(users))[:half]], made[:half]])
    return np.ascontiguousarray(mixed[rng.permutation(WANTED)])


def measured() -> dict[str, Any]:
    """Return all numbers of the page, by victim."""
    context = WorkerContext(data_root(None))
    found = {}
    for subject in SUBJECTS:
        predictors = {setup.name: predictor_of(context, subject, setup) for setup in SETUPS}
        tables = {setup.name: attacks(context, subject, setup, predictors[setup.name]) for setup in SETUPS}
        found[str(subject.spec)] = {
            "attacks": [row for setup in SETUPS for row in tables[setup.name][0]],
            "best": [best(setup.name, tables) for setup in SETUPS],
            "users": [benign(context, subject, setup, predictors[setup.name]) for setup in SETUPS],
            "latency": latency(context, subject, predictors),
        }
        for predictor in predictors.values():
            predictor.close()
    return found


Table = NDArray[np.float64]


def attacks(
    context: WorkerContext, subject: Subject, setup: Setup, predictor: ServedVictim
) -> tuple[list[dict[str, Any]], dict[str, Table]]:
    """Return a row for each attacker, and whether each surrogate agrees, (repeats, inputs), by attacker."""
    victim = context.victim(subject.spec)
    test = victim.splits.test
    truth = victim.probabilities(test.x).argmax(axis=1)
    weights = None
    if is_imbalanced(commonest_share(truth), victim.classes):
        weights = fidelity_weights(truth)
    loots: dict[str, list[Loot]] = {}
    for attacker in ATTACKERS:
        for repeat in range(REPEATS):
            x = inputs_of(context, subject, attacker.pool, repeat)
            with tempfile.TemporaryDirectory() as folder:
                server = served(setup, Path(folder), predictor, attacker.accounts, victim.inputs)
                with closing(server.state):
                    loots.setdefault(attacker.name, []).append(attacked(server, attacker, x))
    rows, tables = [], {}
    for name, got in loots.items():
        models = trained(got, victim)
        says = np.array([model.probabilities(test.x).argmax(axis=1) == truth for model in models])
        tables[name] = says.astype(float) if weights is None else balanced_agreement(says, weights)
        rows.append(
            {
                "control": setup.name,
                "attacker": name,
                "fidelity": values(mean_interval(tables[name])),
                "answered": mean([loot.sent for loot in got]),
                "accounts": mean([loot.accounts for loot in got]),
                "hours": mean([loot.hours for loot in got]),
                "money": mean([loot.sent * PRICE / 1000 + loot.accounts * ACCOUNT_PRICE for loot in got]),
            }
        )
    return rows, tables


def best(name: str, found: Mapping[str, tuple[list[dict[str, Any]], dict[str, Table]]]) -> dict[str, Any]:
    """Return the best attack on a setup, how much less it reaches than that without controls, and its cost.

    The cost is that of the cheapest attacker within :data:`CLOSE` of the highest fidelity.
    """
    (rows, tables), (_, undefended) = found[name], found["none"]
    highest, before = best_attack(tables), best_attack(undefended)
    close = [row for row in rows if row["fidelity"][0] >= highest.interval.value - CLOSE]
    cheapest = min(close, key=lambda row: (row["money"], row["hours"]))
    return {
        "control": name,
        "attacker": highest.attack,
        "fidelity": values(highest.interval),
        "reduction": values(paired_difference(undefended[before.attack], tables[highest.attack])),
        "cheapest": {key: cheapest[key] for key in ("attacker", "answered", "accounts", "hours", "money")},
    }


def values(interval: Interval) -> list[float]:
    """Return an interval as a list."""
    return [interval.value, interval.low, interval.high]


def written(found: dict[str, Any]) -> None:
    """Write what was measured."""
    write_atomically(FOUND, json.dumps(found, indent=1) + "\n")


def mean(values: Sequence[float]) -> float:
    """Return the mean."""
    return float(np.mean(values))


def trained(loots: Sequence[Loot], victim: Victim) -> list[Any]:
    """Return a surrogate for each, trained on whole answers."""
    empty = np.zeros((0, *victim.shape), np.float32), np.zeros((0, victim.classes))
    sets = [
        TransferSet(
            np.concatenate([empty[0], *loot.x]), np.concatenate([empty[1], *loot.y]).astype(np.float32)
        )
        for loot in loots
    ]
    seeds = [derive("owasp-ml05", "fit", repeat) for repeat in range(len(sets))]
    return surrogates.fit(sets, "mlp", victim.classes, seeds, inputs=victim.inputs)


def benign(context: WorkerContext, subject: Subject, setup: Setup, predictor: ServedVictim) -> dict[str, Any]:
    """Return what users lose who send test inputs, 25 each in one request, a user a minute."""
    victim = context.victim(subject.spec)
    test = victim.splits.test.rows(np.arange(len(victim.splits.test)) < MOST_USERS * REQUEST)
    accounts = -(-len(test.x) // REQUEST)
    answered = right = 0
    with tempfile.TemporaryDirectory() as folder:
        server = served(setup, Path(folder), predictor, accounts, victim.inputs)
        with closing(server.state):
            for account in range(accounts):
                part = slice(account * REQUEST, (account + 1) * REQUEST)
                status, _, answer = server.post(account, test.x[part])
                server.clock.time += 60
                if status == 200:
                    given = np.array(answer["predictions"], dtype=np.float64)
                    answered += len(given)
                    right += int((given.argmax(axis=1) == test.y[part]).sum())
            (suspended,) = server.state.rows("select count(*) from counters where suspended is not null")[0]
    return {
        "control": setup.name,
        "inputs": len(test.x),
        "answered": answered / len(test.x),
        "accuracy": right / len(test.x),
        "suspended": suspended / accounts,
    }


def latency(
    context: WorkerContext, subject: Subject, predictors: dict[str, ServedVictim]
) -> dict[str, list[float]]:
    """Return seconds of requests with one input, by setup, in pairs: request n of all setups in a row.

    Each setup is first in turn, so that places in a row even out.
    """
    victim = context.victim(subject.spec)
    x = victim.splits.test.x
    found: dict[str, list[float]] = {setup.name: [] for setup in SETUPS}
    with tempfile.TemporaryDirectory() as folder:
        servers: dict[str, Server] = {}
        for setup in SETUPS:
            roomy = Setup(
                setup.name,
                setup.keys,
                setup.quota and 10_000,
                setup.rate and 10_000,
                setup.flagged and 10_000,
            )
            servers[setup.name] = served(
                roomy, Path(folder) / setup.name, predictors[setup.name], 1, victim.inputs
            )
        for number in range(-3, ROUNDS):
            order = list(servers.items())
            first = number % len(order)
            for name, server in order[first:] + order[:first]:
                begun = perf_counter()
                server.post(0, x[number : number + 1] if number >= 0 else x[:1])
                if number >= 0:
                    found[name].append(perf_counter() - begun)
        for server in servers.values():
            server.state.close()
    return found


if __name__ == "__main__":
    with single_thread():
        written(measured())
