"""A prediction server behind controls: a victim with its defenses, or a guard before another server.

Uses the kernel alone: no torch, no ART. What needs a model reaches it as a
:class:`bench.serve.predictor.Predictor`.
"""
