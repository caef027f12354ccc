"""The control of GRAD²: mass moves to a random class, as far as the L1 bound allows.

The random baseline of Mazeika, Li, Forsyth 2022, "How to Steer Your Adversary: Targeted and Efficient Model
Stealing Defenses with Gradient Redirection" (ICML). A defense that chooses its perturbation has to be better.
"""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import Field

from defenses import predicates
from defenses.base import Answers, Array, Claims, NoisyDefense, Predicate, StrengthRange, as_distributions


class RandomOneHot(NoisyDefense):
    """Answers ``(1 - eps/2) y + (eps/2) e_k`` for a class k drawn among those other than the top-1 of y.

    ``eps``: bound of the L1 distance, in [0, 2]. ``consistent``: the class is keyed by the input, so that
    repeated queries get the same answer; another client, or the same input changed by one bit, gets another
    draw. Above ``eps`` = 1 every label is wrong; at 1 an answer of which the victim is certain becomes a tie;
    below, labels of unsure answers may be wrong.
    """

    name = "random_one_hot"
    paper = "Mazeika et al. 2022, arXiv 2206.14157 (random baseline)"
    known_by = ("recover", "average")
    strength = StrengthRange("eps", 0.0, 2.0)

    def __init__(self, *, eps: Annotated[float, Field(ge=0, le=2)] = 1.0, consistent: bool = False) -> None:
        super().__init__()
        self.eps, self.consistent = eps, consistent

    @property
    def claims(self) -> Claims:
        """The drawn class may become the top-1, or tie with it."""
        return Claims(
            keeps_label=False,
            ties=True,
            normalises=True,
            stochastic=self.eps > 0,
            consistent_noise=self.consistent and self.eps > 0,
        )

    @property
    def predicates(self) -> Sequence[Predicate]:
        """One class other than the top-1 got eps/2; an answer before that is no distribution is made one."""
        share = self.eps / 2

        def violation(before: Array, given: Answers) -> Array:
            clean = as_distributions(np.clip(before, 0, None))
            got = given.probabilities - (1 - share) * clean
            drawn = np.nan_to_num(got).argmax(axis=1)
            wrong = (drawn == np.nan_to_num(clean).argmax(axis=1)) & (share > 0)
            off: Array = np.abs(got - share * np.eye(before.shape[1])[drawn]).max(axis=1)
            return np.where(wrong, 1, off)

        name = "{share} of the mass on a class that is not the top-1"
        return (Predicate(name, violation, predicates.ROUNDING, {"share": f"{share:g}"}),)

    def weights(self, row: Array, rng: np.random.Generator) -> Array:
        """Return ``row`` (classes,), mixed with one class other than its first maximum."""
        clean = np.clip(row, 0, None)
        total = clean.sum()
        mixed: Array = (1 - self.eps / 2) * (clean / total if total > 0 else np.full(len(row), 1 / len(row)))
        # All classes but the top-1, in order; the draw is made for every row, whatever is in it.
        drawn = int(rng.integers(len(row) - 1)) if len(row) > 1 else 0
        mixed[drawn + (drawn >= clean.argmax())] += self.eps / 2
        return mixed
