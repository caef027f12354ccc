"""What is measured, and its confidence intervals."""
