"""Tables, sentences and pages."""
