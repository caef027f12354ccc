"""What a defense leaves of the confidence by which users tell inputs out of distribution."""

from __future__ import annotations

from collections.abc import Mapping

from bench.metrics.intervals import Interval
from bench.metrics.ood import ood_auroc, ood_auroc_lost, served_confidence
from bench.runner.context import WorkerContext
from bench.tasks import DefenseEvaluation
from defenses.base import Answers


def ood_losses(
    evaluation: DefenseEvaluation, context: WorkerContext, test: Answers, pools: Mapping[str, Answers]
) -> dict[str, Interval]:
    """Return the AUROC of confidence for each pool out of distribution, and what of it is lost, by metric.

    ``test``: the answers to the test split. ``pools``: those to the pools of the evaluation, of one repeat
    as well. Without a defense nothing is lost, so that only the first is returned.
    """
    victim = context.victim(evaluation.victim)
    usual = served_confidence(test.probabilities)
    usual_before = served_confidence(victim.probabilities(victim.splits.test.x))
    found = {}
    for name in evaluation.pools:
        pool = context.pool(evaluation.victim, name, evaluation.seed)
        if pool.access == "in-distribution" or not len(pool.x):
            continue
        foreign = served_confidence(pools[name].probabilities)
        found[f"honest.ood_auroc.{name}"] = ood_auroc(usual, foreign)
        if evaluation.defense:
            before = usual_before, served_confidence(victim.probabilities(pool.x))
            found[f"honest.ood_auroc_lost.{name}"] = ood_auroc_lost(before, (usual, foreign))
    return found
