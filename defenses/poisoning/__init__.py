"""What defenses share that replace an answer by another one nearby, chosen to mislead training on it."""
