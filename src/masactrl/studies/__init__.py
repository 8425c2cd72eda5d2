"""Several runs side by side: sweeps, comparisons, ablations, where attention looked."""
