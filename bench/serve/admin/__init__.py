"""The administration's own port, on loopback: metrics, behind a key and a second factor."""
