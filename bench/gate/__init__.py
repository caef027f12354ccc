"""The gate: whether a change made the model easier to steal, or worse for those who use it honestly."""
