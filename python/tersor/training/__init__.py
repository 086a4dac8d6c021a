"""Training of pruned and quantized networks."""
