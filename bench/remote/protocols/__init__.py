"""Protocols of prediction servers: how inputs are written, and where answers stand; one file each."""
