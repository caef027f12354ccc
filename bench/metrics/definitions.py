"""Every metric that is stored and shown: its labels, unit, digits and direction, and where it is shown.

Reports, Pareto panels, the regression gate and replications read this table. To add a metric, compute it
where it is measured and add one entry here.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cache, partial
from typing import Literal

Table = Literal[
    "surrogate",  # further metrics of surrogates, next to fidelity
    "imbalance",  # further metrics of surrogates that do not depend on how common a label is
    "disagreement",  # how far the surrogates of a cell's repeats disagree
    "group",  # what a group of benign users loses, one row a group
    "criteria",  # what decides whether benign users can afford a defense
    "utility",  # what a defense does to answers for benign users
    "ood",  # what confidence still says of inputs out of distribution, by pool
    "detector",  # benign queries and clients that are rejected or flagged
    "detection",  # what a detector flags, by pool
    "membership",  # membership inference, one row an attack
    "gate difference",  # regression gate: compared with a tolerance, in the direction that is worse
    "gate fact",  # regression gate: statistics of answers, which should not change
]


@dataclass(frozen=True)
class Panel:
    """A panel of the Pareto figure that draws fidelity against a utility loss.

    ``label``: of its axis. ``digits``: in the table below. ``added``: the metric's value without any
    defense is subtracted.
    """

    label: str
    digits: int = 3
    added: bool = False


@dataclass(frozen=True)
class Metric:
    """What is known about a metric.

    ``name``: as it is stored; ``*`` stands for a pool or a group of users. ``label``: heading of its column,
    without unit. ``unit``: "%" for a share and "pp" for a difference of shares, both stored as fractions and
    shown times 100; else as stored. ``higher_is_better``: for whoever runs the API; None where neither is.
    ``words``: the name in rows of the regression gate, by default ``label``; ``{}``
    stands for the pool. ``largest``: the largest possible value, by default 1 for a share.
    """

    name: str
    label: str
    unit: str = ""
    digits: int = 3
    higher_is_better: bool | None = None
    tables: tuple[Table, ...] = ()
    words: str = ""
    panel: Panel | None = None
    largest: float = math.inf

    @property
    def percent(self) -> bool:
        """Whether it is stored as a fraction and shown times 100."""
        return self.unit in ("%", "pp")

    @property
    def scale(self) -> int:
        """What a stored value is multiplied by to be shown: 100 or 1."""
        return 100 if self.percent else 1

    @property
    def signed(self) -> bool:
        """Whether it is a difference of shares, which may be negative."""
        return self.unit == "pp"

    @property
    def heading(self) -> str:
        """The heading of its column, with the unit if values are shown times 100."""
        return f"{self.label} ({self.unit})" if self.percent else self.label

    def words_for(self, name: str) -> str:
        """Return the words of the metric stored as ``name``, its pool filled in."""
        matched = re.fullmatch(_pattern(self.name), name)
        return (self.words or self.label).format(*matched.groups() if matched else ())


_share = partial(Metric, unit="%", digits=1, largest=1.0)
_points = partial(Metric, unit="pp", digits=1, largest=1.0)

DEFINITIONS = (
    _share("extraction.fidelity", "fidelity", higher_is_better=False),
    _share("extraction.balanced_fidelity", "balanced fidelity", higher_is_better=False),
    _share("extraction.fidelity_half", "fidelity after half of the training", higher_is_better=False),
    _share("extraction.fidelity_unqueried", "fidelity on inputs not queried", higher_is_better=False),
    _share("extraction.fidelity_on_queries", "fidelity on queries", higher_is_better=False),
    _share("extraction.answered", "queries answered", higher_is_better=False),
    _share(
        "extraction.agreement_deployed", "agrees with deployed", higher_is_better=False, tables=("surrogate",)
    ),
    _share(
        "extraction.fidelity_where_victim_errs",
        "where victim errs",
        higher_is_better=False,
        tables=("surrogate",),
    ),
    _share("extraction.fidelity_low_margin", "low margin", higher_is_better=False, tables=("surrogate",)),
    _share("extraction.accuracy", "accuracy", higher_is_better=False, tables=("surrogate",)),
    _share("extraction.precision", "precision", higher_is_better=False, tables=("surrogate",)),
    _share("extraction.recall", "recall", higher_is_better=False, tables=("surrogate",)),
    _share("extraction.f1", "F1", higher_is_better=False, tables=("surrogate",)),
    Metric("extraction.l1", "L1", higher_is_better=True, tables=("surrogate",)),
    Metric("extraction.kl", "KL", unit="nats", higher_is_better=True, tables=("surrogate",)),
    _share("extraction.macro_f1", "macro F1, victim's labels", higher_is_better=False, tables=("imbalance",)),
    Metric(
        "extraction.auc",
        "AUC, victim's label",
        higher_is_better=False,
        tables=("imbalance",),
        largest=1.0,
    ),
    Metric(
        "extraction.spearman",
        "Spearman of log-odds",
        higher_is_better=False,
        tables=("imbalance",),
        largest=1.0,
    ),
    _share(
        "extraction.fidelity_uniform",
        "on uniform inputs",
        higher_is_better=False,
        tables=("imbalance",),
    ),
    # These two are computed from the labels of all repeats, and stored in no record.
    _share("extraction.ambiguity", "ambiguity", tables=("disagreement",)),
    _share("extraction.discrepancy", "discrepancy", tables=("disagreement",)),
    Metric("extraction.l1_answers", "L1 of the answers", higher_is_better=True),
    Metric("extraction.l1_labels", "L1 of their labels", higher_is_better=True),
    Metric("extraction.l1_restored", "L1 of restored answers", higher_is_better=True),
    Metric("extraction.loss", "loss", unit="nats", higher_is_better=True),
    _points(
        "honest.accuracy_lost",
        "accuracy lost",
        higher_is_better=False,
        tables=("criteria",),
    ),
    _points(
        "honest.balanced_accuracy_lost",
        "balanced accuracy lost",
        higher_is_better=False,
        tables=("criteria",),
    ),
    _share("honest.balanced_accuracy", "balanced accuracy", higher_is_better=True),
    _share("honest.accuracy_undefended", "accuracy without defense", higher_is_better=True),
    _share(
        "honest.top1_kept",
        "top-1 kept",
        higher_is_better=True,
        tables=("utility", "gate difference", "gate fact"),
    ),
    _share("honest.accuracy", "accuracy", higher_is_better=True, tables=("utility", "gate difference")),
    Metric(
        "honest.l1_mean",
        "mean L1",
        higher_is_better=False,
        tables=("utility", "gate fact"),
        panel=Panel("mean L1 of benign answers"),
    ),
    Metric(
        "honest.l1_max", "max L1", words="largest L1", higher_is_better=False, tables=("utility", "gate fact")
    ),
    Metric(
        "honest.nll",
        "NLL",
        unit="nats",
        words="negative log-likelihood",
        higher_is_better=False,
        tables=("utility", "gate difference"),
        panel=Panel("negative log-likelihood added", added=True),
    ),
    Metric(
        "honest.ece",
        "ECE",
        words="calibration error",
        higher_is_better=False,
        tables=("utility", "gate difference"),
        largest=1.0,
    ),
    Metric(
        "honest.aurc",
        "AURC",
        higher_is_better=False,
        tables=("utility",),
        panel=Panel("area under risk-coverage curve added", digits=4, added=True),
        largest=1.0,
    ),
    Metric(
        "honest.aurc_added", "AURC added", digits=4, higher_is_better=False, largest=1.0, tables=("criteria",)
    ),
    Metric("honest.auroc", "AUROC", higher_is_better=True, largest=1.0),
    Metric("honest.average_precision", "average precision", higher_is_better=True, largest=1.0),
    Metric("honest.average_precision_lost", "average precision lost", higher_is_better=False, largest=1.0),
    Metric("honest.auroc_lost", "AUROC lost", higher_is_better=False, largest=1.0, tables=("criteria",)),
    Metric("honest.brier", "Brier score", higher_is_better=False, largest=2.0),
    Metric(
        "honest.brier_added", "Brier score added", higher_is_better=False, largest=2.0, tables=("criteria",)
    ),
    Metric("honest.ece_scaled", "ECE after temperature scaling", higher_is_better=False, largest=1.0),
    Metric(
        "honest.ood_auroc.*",
        "AUROC of confidence",
        words="AUROC of confidence, {}",
        higher_is_better=True,
        largest=1.0,
        tables=("ood",),
    ),
    Metric(
        "honest.ood_auroc_lost.*",
        "AUROC lost",
        words="AUROC of confidence lost, {}",
        higher_is_better=False,
        largest=1.0,
        tables=("ood",),
    ),
    _share("honest.changed", "changes side of a threshold", higher_is_better=False, tables=("criteria",)),
    _share(
        "honest.changed.*.*",
        "changes side of the threshold",
        words="changes side of {}.{}",
        higher_is_better=False,
    ),
    _share("honest.commonest_label", "commonest label"),
    _points("honest.group.*.accuracy_lost", "accuracy lost", higher_is_better=False, tables=("group",)),
    _points(
        "honest.group.*.accuracy_lost_more",
        "more than all others",
        higher_is_better=False,
        tables=("group",),
    ),
    _points("honest.group.*.balanced_accuracy_lost", "balanced accuracy lost", higher_is_better=False),
    _share(
        "honest.group.*.changed", "changes side of a threshold", higher_is_better=False, tables=("group",)
    ),
    _points("honest.group.*.changed_more", "more than all others", higher_is_better=False, tables=("group",)),
    Metric("honest.group.*.auroc_lost", "AUROC lost", higher_is_better=False, tables=("group",), largest=1.0),
    Metric(
        "honest.group.*.average_precision_lost",
        "average precision lost",
        higher_is_better=False,
        largest=1.0,
    ),
    Metric(
        "honest.group.*.brier_added",
        "Brier score added",
        higher_is_better=False,
        tables=("group",),
        largest=2.0,
    ),
    _share(
        "honest.refused",
        "queries rejected",
        words="rejected",
        higher_is_better=False,
        tables=("criteria", "detector", "gate difference"),
        panel=Panel("benign queries rejected (%)", digits=1),
    ),
    _share(
        "honest.flagged",
        "queries flagged",
        words="false alarms",
        higher_is_better=False,
        tables=("detector", "gate difference"),
    ),
    _share("honest.client_refused", "clients rejected", higher_is_better=False, tables=("detector",)),
    _share("honest.client_flagged", "clients flagged", higher_is_better=False, tables=("detector",)),
    _share("detection.*", "queries flagged", words="flagged, {}", tables=("detection", "gate fact")),
    _share("detection.*.client", "clients flagged", tables=("detection",)),
    Metric(
        "detection.*.queries_until", "queries until the first flag (median)", digits=0, tables=("detection",)
    ),
    Metric("detection.*.auroc", "AUROC against benign queries", tables=("detection",), largest=1.0),
    Metric("contract.support", "entries that are not zero", tables=("gate fact",)),
    Metric("contract.entropy", "entropy (nats)", unit="nats", tables=("gate fact",)),
    Metric("contract.alone", "answered alone as in a batch", tables=("gate fact",), largest=1.0),
    Metric("contract.again", "answered again as before", tables=("gate fact",), largest=1.0),
    Metric("contract.latency", "latency class", digits=0, tables=("gate fact",)),
    Metric(
        "contract.refused.*", "queries rejected", words="rejected, {}", tables=("gate fact",), largest=1.0
    ),
    _share("membership.accuracy", "accuracy", higher_is_better=False, tables=("membership",)),
    _share(
        "membership.balanced_accuracy", "balanced accuracy", higher_is_better=False, tables=("membership",)
    ),
    Metric("membership.auc", "AUC", higher_is_better=False, tables=("membership",), largest=1.0),
    _share("membership.tpr_at_1", "TPR at 1 % FPR", higher_is_better=False, tables=("membership",)),
    _share("membership.tpr_at_0.1", "TPR at .1 % FPR", higher_is_better=False, tables=("membership",)),
    _share("membership.fpr_at_1", "FPR at 1 %"),
    _share("membership.fpr_at_0.1", "FPR at .1 %"),
    _points("membership.gap", "train–test gap", higher_is_better=False, tables=("membership",)),
    _share("membership.train_accuracy", "accuracy on training data"),
    _share("membership.test_accuracy", "accuracy on test data"),
    _share("membership.without_victim_accuracy", "without the victim: accuracy", tables=("membership",)),
    Metric("membership.without_victim_auc", "without the victim: AUC", tables=("membership",), largest=1.0),
    Metric("membership.records", "judged records", digits=0),
)
METRICS: dict[str, Metric] = {metric.name: metric for metric in DEFINITIONS}
"""Every metric by name."""


def find(name: str) -> Metric:
    """Return the metric stored as ``name``; one without unit for a fact that only one attack stores."""
    return (matching(name) or [Metric(name, name)])[0]


@cache
def matching(name: str) -> list[Metric]:
    """Return the definitions that a stored name fits: one, or none for a fact that only one attack stores."""
    return [metric for metric in DEFINITIONS if re.fullmatch(_pattern(metric.name), name)]


def shown_in(table: Table) -> list[Metric]:
    """Return the metrics that a table shows, in order."""
    return [metric for metric in DEFINITIONS if table in metric.tables]


def _pattern(name: str) -> str:
    """Return the regular expression of the names that ``name`` stands for; a group for each ``*``."""
    return re.escape(name).replace(r"\*", "([^.]+)")
