"""Evidence: a benchmark with right answers, and the published one for those who have its data."""
