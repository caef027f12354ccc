"""Two different models behind one API, and a rule that decides which of them answers a query.

The combination of a neural network and a decision tree is proposed in the study fashion-noise.
Switching between diverse models by a hash of the input is Kariyappa, Prakash, Qureshi 2021, "Protecting
DNNs from Theft using an Ensemble of Diverse Models" (ICLR 2021), who train theirs to disagree away from
the data; these two disagree because they are of different kinds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from sklearn.exceptions import NotFittedError
from sklearn.tree import DecisionTreeClassifier

from defenses import predicates
from defenses.base import (
    Answers,
    Array,
    Batch,
    Calibration,
    Claims,
    Defense,
    Images,
    Mask,
    Predicate,
    StrengthRange,
)

LEAF = 10
"""Smallest number of training rows in a leaf: with fewer, nearly all answers of the tree are one-hot."""
SEEDS = 2.0**63
"""Seeds of a batch are integers in [0, 2**63)."""


class ModelSwitch(Defense):
    """Answers some queries with a decision tree fitted to the victim's training split.

    ``rule``: "random" (the tree answers a share ``share`` of queries, drawn for each query),
    "input_hash" (the tree answers the same share of all possible inputs, always the same ones, for
    every client) or "confidence" (the tree answers where the victim's largest probability is below
    ``threshold``). ``share`` and ``threshold`` are fractions; each is ignored by the other's rule.

    This is not the ensemble of diverse models of Kariyappa et al. 2021, which is ``diverse_ensemble``:
    nothing here is trained to disagree.

    The hash is keyed by a secret drawn at fit, so that an attacker cannot know in advance which model
    answers an input; an input changed by one bit may get the other. The tree ignores the answers of the
    defenses before this one in a stack, so it should be the first.

    Fitted: ``tree_``, the scikit-learn tree.
    """

    name = "model_switch"
    paper = "study fashion-noise; Kariyappa et al. 2021 (ICLR), ensemble of diverse models"
    known_by = ("recover", "average", "auto")
    strength = StrengthRange("share", 0.0, 1.0)

    tree_: DecisionTreeClassifier

    def __init__(
        self,
        *,
        rule: Literal["random", "input_hash", "confidence"] = "random",
        share: Annotated[float, Field(ge=0, le=1)] = 0.5,
        threshold: Annotated[float, Field(ge=0, le=1)] = 0.9,
    ) -> None:
        self.rule, self.share, self.threshold = rule, share, threshold

    @property
    def claims(self) -> Claims:
        """The tree has other labels, and ties in its leaves; only the random rule is random."""
        return Claims(keeps_label=False, ties=True, stochastic=self.rule == "random" and 0 < self.share < 1)

    @property
    def predicates(self) -> Sequence[Predicate]:
        """An answer is the victim's or one of the tree's leaves."""
        if not hasattr(self, "tree_"):
            return ()
        leaves = self.tree_.tree_.value[:, 0]
        rows = leaves / leaves.sum(axis=1, keepdims=True)

        def expected(classes: int) -> Array:
            wide: Array = np.zeros((len(rows), classes))
            wide[:, self.tree_.classes_] = rows
            return wide

        return (predicates.one_of("an answer of the victim or of the tree", expected),)

    def fit(self, calibration: Calibration) -> None:
        """Fit the tree to the victim's training split."""
        self._secret = calibration.seed
        self.tree_ = _fitted_tree(calibration.train_inputs, calibration.train_labels, calibration.seed)

    def switched(self, batch: Batch) -> Mask:
        """Return (n,) True where the tree answers."""
        if self.rule == "confidence":
            return np.asarray(batch.raw.max(axis=1) < self.threshold)
        # The hash must not depend on the client's seed: two clients would get both models' answers.
        seed_of = batch.row_seed if self.rule == "random" else replace(batch, seed=self._secret).input_seed
        return np.array([seed_of(row) / SEEDS < self.share for row in range(len(batch))], dtype=bool)

    def answer(self, batch: Batch) -> Answers:
        """Return the answers of the victim and the tree; raises NotFittedError before ``fit``."""
        if not hasattr(self, "tree_"):
            raise NotFittedError("call fit with a calibration split before model_switch answers a query")
        rows = np.flatnonzero(self.switched(batch))
        answers = batch.probabilities.copy()
        if len(rows):
            from_tree: Array = np.zeros((len(rows), answers.shape[1]))
            # A class without a training row has no column in the tree.
            from_tree[:, self.tree_.classes_] = self.tree_.predict_proba(_flat(batch.inputs[rows]))
            answers[rows] = from_tree
        return Answers.of(answers)


_trees: dict[str, DecisionTreeClassifier] = {}


def _fitted_tree(inputs: Images, labels: NDArray[np.int64], seed: int) -> DecisionTreeClassifier:
    """Return the tree of these data and this seed, which is the same for every rule.

    Fitting takes half a minute on 60,000 images of 28×28, so a process does it once.
    """
    h = hashlib.blake2b(np.ascontiguousarray(inputs).tobytes() + np.ascontiguousarray(labels).tobytes())
    key = f"{h.hexdigest()}:{seed}"
    if key not in _trees:
        tree = DecisionTreeClassifier(min_samples_leaf=LEAF, random_state=seed % 2**32)
        _trees[key] = tree.fit(_flat(inputs), labels)
    return _trees[key]


def _flat(inputs: Images) -> NDArray[np.float32]:
    return inputs.reshape(len(inputs), -1)
