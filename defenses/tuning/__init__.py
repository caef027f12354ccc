"""How the strength of a defense is found from a target."""
