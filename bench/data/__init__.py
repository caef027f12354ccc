"""Data sets, query pools and synthetic images."""
