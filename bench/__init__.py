"""The harness: matrices of extraction attacks against defenses, measured, stored and reported."""

__version__ = "0.1.0"
