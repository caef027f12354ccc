"""Faster training, bit for bit."""
