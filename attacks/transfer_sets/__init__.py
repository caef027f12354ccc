"""Ways to make a transfer set out of answers: more rows than were bought, by views and by pseudo-labels."""
