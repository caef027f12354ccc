"""The regression gate: whether a change made extraction easier, or increased the utility loss."""
