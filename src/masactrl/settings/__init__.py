"""What may be said, and how it is checked; imports no torch."""
