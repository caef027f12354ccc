"""Attacks, one file each: extraction and membership inference. Helpers are in the sub-packages."""
