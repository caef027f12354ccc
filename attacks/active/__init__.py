"""What active-learning attacks share: how far inputs are from the border of a surrogate's class."""
