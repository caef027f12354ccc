"""Extraction attacks, one file each: they buy answers and hand over a transfer set."""
