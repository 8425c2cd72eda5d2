"""How the embedded model came about, and comes about again: `masactrl puppets train`."""
