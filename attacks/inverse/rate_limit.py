"""The inverse of the defense ``rate_limit``."""

from attacks.inverse.base import Inverse


class RateLimitInverse(Inverse):
    """Changes nothing: answers that are given are the victim's."""
