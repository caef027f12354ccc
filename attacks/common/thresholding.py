"""What attacks have in common that compare one number with a threshold."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from attacks.base import Api, Array, MembershipInference, RandomSeeds, Records


class Thresholding(MembershipInference):
    """Calls a record a member if its evidence exceeds what separates the known records best.

    Best by balanced accuracy on the known records; of equally good thresholds the lowest. One
    threshold serves all classes. A refused record scores .5, which says "no member".
    """

    @abstractmethod
    def evidence(self, api: Api, records: Records) -> Array:
        """Return (n,) numbers, larger for members if the paper is right; NaN where nothing was answered."""

    def infer(self, api: Api, known: Records, asked: Records, streams: RandomSeeds) -> Array:
        """Return (n,) scores in [0, 1]: the evidence, with the threshold at .5."""
        threshold = best_threshold(self.evidence(api, known), known.member)
        distance = self.evidence(api, asked) - threshold
        scores: Array = np.where(np.isnan(distance), 0.5, 0.5 + distance / (1 + np.abs(distance)) / 2)
        return scores


def best_threshold(evidence: Array, member: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> float:
    """Return t such that ``evidence > t`` has the highest balanced accuracy on records (n,).

    Halfway between two values of the records, or one below or above all of them. Records whose
    evidence is NaN are left out; without any of one kind it is 0.
    """
    seen = ~np.isnan(evidence)
    values, is_member = evidence[seen], member[seen]
    if is_member.all() or not is_member.any():
        return 0.0
    levels, place = np.unique(values, return_inverse=True)
    members = np.bincount(place[is_member], minlength=len(levels)) / is_member.sum()
    others = np.bincount(place[~is_member], minlength=len(levels)) / (~is_member).sum()
    # After the k lowest levels: others left behind less members left behind.
    gained = np.r_[0, np.cumsum(others - members)]
    k = int(np.argmax(np.round(gained, 12)))
    if k == 0:
        return float(levels[0] - 1)
    if k == len(levels):
        return float(levels[-1] + 1)
    middle = float((levels[k - 1] + levels[k]) / 2)
    # Between neighbouring floats there is no middle; the lower one keeps both on their sides.
    return middle if middle < levels[k] else float(levels[k - 1])
