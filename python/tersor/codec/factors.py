"""Factors for the rows and columns of a matrix, on a grid on which a blob has them in few bits.

A weight is ``row_factor * codebook_entry * column_factor``: see
:class:`tersor.codec.blob.CompressedTensor`. Blobs hold factors of every float32 value exactly, in
the shortest of three ways: as places on a logarithmic grid, which are Huffman-coded (5 to 8 bits
each, fewer where they repeat), as fp16, or as fp32.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

MOST_STEPS = 64
"""The finest grid: a factor is rounded by at most 0.55 %."""

_PLACES = 256  # of one list of factors
_LOWEST, _HIGHEST = -126, 128  # octaves of float32's normal numbers


def round_factors(
    factors: npt.ArrayLike, steps_per_octave: int = 4, *, up: bool = False
) -> npt.NDArray[np.float32]:
    """Rounds factors to powers of 2 ** (1 / steps_per_octave), to the nearest in the logarithm.

    A list spans at most 256 places of the grid: what lies further below the largest factor is
    raised to the lowest place.

    Args:
        factors: positive, of any float type and shape.
        steps_per_octave: places between a number and its double: a power of 2 up to 64. The
            relative error is at most 9 % with 4, 2.2 % with 16, 0.55 % with 64.
        up: to the next larger place instead, so that a quantization step of that size covers the
            range that the factor was made for.

    Returns:
        float32 of the same shape.

    Raises:
        ValueError: a factor is not positive or not a normal float32, or the steps are not a power
            of 2 up to 64.
    """
    if steps_per_octave not in (1, 2, 4, 8, 16, 32, 64):
        raise ValueError(f"steps_per_octave must be a power of 2 up to 64, not {steps_per_octave}")
    given = np.asarray(factors, dtype=np.float64)
    normal = np.isfinite(given) & (given >= 2.0**_LOWEST) & (given < 2.0**_HIGHEST)
    if not normal.all():
        bad = given[~normal].flat[0]
        raise ValueError(f"factors must be positive normal float32 numbers, and one is {bad}")
    exact = np.log2(given) * steps_per_octave
    # What is on the grid already stays where it is.
    places = np.ceil(exact - 1e-6) if up else np.rint(exact)
    places = np.minimum(places, _HIGHEST * steps_per_octave - 1)
    if places.size:
        places = np.maximum(places, places.max() - (_PLACES - 1))
    return np.asarray(np.exp2(places / steps_per_octave), dtype=np.float32)
