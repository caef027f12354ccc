"""What is to be run: matrices and replications."""
