"""The inverse of the defense ``none``."""

from attacks.inverse.base import Inverse


class NoDefenseInverse(Inverse):
    """Changes nothing: the answers are the victim's."""
