"""``moatbench.assess``: an assessment of a model and data that are in memory."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from bench.cli.assessing import Request, Say, start
from bench.data.user_data import data_of
from bench.models.determinism import single_thread
from bench.models.model_files import model_of
from bench.models.own_victims import assembled
from bench.models.victim_options import VictimOptions
from bench.records import Record

IN_MEMORY = "in-memory"
"""What stands for the files in the matrix of such an assessment."""


@dataclass(frozen=True)
class Result:
    """The outcome of an assessment.

    ``recommendation``: in plain text, as ``moatbench assess`` prints it. ``report``: path of ``report.md``.
    ``store``: path of the results. ``table``: a row for each cell and metric, with the columns of
    ``moatbench export``.
    """

    recommendation: str
    report: Path
    store: Path
    table: pd.DataFrame


def assess(
    model: Any,
    x: Any,
    y: Any = None,
    *,
    name: str = "model",
    minutes: float = 10,
    sells: Literal["labels", "ranking", "probabilities"] = "probabilities",
    budgets: Sequence[int] = (),
    outputs: Literal["probabilities", "logits", "labels"] = "probabilities",
    threshold: float | None = None,
    out: Path | str | None = None,
    say: Say = print,
) -> Result:
    """Return the assessment of a model that is in memory, run in this process alone.

    ``model``: a function from inputs to answers, an estimator of scikit-learn, or an ART classifier. ``x``: a
    data frame or an array (n, …) of inputs that the model was not trained on; ``y``: (n,) their true labels,
    or None. ``minutes``: that it may take. ``sells``: what users pay for. ``budgets``: numbers of queries;
    empty to choose them. ``outputs``, ``threshold``: see :class:`bench.models.victim_options.VictimOptions`.
    ``out``: folder of matrix, store and report; None for ``results/NAME``. ``say``: gets each line of what is
    seen and planned. Raises UsageError, one sentence that says what to do, for whatever cannot be assessed.
    """
    options = VictimOptions(model=IN_MEMORY, data=IN_MEMORY, outputs=outputs, threshold=threshold)
    request = Request(options, name, minutes=minutes, sells=sells, budgets=tuple(sorted(set(budgets))))
    assessment = start(request, out=None if out is None else Path(out), jobs=1, say=say)
    with single_thread():
        victim = assembled(model_of(model, "the model"), data_of(x, y), options, name=name, seed=0)
        victim.check()
    assessment.brought = victim
    _, last = assessment.run(f"moatbench.assess(…, name={shlex.quote(name)})", _silent)
    *recommendation, report = last
    table = pd.read_parquet(assessment.out / "results.parquet")
    return Result("\n".join(recommendation), Path(report), assessment.store, table)


def _silent(records: Iterable[Record], *_: int, **__: int) -> Iterable[Record]:
    return records
