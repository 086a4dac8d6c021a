"""The compiled kernels on numpy arrays: sparse products, convolution, instruction sets."""
