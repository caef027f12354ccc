"""moatbench's public names, on one page. Plugins and other people's code import only this."""

from attacks.base import (
    Api,
    Attack,
    Extraction,
    Known,
    Learner,
    LearnerFactory,
    MembershipInference,
    Pool,
    Records,
    Streams,
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
from bench.models.victims import Victim
from bench.plugins import Plugin
from bench.seeds import legacy_numpy, random_state
from defenses.base import (
    Answers,
    Batch,
    Calibration,
    Claims,
    Defense,
    OutputDefense,
    Path,
    ScreenDefense,
    Stack,
)

__all__ = [
    "Answers",
    "Api",
    "Attack",
    "Batch",
    "BudgetError",
    "Calibration",
    "Claims",
    "Defense",
    "Extraction",
    "Known",
    "Labelled",
    "Learner",
    "LearnerFactory",
    "MembershipInference",
    "MissingDataError",
    "MoatbenchError",
    "OutputDefense",
    "Path",
    "Plugin",
    "Pool",
    "Records",
    "ScreenDefense",
    "Splits",
    "Stack",
    "StoreError",
    "Streams",
    "Target",
    "TransferSet",
    "UsageError",
    "Victim",
    "VictimError",
    "__version__",
    "legacy_numpy",
    "random_state",
]
