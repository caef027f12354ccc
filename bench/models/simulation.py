"""Defenses that an attacker simulates: fresh instances, fitted on the attacker's own data alone.

Here is no way to a victim, to its data, or to a defense that answers for it: what is simulated is made by
name and parameters, and everything that it is fitted on comes from the attacker, as an
:class:`attacks.base.Shadow`.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from attacks.base import Known, NetworkPredictor, Shadow
from bench import plugins
from bench.calls import format_call
from bench.data import auxiliary
from bench.errors import BrokenClaimError, NotApplicable, PluginError
from bench.inputs import InputSpace
from bench.models.checked_stack import CheckedStack, fit_stack
from bench.models.plugin_guard import build
from bench.seeds import derive
from defenses.base import Auxiliary, Batch, Calibration, Defense, DefenseStack, StrengthRange

Images = NDArray[np.float32]
Array = NDArray[np.float64]
T = TypeVar("T")

KIND = "simulation"
"""The generator in place of NumPy's global one: not that of the API's own defenses, which would move."""
WIDE = 100
"""Ratio of a range's ends from which strengths are drawn evenly in their logarithm."""


class SimulatedDefenses:
    """Defenses by name, fitted on an attacker's own data: see :class:`attacks.base.Simulation`.

    ``known``: in the order in which they answer; parameters that are None are drawn, see
    :func:`drawn_parameters`. ``space``: what inputs may be. ``classes``: of the answers. Raises NotApplicable
    for a defense that cannot be simulated, and PluginError for one that breaks a promise.
    """

    def __init__(self, known: Sequence[Known], shadow: Shadow, space: InputSpace, classes: int) -> None:
        _require_own_data(shadow, space, classes)
        self.known = tuple(_with_parameters(each, shadow.seed, place) for place, each in enumerate(known))
        stack = DefenseStack(tuple(map(_built, self.known)))
        predictor = shadow.predictor
        network = predictor if isinstance(predictor, NetworkPredictor) else None
        self._read_features = None if network is None else _remembering_features(network)
        calibration = Calibration(
            train_inputs=shadow.train_inputs,
            train_labels=shadow.train_labels,
            inputs=shadow.inputs,
            labels=shadow.labels,
            probabilities=predictor(shadow.inputs),
            read_features=self._read_features,
            seed=shadow.seed,
            perturb=None if network is None else _remembering_perturb(network),
            space=space,
        )

        def stand_in(name: str) -> Auxiliary:
            # The defender's are secret: other inputs of the same kind, made from the attacker's own.
            seed = derive(shadow.seed, "auxiliary", name)
            x = auxiliary.made(name, shadow.train_inputs, space, seed)
            return Auxiliary(name, x, predictor(x))

        names = " and ".join(each.name for each in self.known)
        try:
            with _without_warnings():
                fit_stack(stack, calibration, lambda _: {}, predictor, kind=KIND, auxiliary=stand_in)
        except NotApplicable as reason:
            raise NotApplicable(f"{names} cannot be simulated by the attacker: {reason}") from reason
        except BrokenClaimError:
            raise
        except PluginError as error:
            raise NotApplicable(
                f"{names} cannot be simulated by the attacker, on {len(shadow.train_inputs)} inputs of their "
                f"own: {error}"
            ) from error
        claims = stack.claims
        self.keeps_label, self.randomized = claims.keeps_label, claims.stochastic
        self._seed = shadow.seed
        self._stack = CheckedStack(stack, shadow.seed, kind=KIND)

    def answer(self, x: Images, rows: Array, seed: int = 0) -> Array:
        """Return defended answers (n, classes) to ``x`` (n, …), whose clean answers are ``rows``.

        Rejected ones are NaN rows. ``seed``: of the noise. The same arguments give the same bits.
        """
        clean = np.array(rows, dtype=np.float64)
        batch = Batch(
            inputs=np.array(x, dtype=np.float32, order="C"),
            raw=clean,
            probabilities=clean,
            client="attacker",
            seed=derive(self._seed, "simulated noise", seed),
            read_features=self._read_features,
        )
        return self._stack.answer(batch).probabilities


def drawn_parameters(family: type[Defense], seed: int) -> dict[str, Any]:
    """Return parameters of a defense of which only the name is known: the prior of an attacker.

    The parameter of its strength range is drawn between the two ends, evenly, or evenly in its logarithm
    where one end is at least 100 times the other; the other parameters have their defaults. Raises
    NotApplicable for a parameter without a default.
    """
    values: dict[str, Any] = {}
    # Of the class, since a parameter may be called strength, too.
    strength: StrengthRange | None = family.strength
    for name, parameter in family.parameters().items():
        if parameter.default is not parameter.empty:
            values[name] = parameter.default
        elif strength is None or name != strength.parameter:
            raise NotApplicable(
                f"{family.name} cannot be simulated by an attacker who does not know its parameters: "
                f"{name} has no default"
            )
    if strength is not None:
        low, high = sorted(strength.ends(values))
        share = float(np.random.default_rng(seed).random())
        wide = low > 0 and high >= WIDE * low
        value = low * (high / low) ** share if wide else low + (high - low) * share
        # The end itself may be rounded out of the range.
        value = min(max(value, low), high)
        values[strength.parameter] = round(value) if strength.whole else float(value)
    return values


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Log no warnings inside the block: they would be of the attacker's own data, which are few."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        yield
    finally:
        logging.disable(before)


def _with_parameters(known: Known, seed: int, place: int) -> Known:
    """Return ``known`` with parameters, drawn where it has none; ``place``: its position in the stack."""
    if known.parameters is not None:
        return known
    return Known(known.name, drawn_parameters(_family(known.name), derive(seed, "parameters", place)))


def _family(name: str) -> type[Defense]:
    if name not in plugins.defenses.names():
        raise NotApplicable(f"{name} cannot be simulated by the attacker: no plugin has that name")
    family: type[Defense] = plugins.defenses.get(name)
    return family


def _built(known: Known) -> Defense:
    _family(known.name)
    built: Defense = build(plugins.defenses, format_call(known.name, known.parameters or {}))
    return built


def _require_own_data(shadow: Shadow, space: InputSpace, classes: int) -> None:
    """Raise ValueError for arrays of a shadow that no defense can be fitted on."""
    for what, x, labels in (
        ("train_inputs", shadow.train_inputs, shadow.train_labels),
        ("inputs", shadow.inputs, shadow.labels),
    ):
        if not len(x) or len(x) != len(labels):
            raise ValueError(
                f"a shadow needs inputs with one label each, got {len(x)} {what} and {len(labels)}"
            )
        if problem := space.problem(x):
            raise ValueError(f"a shadow's {what} {problem}")
        if labels.min() < 0 or labels.max() >= classes:
            raise ValueError(
                f"a shadow's labels must be in [0, {classes}), got {labels.min()} to {labels.max()}"
            )


def _last_remembered(evaluate: Callable[[Images], T]) -> Callable[[Images], T]:
    """Return ``evaluate`` with its last result kept: simulations answer the same inputs many times."""
    last: dict[bytes, T] = {}

    def remembered(x: Images) -> T:
        key = hashlib.blake2b(np.ascontiguousarray(x).data, digest_size=16).digest()
        if key not in last:
            found = evaluate(x)
            last.clear()
            last[key] = found
        return last[key]

    return remembered


def _remembering_features(predictor: NetworkPredictor) -> Callable[[Images], Sequence[Images]]:
    features = _last_remembered(predictor.features)
    # A defense may write into what it reads.
    return lambda x: [layer.copy() for layer in features(x)]


def _remembering_perturb(
    predictor: NetworkPredictor,
) -> Callable[[float, int], Callable[[Images], Array]]:
    def perturbed(scale: float, seed: int) -> Callable[[Images], Array]:
        answers = _last_remembered(predictor.perturbed(scale, seed))
        return lambda x: answers(x).copy()

    return perturbed
