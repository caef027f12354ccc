"""The worker context: victims, pools, fitted defenses and answers that a worker keeps between cells."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from attacks.base import Pool
from bench import plugins
from bench.data import auxiliary, query_pools
from bench.errors import NotApplicable
from bench.models.checked_stack import Watch, fit_stack
from bench.models.defended_api import DefendedAPI
from bench.models.own_references import OwnVictims
from bench.models.plugin_guard import build
from bench.models.shared_answers import SharedAnswers
from bench.models.victims import Victim, load_victim, retrained_victim
from bench.seeds import derive
from bench.tasks import VictimSpec
from defenses.base import Auxiliary, Calibration, Defense, DefenseStack

T = TypeVar("T")
CLIENT_QUERIES = 100
"""Queries of one benign client."""


@dataclass
class WorkerContext:
    """Loads or makes objects on demand and keeps them.

    ``data_root``: folder of the data sets. ``training_cache``: folder of trainings that cells share, or None.
    ``own``: the user's own victims, and where their files are. ``shared``: where another process of the run
    has written what these have answered.
    """

    data_root: Path
    training_cache: Path | None = None
    own: OwnVictims = field(default_factory=OwnVictims)
    shared: Mapping[VictimSpec, Path] = field(default_factory=dict)
    _kept: dict[Any, Any] = field(default_factory=dict, repr=False)

    def once(self, key: Any, make: Any) -> Any:
        """Return the kept object of ``key``; the first call makes it by ``make()``."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def loaded(self) -> dict[Any, Any]:
        """Return the victims, pools and auxiliary data so far, for the context of a worker without data."""
        sent = Victim | Pool | Auxiliary
        return {key: made for key, made in self._kept.items() if isinstance(made, sent)}

    def add(self, objects: Mapping[Any, Any]) -> None:
        """Add the objects that another context has loaded."""
        self._kept |= objects

    def forget(self) -> None:
        """Drop everything that was loaded or made."""
        self._kept.clear()

    def victim(self, spec: VictimSpec) -> Victim:
        """Return the trained victim."""
        path = self.shared.get(spec)
        shared = None if path is None else SharedAnswers(path)
        victim: Victim = self.once(spec, partial(load_victim, spec, self.data_root, self.own, shared))
        return victim

    def retrained(self, spec: VictimSpec, number: int) -> WorkerContext:
        """Return a context in which a shipped victim was trained anew with other rounding errors.

        ``number``: which of them. Victims are kept, what is fitted on them is not; pools are the same.
        """
        splits = self.victim(spec).splits
        victim: Victim = self.once(
            ("retrained", spec, number), partial(retrained_victim, spec, splits, number)
        )
        other = WorkerContext(self.data_root)
        other.add({key: made for key, made in self._kept.items() if isinstance(made, Pool)})
        other.add({spec: victim})
        return other

    def truth(self, spec: VictimSpec) -> NDArray[np.float64]:
        """Return the undefended victim's (n, classes) answers to the test split."""
        victim = self.victim(spec)
        answers: NDArray[np.float64] = self.once(
            ("truth", spec), lambda: victim.probabilities(victim.splits.test.x)
        )
        return answers

    def pool(self, spec: VictimSpec, name: str, seed: int) -> Pool:
        """Return the attacker's pool, with inputs of this victim's shape."""
        load = partial(
            query_pools.load,
            name,
            victim_data=spec.data,
            splits=self.victim(spec).splits,
            seed=seed,
            root=self.data_root,
        )
        pool: Pool = self.once((spec, name, seed), partial(self._expected, spec, load))
        return pool

    def has_pool(self, spec: VictimSpec, name: str, seed: int) -> bool:
        """Return whether a pool makes sense for this victim: images make none where inputs are a table."""
        try:
            self.pool(spec, name, seed)
        except NotApplicable:
            return False
        return True

    def _expected(self, spec: VictimSpec, load: Callable[[], Pool]) -> Pool:
        pool = load()
        self.victim(spec).expect(pool.x)
        return pool

    def stack(self, spec: VictimSpec, defense: tuple[str, ...], seed: int) -> DefenseStack:
        """Return the defenses, fitted on this victim's calibration split."""
        stack: DefenseStack = self.once((spec, defense, seed), partial(self._fitted, spec, defense, seed))
        return stack

    def _fitted(self, spec: VictimSpec, defense: tuple[str, ...], seed: int) -> DefenseStack:
        stack = DefenseStack(tuple(build(plugins.defenses, text) for text in defense))
        if stack.defenses:

            def costs(member: Defense) -> dict[str, tuple[float, float]]:
                # One dictionary for each class, since a defense may write into it whatever it wants.
                key = ("costs", spec, seed, member.plugin_class)
                found: dict[str, tuple[float, float]] = self.once(key, dict)
                return found

            fit_stack(
                stack,
                self.calibration(spec, seed),
                costs,
                self.victim(spec).probabilities,
                auxiliary=partial(self.auxiliary, spec, seed),
            )
        return stack

    def auxiliary(self, spec: VictimSpec, seed: int, name: str) -> Auxiliary:
        """Return the defender's auxiliary data called ``name``, with the victim's answers."""
        kind = auxiliary.resolved(name, self.victim(spec).splits.inputs.layout)
        found: Auxiliary = self.once(
            ("auxiliary", spec, kind, seed), partial(self._auxiliary, spec, seed, kind)
        )
        return found

    def _auxiliary(self, spec: VictimSpec, seed: int, kind: str) -> Auxiliary:
        victim = self.victim(spec)
        x = auxiliary.load(
            kind,
            victim_data=spec.data,
            splits=victim.splits,
            seed=derive(seed, "auxiliary"),
            root=self.data_root,
        )
        return Auxiliary(kind, x, victim.probabilities(x))

    def calibration(self, spec: VictimSpec, seed: int) -> Calibration:
        """Return the data that defenses are fitted on."""
        calibration: Calibration = self.once(
            ("calibration", spec, seed), partial(self._calibration, spec, seed)
        )
        return calibration

    def _calibration(self, spec: VictimSpec, seed: int) -> Calibration:
        victim = self.victim(spec)
        splits = victim.splits
        return Calibration(
            train_inputs=splits.train.x,
            train_labels=splits.train.y,
            inputs=splits.calibration.x,
            labels=splits.calibration.y,
            probabilities=victim.probabilities(splits.calibration.x),
            read_features=victim.reader(cached=False),
            seed=derive(seed, "fit", str(spec)),
            perturb=victim.perturb,
            space=splits.space,
        )

    def api(
        self,
        spec: VictimSpec,
        defense: tuple[str, ...],
        seed: int,
        repeat: int,
        *,
        budget: int | None = None,
        shows: str = "probabilities",
        knowledge: str = "none",
        recorded: bool = False,
        watch: Watch | None = None,
    ) -> DefendedAPI:
        """Return a new API: without queries so far, and with the defense's noise stream at its start."""
        return DefendedAPI(
            self.victim(spec),
            self.stack(spec, defense, seed),
            budget=budget,
            seed=derive(seed, "defense", *defense, repeat),
            shows=shows,
            knowledge=knowledge,
            recorded=recorded,
            watch=watch,
        )

    def deployed(
        self, spec: VictimSpec, defense: tuple[str, ...], seed: int, repeat: int
    ) -> NDArray[np.float64]:
        """Return the defended answers to the test split, sent by benign clients of 100 queries each."""
        if not self.stack(spec, defense, seed).claims.stochastic:
            repeat = 0
        key = ("deployed", spec, defense, seed, repeat)
        answers: NDArray[np.float64] = self.once(key, partial(self._deploy, spec, defense, seed, repeat))
        return answers

    def _deploy(
        self, spec: VictimSpec, defense: tuple[str, ...], seed: int, repeat: int
    ) -> NDArray[np.float64]:
        api = self.api(spec, defense, seed, repeat)
        x = self.victim(spec).splits.test.x
        starts = range(0, len(x), CLIENT_QUERIES)
        parts = [api.predict(x[s : s + CLIENT_QUERIES], client=f"honest-{s}") for s in starts]
        api.close()
        return np.concatenate(parts)
