"""How probes of controls run: what they send, what bounds them, and what their results come to."""
