"""What several attacks share: the adapter for attacks of ART, and membership by a threshold."""
