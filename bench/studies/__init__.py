"""Published works as studies: what a matrix says of them, what was measured, and their pages."""
