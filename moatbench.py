"""moatbench's public names, on one page. Plugins and other people's code import only this."""

import importlib
import warnings
from typing import TYPE_CHECKING, Any

from attacks.base import (
    Api,
    Attack,
    Extraction,
    Known,
    MembershipInference,
    Pool,
    RandomSeeds,
    Records,
    Shadow,
    Simulation,
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

if TYPE_CHECKING:
    from bench.cli.in_memory import Result, assess

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
    "Result",
    "ScreenDefense",
    "Shadow",
    "Simulation",
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
    "assess",
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


_LAZY = {"Result": "bench.cli.in_memory", "assess": "bench.cli.in_memory"}
"""Names that are imported when they are used: no plugin's result depends on them."""


def __getattr__(name: str) -> Any:
    """Return a name that is imported late, or a renamed class under its old name, with a warning."""
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    if name not in _RENAMED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    new = _RENAMED[name]
    warnings.warn(f"moatbench.{name} is now moatbench.{new}", FutureWarning, stacklevel=2)
    return globals()[new]
