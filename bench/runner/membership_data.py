"""The records of membership inference: members of the victim's training data, and non-members."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from attacks.base import Images, Pool, Records
from bench.data.datasets import Labelled
from bench.errors import NotApplicable
from bench.models.victims import Victim
from bench.plan.feasibility import MIN_RECORDS
from bench.seeds import derive
from bench.tasks import Cell

IN_DISTRIBUTION = "in-distribution"
"""The pool of the victim's own distribution. Here it means the test split, in extraction the pool split."""


@dataclass(frozen=True)
class MembershipData:
    """The records of one repeat: those ``known`` to the attacker, and those ``asked`` about; disjoint.

    Half of each are members, so that accuracy and balanced accuracy are equal.
    """

    known: Records
    asked: Records

    def digest(self) -> str:
        """Return a hash of all inputs in their order, and of their membership."""
        h = hashlib.sha256()
        for part in (self.known, self.asked):
            h.update(np.ascontiguousarray(part.x).tobytes() + part.member.tobytes())
        return h.hexdigest()


def non_members(pool: Pool, victim: Victim, target: str) -> Labelled:
    """Return the records of ``pool`` whose bytes equal no training record of the victim.

    "in-distribution" gives the test split. The victim's own data set, by name, gives its pool split. That is
    drawn like the training data, whereas a test split may have other sources (MNIST's was written by other
    people). For ``target`` "surrogate" it gives the calibration split, since the surrogate is trained on the
    pool split. A pool whose labels are not the victim's classes gets the undefended victim's labels: its own
    would be meaningless and would reveal membership.
    """
    splits = victim.splits
    x, y = pool.x, pool.y
    if pool.name == IN_DISTRIBUTION:
        x, y = splits.test.x, splits.test.y
    elif pool.access == IN_DISTRIBUTION and not pool.overlaps and target == "surrogate":
        x, y = splits.calibration.x, splits.calibration.y
    trained = {_digest(row) for row in splits.train.x}
    fresh = np.array([_digest(row) not in trained for row in x], dtype=bool)
    if not (pool.access == IN_DISTRIBUTION or pool.same_classes):
        return Labelled(x[fresh], victim.probabilities(x[fresh]).argmax(axis=1))
    return Labelled(x[fresh], y[fresh])


def _digest(row: Images) -> bytes:
    return hashlib.blake2b(row.tobytes(), digest_size=16).digest()


def draw_records(cell: Cell, members: int, victim: Victim, others: Labelled) -> MembershipData:
    """Draw members from the victim's training split and as many non-members from ``others``.

    At most ``members`` of each; half of them, rounded down, are known. Their order is random, since a defense
    may answer late queries differently. The records do not depend on attack, defense or budget. Raises
    NotApplicable for fewer than 20 of either.
    """
    train, pool = victim.splits.train, cell.threat.pool
    number = min(members, len(train), len(others))
    if number < MIN_RECORDS:
        raise NotApplicable(
            f"members={members}, but there are {len(train)} training records and {len(others)} in pool "
            f"{pool!r} that are none of them; [{MIN_RECORDS}, inf] are needed of each"
        )
    rng = np.random.default_rng(derive(cell.seed, "members", str(cell.victim), pool, cell.repeat))
    inside, outside = rng.permutation(len(train)), rng.permutation(len(others))
    half = number // 2

    def pick(part: slice) -> Records:
        order = rng.permutation(2 * half)
        return Records(
            np.concatenate([train.x[inside[part]], others.x[outside[part]]])[order],
            np.concatenate([train.y[inside[part]], others.y[outside[part]]])[order],
            np.repeat([True, False], half)[order],
        )

    return MembershipData(pick(slice(half)), pick(slice(half, 2 * half)))
