"""Small networks that defenses train in ``fit``: see `initial`, `train` and `SmallNetwork`."""

from defenses.networks.small import SmallNetwork, initial, softmax, space_of
from defenses.networks.training import BATCH, steps_for, train, train_together

__all__ = ["BATCH", "SmallNetwork", "initial", "softmax", "space_of", "steps_for", "train", "train_together"]
