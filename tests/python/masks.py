"""Codes whose zeros lie as in trained masks, for counting on real streams.

The gaps between kept weights follow a gamma distribution around the mean that the density asks for.
Shape 1 is an independent mask; above it gaps are more even, below it kept weights come in clusters.
The filler factors that the published rates imply lie on both sides: the small LeNet matrices are
clustered, the large matrices of AlexNet and VGG-16 more even than independent masks.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def codes_with_gaps(
    weights: int, density: float, code_bits: int, shape: float, seed: int
) -> npt.NDArray[np.uint8]:
    """Codes uint8 ``[1, weights]`` with ``round(density * weights)`` non-zeros."""
    rng = np.random.default_rng(seed)
    kept = round(density * weights)
    steps = rng.gamma(shape, 1.0 / shape, kept + 1)
    # One zero run before each kept weight and one after the last; together all the zeros.
    ends = np.floor(np.cumsum(steps) / steps.sum() * (weights - kept)).astype(np.int64)
    codes = np.zeros((1, weights), np.uint8)
    codes[0, ends[:kept] + np.arange(kept)] = rng.integers(
        1, 2**code_bits, kept, dtype=np.uint8, endpoint=False
    )
    return codes
