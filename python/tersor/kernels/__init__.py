"""The compiled kernels on numpy arrays: products, convolutions, instruction sets."""
