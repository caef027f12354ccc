"""Runs a plan: cells, defense evaluations, processes."""
