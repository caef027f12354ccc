"""The inverse of the defense ``parameter_noise``."""

from attacks.inverse.base import Inverse


class ParameterNoiseInverse(Inverse):
    """Changes nothing: the noise is drawn once, and the answers are those of the perturbed victim."""
