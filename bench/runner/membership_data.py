"""The records of membership inference: what the victim was trained on, and what it never saw."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from attacks.base import Images, Pool, Records
from bench.data.datasets import Labelled
from bench.errors import NotApplicable
from bench.models.victims import Victim
from bench.seeds import derive
from bench.tasks import Cell

OWN = "in-distribution"
"""The pool that stands for the victim's own distribution: its test split here, what a thief sends there."""
FEWEST = 20
"""Members, and non-members, without which nothing can be learnt and judged."""


@dataclass(frozen=True)
class MembershipData:
    """The records of one repeat, disjoint: ``known`` to the attacker, and ``asked`` about.

    Half of each are members, so that accuracy and balanced accuracy are one number.
    """

    known: Records
    asked: Records

    def digest(self) -> str:
        """Return a hash of all inputs in their order, and of who is a member."""
        h = hashlib.sha256()
        for part in (self.known, self.asked):
            h.update(np.ascontiguousarray(part.x).tobytes() + part.member.tobytes())
        return h.hexdigest()


def non_members(pool: Pool, victim: Victim, target: str) -> Labelled:
    """Return the records of ``pool`` that the victim was not trained on, byte for byte.

    "in-distribution" gives the test split. The victim's own data set by name gives its pool split,
    which is drawn like the training data, whereas a test split may have other sources (MNIST's was
    written by other people). The pool split is what a thief sends, so a ``target`` "surrogate" was
    trained on it; there it is the calibration split. A pool whose labels are no classes of the victim's
    gets what the undefended victim says as labels: others would give it away and mean nothing.
    """
    splits = victim.splits
    x, y = pool.x, pool.y
    if pool.name == OWN:
        x, y = splits.test.x, splits.test.y
    elif pool.access == OWN and not pool.overlaps and target == "surrogate":
        x, y = splits.calibration.x, splits.calibration.y
    trained = {_digest(row) for row in splits.train.x}
    fresh = np.array([_digest(row) not in trained for row in x], dtype=bool)
    if not (pool.access == OWN or pool.same_classes):
        return Labelled(x[fresh], victim.probabilities(x[fresh]).argmax(axis=1))
    return Labelled(x[fresh], y[fresh])


def _digest(row: Images) -> bytes:
    return hashlib.blake2b(row.tobytes(), digest_size=16).digest()


def draw(cell: Cell, members: int, victim: Victim, others: Labelled) -> MembershipData:
    """Draw members from the victim's training split and as many non-members from ``others``.

    At most ``members`` of each, half of them (rounded down) known; in an order that tells nothing,
    since a defense may answer late queries differently. Whatever the attack, defense and budget, the
    records are the same. Raises NotApplicable for fewer than 20 of either.
    """
    train, pool = victim.splits.train, cell.threat.pool
    found = min(members, len(train), len(others))
    if found < FEWEST:
        raise NotApplicable(
            f"members={members}, but there are {len(train)} training records and {len(others)} in pool "
            f"{pool!r} that are none of them; [{FEWEST}, inf] are needed of each"
        )
    rng = np.random.default_rng(derive(cell.seed, "members", str(cell.victim), pool, cell.repeat))
    inside, outside = rng.permutation(len(train)), rng.permutation(len(others))
    half = found // 2

    def pick(part: slice) -> Records:
        order = rng.permutation(2 * half)
        return Records(
            np.concatenate([train.x[inside[part]], others.x[outside[part]]])[order],
            np.concatenate([train.y[inside[part]], others.y[outside[part]]])[order],
            np.repeat([True, False], half)[order],
        )

    return MembershipData(pick(slice(half)), pick(slice(half, 2 * half)))
