"""A model, layer by layer: select, prune, quantize, encode, swap."""
