"""Integer quantization: codebook entries are whole multiples of one step, as in int8 weights.

The mean of a bin's members would be a little nearer to them; from 6 bits on that hardly shows. A
layer then runs on its integers, one byte each, without a codebook (docs/kernels/dense_codes.md).
"""

from __future__ import annotations

import numpy as np

from tersor.quantizers.base import MAX_CODEBOOK_SIZE, Arrays, Bytes, Floats, Masks, Quantized, solve
from tersor.quantizers.uniform import codes_by_step, smallest_step


def quantize_integer(
    weights: Arrays,
    codebook_size: int,
    *,
    importance: Arrays | None = None,
    kept: Masks | None = None,
    joint: bool = False,
) -> dict[str, Quantized]:
    """Rounds weights to whole multiples of a step; those that round to 0 are pruned.

    The step is the smallest that needs no more than ``codebook_size`` multiples. A few weights far
    from all others may be multiples beyond 127: kernels keep those apart.

    Args:
        weights: float32 by name.
        codebook_size: maximum number of multiples but 0, 2 to 255.
        importance: checked, as every quantizer does; rounding does not depend on it.
        kept: as for :func:`tersor.quantizers.kmeans.quantize_kmeans`.
        joint: one step for all layers.

    Raises:
        ValueError: ``codebook_size`` is out of range; or names, shapes or values are invalid.
    """
    if not 2 <= codebook_size <= MAX_CODEBOOK_SIZE:
        raise ValueError(f"codebook_size must be 2 to {MAX_CODEBOOK_SIZE}, not {codebook_size}")

    def solver(x: Floats, h: Floats | None, pruned: int) -> tuple[Bytes, Floats]:
        if not len(x):
            return np.zeros(0, np.uint8), np.zeros(0, np.float32)
        step = smallest_step(x, codebook_size)
        codes, multiples = codes_by_step(x, step)
        return codes, (multiples.astype(np.float64) * step).astype(np.float32)

    return solve(weights, importance, kept, joint, solver)
