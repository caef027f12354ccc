"""Probes of the controls of a live target, one a file; :mod:`bench.remote.probing.registry` lists them."""
