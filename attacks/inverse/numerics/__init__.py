"""The arithmetic of inverses: intervals of probabilities, normal noise, and the reverse sigmoid."""
