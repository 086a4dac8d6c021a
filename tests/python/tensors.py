"""A compressed tensor for the tests of the codec and the kernels."""

from __future__ import annotations

import numpy as np

from tersor.codec import csr
from tersor.codec.blob import CompressedTensor


def sparse_tensor(rows: int, cols: int, seed: int = 0) -> tuple[np.ndarray, CompressedTensor]:
    """A dense weight of seven values, 20 % of it kept, and the same compressed."""
    rng = np.random.default_rng(seed)
    codes = (rng.random((rows, cols)) < 0.2) * rng.integers(1, 8, (rows, cols))
    values = rng.normal(size=7).astype(np.float32)
    matrix = csr.encode(codes.astype(np.uint8), 4)
    layer = CompressedTensor((rows, cols), "shared_fp32", matrix, values)
    return layer.codebook()[codes], layer
