"""What a worker keeps between cells: victims, pools, fitted defenses and honest answers, each made once."""

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
from bench.data import query_pools
from bench.models.defended_api import DefendedAPI
from bench.models.victims import Victim, load_victim
from bench.seeds import derive
from bench.tasks import VictimSpec
from defenses.base import Calibration, DefenseStack

T = TypeVar("T")
HONEST_CLIENT = 100
"""Queries of one honest client."""


@dataclass
class WorkerContext:
    """Loads on demand and remembers. ``memo``: folder of trainings that cells share."""

    data_root: Path
    training_cache: Path | None = None
    _kept: dict[Any, Any] = field(default_factory=dict, repr=False)

    def once(self, key: Any, make: Any) -> Any:
        """Return what ``make()`` gave when ``key`` was first asked for."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def carried(self) -> dict[Any, Any]:
        """Return the victims and pools that were loaded so far, for a workbench that cannot load them."""
        return {key: made for key, made in self._kept.items() if isinstance(made, Victim | Pool)}

    def carry(self, things: Mapping[Any, Any]) -> None:
        """Take over what another workbench has loaded."""
        self._kept |= things

    def forget(self) -> None:
        """Let go of everything that was loaded or made."""
        self._kept.clear()

    def victim(self, spec: VictimSpec) -> Victim:
        """Return the trained victim."""
        victim: Victim = self.once(spec, partial(load_victim, spec, self.data_root))
        return victim

    def truth(self, spec: VictimSpec) -> NDArray[np.float64]:
        """Return what the undefended victim says of the test split."""
        victim = self.victim(spec)
        answers: NDArray[np.float64] = self.once(
            ("truth", spec), lambda: victim.probabilities(victim.splits.test.x)
        )
        return answers

    def pool(self, spec: VictimSpec, name: str, seed: int) -> Pool:
        """Return a thief's pool, shaped for this victim."""
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

    def _expected(self, spec: VictimSpec, load: Callable[[], Pool]) -> Pool:
        pool = load()
        self.victim(spec).expect(pool.x)
        return pool

    def stack(self, spec: VictimSpec, defense: tuple[str, ...], seed: int) -> DefenseStack:
        """Return the defenses, fitted on this victim's calibration split."""
        stack: DefenseStack = self.once((spec, defense, seed), partial(self._fitted, spec, defense, seed))
        return stack

    def _fitted(self, spec: VictimSpec, defense: tuple[str, ...], seed: int) -> DefenseStack:
        stack = DefenseStack(tuple(plugins.defenses.build(text) for text in defense))
        if stack.defenses:
            stack.fit(self.once(("calibration", spec, seed), partial(self._calibration, spec, seed)))
        return stack

    def _calibration(self, spec: VictimSpec, seed: int) -> Calibration:
        victim = self.victim(spec)
        splits = victim.splits
        return Calibration(
            train_inputs=splits.train.x,
            train_labels=splits.train.y,
            inputs=splits.calibration.x,
            labels=splits.calibration.y,
            probabilities=victim.probabilities(splits.calibration.x),
            read_features=victim.features,
            seed=derive(seed, "fit", str(spec)),
            perturb=victim.perturb,
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
    ) -> DefendedAPI:
        """Return a fresh API: no query sent, the defense's noise stream at its start."""
        return DefendedAPI(
            self.victim(spec),
            self.stack(spec, defense, seed),
            budget=budget,
            seed=derive(seed, "defense", *defense, repeat),
            shows=shows,
            knowledge=knowledge,
        )

    def deployed(
        self, spec: VictimSpec, defense: tuple[str, ...], seed: int, repeat: int
    ) -> NDArray[np.float64]:
        """Return what honest clients of :data:`HONEST_CLIENT` queries each get on the test split."""
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
        starts = range(0, len(x), HONEST_CLIENT)
        return np.concatenate([api.predict(x[s : s + HONEST_CLIENT], client=f"honest-{s}") for s in starts])
