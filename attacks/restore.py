"""Restoration: whatever defense is known is simulated, and its inverse is learnt from simulated answers."""

from __future__ import annotations

from typing import Literal

import numpy as np

from attacks.base import (
    Api,
    Array,
    Extraction,
    Images,
    Pool,
    RandomSeeds,
    Restoration,
    SurrogateFactory,
    TransferSet,
)
from attacks.labels import has_single_maximum
from attacks.restoring.choice import defended, predicts_as_well
from attacks.restoring.pairs import (
    EFFORT,
    OWN,
    Mask,
    ShadowModels,
    genuine_pairs,
    simulated_instances,
    simulated_pairs,
)
from attacks.restoring.restorers import restored_answers
from attacks.restoring.without_labels import restored_without_labels
from bench.seeds import derive, random_state

LEAST = 50
"""Answers with a label below which there is too little to train shadow models on: the labels are learnt."""


MOST = 0.5
"""Share of simulated answers with another label than their clean row above which labels are never learnt."""


class Restore(Extraction):
    """Queries at random, as Copycat does, and learns the inverse of the known defenses by simulating them.

    It works against any defense that can be fitted on the attacker's own inputs, without an inverse that
    somebody wrote. Surrogates that learn the labels of two thirds of the answers estimate the other third;
    around these estimates clean rows are drawn (:mod:`attacks.restoring.prior`). Fresh instances of the known
    defenses, fitted on own inputs and shadow models, each with secrets of its own, answer them
    (:meth:`attacks.base.Api.simulate`). From these pairs a clean answer is estimated for each bought one.

    Surrogates of the restored answers then give better estimates, and the same is done once more.

    Where a defense changes labels, estimates by labels are of the wrong classes. So answers are first
    restored without estimates (:mod:`attacks.restoring.without_labels`), by a network for either ``model``.
    If that finds the labels of simulated clean rows clearly more often than answers show them, its result is
    what is learnt.

    ``model``: how. "network": a small network learns the mapping (D-DAE, Chen et al. 2023). "table": the
    mean of the clean rows whose simulated answers are nearest to the bought one (partial Bayes, Tang et al.
    2024). Where the defense keeps the label, so does the estimate.

    With knowledge "family", parameters are drawn from each defense's range of strengths, and those whose
    answers are most like the bought ones are kept.

    Where simulated answers are nearer to their clean rows than what is restored from them, the answers are
    left as they are: of drawn rows, or, where a defense answers from the input, of the shadow models' own
    answers. The surrogate learns the restored answers, unless a third of the bought labels, held out, shows
    that labels alone teach more. Where the defense may change labels, predictions of a surrogate of restored
    answers are also judged by the answers that are simulated for them; where it changes most of the labels
    in simulations, labels are not learnt. Without a defense, the answers are learnt unchanged; of an API that
    shows labels, or with fewer than 50 of them, the labels.

    Facts: ``small_budget``; ``unlabelled_inputs``, how many that were not queried defenses are fitted on;
    ``read_as_is``, ``read_as_restored`` and ``read_as_labels``, 1 for what is learnt, else 0.
    """

    name = "restore"
    paper = (
        "Chen et al. 2023, D-DAE (IEEE S&P); Tang et al. 2024, ModelGuard (USENIX Security), partial Bayes"
    )
    knowledge = ("family", "full")
    row_by_row = False
    prefix = False
    simulates = True

    def __init__(self, *, model: Literal["network", "table"] = "network") -> None:
        self.model = model

    def acquire(self, api: Api, pool: Pool, surrogates: SurrogateFactory, seeds: RandomSeeds) -> TransferSet:
        """Spend the budget on random inputs of the pool, drawn without replacement, and restore answers."""
        order = random_state(seeds.order).permutation(len(pool.x))
        queries, rest = pool.x[order[: api.budget]], pool.x[order[api.budget :]]
        answers = api.predict(queries)
        answered = np.isfinite(answers).all(axis=1)
        x, answers = np.ascontiguousarray(queries[answered]), answers[answered]
        if not api.known or not len(x):
            return _transfer_set(x, answers, {"small_budget": 0.0, "unlabelled_inputs": 0.0})
        labels, single = answers.argmax(axis=1), has_single_maximum(answers)
        one_hot = np.eye(api.nb_classes)[labels]
        small = single.sum() < LEAST
        if small or (answers == one_hot).all():
            facts = {"small_budget": float(small), "unlabelled_inputs": 0.0}
            return _transfer_set(x[single], one_hot[single], facts)
        shadows = ShadowModels.trained(x, labels, single, api.nb_classes, surrogates)
        # Nothing is learned of test inputs that were not answered.
        rest = rest[: 0 if pool.overlaps == "test" else OWN]
        facts = {"small_budget": 0.0, "unlabelled_inputs": float(len(rest))}
        instances = simulated_instances(api, shadows, answers, rest, seeds.choices)
        seed = derive(seeds.choices, "without labels")
        alone = restored_without_labels(instances, shadows, answers, seed)
        if alone is not None:
            read = {"read_as_is": 0.0, "read_as_restored": 1.0, "read_as_labels": 0.0}
            return _transfer_set(x, alone, facts | read, Restoration(x, answers, alone))

        genuine = genuine_pairs(instances, shadows)

        def restored(shadows: ShadowModels, part: Mask, number: int) -> tuple[Array, bool, float]:
            seed = derive(seeds.choices, "restoration", number)
            pairs = simulated_pairs(instances, shadows, answers[part], seed)
            own = None if genuine is None else genuine.of(part)
            rows, changed = restored_answers(self.model, answers[part], shadows.estimates, pairs, own, seed)
            return rows, changed, pairs.other_labels()

        every = np.ones(len(x), dtype=bool)
        others, first = shadows.without_first_fold(surrogates)
        trial, _, other_labels = restored(others, ~first, 0)
        (trained,) = surrogates.fit([(others.x, trial)], EFFORT)
        judged = first & shadows.single
        predicted = trained(shadows.x[judged])
        readings = [predicted, *defended(instances, shadows, judged, predicted)]
        # Labels that a defense changes most of the time teach nothing, however well they can be predicted.
        chosen = other_labels > MOST or predicts_as_well(
            readings, shadows.estimates[judged], shadows.labels[judged]
        )
        # Surrogates of restored answers estimate clean ones better than those of labels do.
        better = shadows.with_estimates_by(restored(shadows, every, 1)[0], surrogates)
        estimated, changed, _ = restored(better, every, 2)
        facts |= {
            "read_as_is": float(chosen and not changed),
            "read_as_restored": float(chosen and changed),
            "read_as_labels": float(not chosen),
        }
        restoration = Restoration(x, answers, estimated)
        if chosen:
            return _transfer_set(x, estimated, facts, restoration)
        return _transfer_set(x[single], one_hot[single], facts, restoration)


def _transfer_set(
    x: Images, targets: Array, facts: dict[str, float], restoration: Restoration | None = None
) -> TransferSet:
    return TransferSet(
        np.ascontiguousarray(x), targets.astype(np.float32), facts=facts, restoration=restoration
    )
