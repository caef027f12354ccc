"""Victims, surrogates, their training, and the defended API."""
