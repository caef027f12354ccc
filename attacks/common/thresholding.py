"""Membership inference by a threshold of one number."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from attacks.base import Api, Array, MembershipInference, RandomSeeds, Records


class Thresholding(MembershipInference):
    """Compares a statistic of each record with the threshold that separates the known records best.

    Best by balanced accuracy on the known records; of equally good thresholds the lowest. All classes
    share one threshold. A rejected record scores .5, which means "no member".
    """

    @abstractmethod
    def statistic(self, api: Api, records: Records) -> Array:
        """Return (n,) numbers, expected to be larger for members; NaN where the query was rejected."""

    def infer(self, api: Api, known: Records, queried: Records, seeds: RandomSeeds) -> Array:
        """Return (n,) scores in [0, 1]: the statistic, with the threshold at .5."""
        threshold = best_threshold(self.statistic(api, known), known.member)
        distance = self.statistic(api, queried) - threshold
        scores: Array = np.where(np.isnan(distance), 0.5, 0.5 + distance / (1 + np.abs(distance)) / 2)
        return scores


def best_threshold(statistic: Array, member: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> float:
    """Return t such that ``statistic > t`` has the highest balanced accuracy on records (n,).

    Halfway between two values of the records, or one below or above all of them. Records whose
    statistic is NaN are left out; without any of one kind the threshold is 0.
    """
    answered = ~np.isnan(statistic)
    values, is_member = statistic[answered], member[answered]
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
