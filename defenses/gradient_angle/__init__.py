"""What defenses share that turn the gradient of an attacker's training step: see `angle` and `defense`."""
