"""How clients write inputs and read answers: JSON without ambiguities, and a file for each protocol."""
