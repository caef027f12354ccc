"""The inverse of the defense ``diverse_ensemble``."""

from attacks.inverse.label_only import LabelOnlyInverse


class DiverseEnsembleInverse(LabelOnlyInverse):
    """Takes the top-1 of each answer, in which the models agree on the victim's own data.

    Which model answered depends on a secret, and their probabilities are of different networks. Elsewhere the
    models disagree in the top-1 as well, and nothing in an answer says whose it is.
    """

    has_forward = False
