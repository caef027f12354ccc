"""Defenses, one file each: they change the victim's answers or judge queries."""
