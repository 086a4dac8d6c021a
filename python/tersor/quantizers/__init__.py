"""Scalar quantizers: they choose a codebook and the code of each weight (numpy only)."""
