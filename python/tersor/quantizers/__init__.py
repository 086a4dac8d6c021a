"""Methods that choose a codebook and the code of each weight (numpy alone)."""
