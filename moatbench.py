"""moatbench's public names, on one page. Plugins and other people's code import only this."""

import warnings
from typing import Any

from attacks.base import (
    Api,
    Attack,
    Extraction,
    Known,
    MembershipInference,
    Pool,
    RandomSeeds,
    Records,
    Surrogate,
    SurrogateFactory,
    Target,
    TransferSet,
)
from bench import __version__
from bench.data.datasets import Labelled, Splits
from bench.errors import (
    BudgetError,
    MissingDataError,
    MoatbenchError,
    StoreError,
    UsageError,
    VictimError,
)
from bench.inputs import Column, InputSpace
from bench.models.victims import Victim
from bench.plugins import Plugin
from bench.seeds import legacy_numpy, random_state
from defenses import predicates
from defenses.base import (
    Answers,
    Batch,
    Calibration,
    Claims,
    Defense,
    DefenseStack,
    OutputDefense,
    Predicate,
    ScreenDefense,
    StrengthRange,
)

__all__ = [
    "Answers",
    "Api",
    "Attack",
    "Batch",
    "BudgetError",
    "Calibration",
    "Claims",
    "Column",
    "Defense",
    "DefenseStack",
    "Extraction",
    "InputSpace",
    "Known",
    "Labelled",
    "MembershipInference",
    "MissingDataError",
    "MoatbenchError",
    "OutputDefense",
    "Plugin",
    "Pool",
    "Predicate",
    "RandomSeeds",
    "Records",
    "ScreenDefense",
    "Splits",
    "StoreError",
    "StrengthRange",
    "Surrogate",
    "SurrogateFactory",
    "Target",
    "TransferSet",
    "UsageError",
    "Victim",
    "VictimError",
    "__version__",
    "legacy_numpy",
    "predicates",
    "random_state",
]

_RENAMED = {
    "Learner": "Surrogate",
    "LearnerFactory": "SurrogateFactory",
    "Path": "StrengthRange",
    "Stack": "DefenseStack",
    "Streams": "RandomSeeds",
}
"""Names of 0.1, which work until 0.3."""


def __getattr__(name: str) -> Any:
    """Return a renamed class under its old name, with a warning that says the new one."""
    if name not in _RENAMED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    new = _RENAMED[name]
    warnings.warn(f"moatbench.{name} is now moatbench.{new}", FutureWarning, stacklevel=2)
    return globals()[new]
