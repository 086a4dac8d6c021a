"""Magnitude pruning of one weight (Han et al. 2015, arXiv 1506.02626)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from tersor.config import LayerConfig

Weight = Callable[[], npt.NDArray[np.float32]]

_CHUNK = 1 << 20  # weights processed at once


def _size_of_rank(weights: Sequence[Weight], count: int) -> np.float32:
    """The absolute value of the ``count``-th largest entry of all weights, without copying them.

    A radix select: the bit patterns of non-negative floats are ordered as the floats, so one
    histogram of the upper 16 bits finds those of the result, and a second one its lower bits.
    """
    prefix = np.uint32(0)
    for shift in (15, 0):
        counts = np.zeros(1 << 16, np.int64)
        for weight in weights:
            bits = weight().reshape(-1).view(np.uint32)
            for start in range(0, bits.size, _CHUNK):
                size = bits[start : start + _CHUNK] & np.uint32(0x7FFFFFFF)
                if shift == 0:
                    size = size[size >> np.uint32(15) == prefix] & np.uint32(0x7FFF)
                counts += np.bincount(size >> np.uint32(shift), minlength=1 << 16)
        larger = np.cumsum(counts[::-1])[::-1]  # number of weights in this bin or above
        found = int(np.flatnonzero(larger >= count)[-1])
        count -= int(larger[found] - counts[found])
        prefix = np.uint32(found) if shift else prefix << np.uint32(15) | np.uint32(found)
    value: np.float32 = np.array([prefix], np.uint32).view(np.float32)[0]
    return value


def counts_of_largest(weights: Sequence[Weight], count: int) -> list[int]:
    """How many of the ``count`` largest entries of all weights each one has.

    Args:
        weights: functions that give each weight, contiguous float32 of any shape; called several
            times, so that no more than one stands in memory as float32.
        count: at most the number of all entries. Zeros are never among the largest, and of equal
            entries the first ones are.
    """
    nonzeros = [int(np.count_nonzero(weight())) for weight in weights]
    if sum(nonzeros) <= count:
        return nonzeros
    if count == 0:
        return [0] * len(weights)
    least = _size_of_rank(weights, count)
    larger, equal = [], []
    for weight in weights:
        size = np.abs(weight())
        larger.append(int(np.count_nonzero(size > least)))
        equal.append(int(np.count_nonzero(size == least)))
    left = count - sum(larger)
    counts = []
    for more, same in zip(larger, equal, strict=True):
        taken = min(same, left)
        left -= taken
        counts.append(more + taken)
    return counts


def kept_weights(weight: npt.NDArray[np.float32], density: float | None) -> npt.NDArray[np.bool_]:
    """The mask of the largest weights; ties keep the first ones, and zeros are never kept.

    Args:
        weight: contiguous float32 of any shape.
        density: fraction of the weights kept, 0 to 1; None = all non-zeros.

    Returns:
        bool of the weight's shape.
    """
    nonzero: npt.NDArray[np.bool_] = weight != 0
    count = weight.size if density is None else round(density * weight.size)
    if int(np.count_nonzero(nonzero)) <= count:
        return nonzero
    if count == 0:
        return np.zeros_like(nonzero)
    least = _size_of_rank([lambda: weight], count)
    kept = weight > least
    kept |= weight < -least
    equal = np.flatnonzero((weight == least) | (weight == -least))
    kept.reshape(-1)[equal[: count - int(np.count_nonzero(kept))]] = True
    return kept


def kept_by(weight: npt.NDArray[np.float32], settings: LayerConfig) -> npt.NDArray[np.bool_]:
    """The mask by the density or threshold of the settings: bool of the weight's shape."""
    if settings.threshold is None:
        return kept_weights(weight, settings.density)
    flat = weight.reshape(-1)
    total = squares = 0.0
    for start in range(0, flat.size, _CHUNK):
        part = flat[start : start + _CHUNK].astype(np.float64)
        total += float(part.sum())
        squares += float(part @ part)
    mean = total / max(1, flat.size)
    deviation = math.sqrt(max(0.0, squares / max(1, flat.size) - mean**2))
    limit = np.float32(settings.threshold * deviation)
    kept: npt.NDArray[np.bool_] = (weight > limit) | (weight < -limit)
    return kept
