"""Live targets: a prediction server behind a URL, what may be sent to it, and what was paid.

The process that buys answers imports this package alone: neither torch nor ART.
"""
