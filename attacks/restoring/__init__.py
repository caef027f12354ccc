"""What the attack ``restore`` is made of: a prior of clean answers, simulated pairs, network and table."""
