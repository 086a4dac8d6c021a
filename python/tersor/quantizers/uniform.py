"""Uniform quantization: evenly spaced thresholds, codebook entries at the means of their members.

Source: Choi et al. (arXiv 1612.01543), section 4.1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from tersor._renamed import renamed_arguments
from tersor.quantizers.base import MAX_CODEBOOK_SIZE, Arrays, Bytes, Floats, Masks, Quantized, solve

_CHUNK = 1 << 20  # weights processed at once
_MOST_BINS = 1 << 22  # on each side, with or without a weight


def _parts(n: int) -> Iterator[slice]:
    """Slices of ``_CHUNK`` weights, which keep temporaries small."""
    for start in range(0, n, _CHUNK):
        yield slice(start, start + _CHUNK)


def _means(codes: Bytes, x: Floats, h: Floats | None, count: int) -> Floats:
    """Weighted mean of the members of each code; the plain mean if their importance is all zero."""
    total, weighted, plain, members = np.zeros((4, count + 1))
    for part in _parts(len(x)):
        weight = np.ones_like(x[part]) if h is None else h[part]
        total += np.bincount(codes[part], weight, count + 1)
        weighted += np.bincount(codes[part], weight * x[part].astype(np.float64), count + 1)
        plain += np.bincount(codes[part], x[part], count + 1)
        members += np.bincount(codes[part], minlength=count + 1)
    means = np.where(
        total > 0, weighted / np.where(total > 0, total, 1.0), plain / np.maximum(1, members)
    )
    return means[1:].astype(np.float32)


def codes_by_step(x: Floats, step: float) -> tuple[Bytes, Floats]:
    """The code of each weight, 1 for the lowest bin, and the bins in order; 0 is none of them.

    Args:
        x: float32 ``[n]``.
        step: width of a bin; bins are centred on its multiples.

    Returns:
        uint8 ``[n]``, 0 for weights in the bin around zero; the bins that hold weights, as
        multiples of the step.

    Raises:
        ValueError: more than 255 bins hold weights.
    """
    parts = [x[part] for part in _parts(len(x))]
    bins = np.unique(np.concatenate([np.unique(np.rint(part / step)) for part in parts]))
    distinct = bins[bins != 0]
    if len(distinct) > MAX_CODEBOOK_SIZE:
        raise ValueError(
            f"step {step:g} makes {len(distinct)} values, more than {MAX_CODEBOOK_SIZE}"
        )
    code = np.zeros(len(bins), np.uint8)
    code[bins != 0] = np.arange(1, len(distinct) + 1)
    found = [code[np.searchsorted(bins, np.rint(part / step))] for part in parts]
    return np.concatenate(found), distinct


def smallest_step(x: Floats, values: int) -> float:
    """The smallest width of bins, within 1 %, that puts weights into at most ``values`` bins.

    Bins in which no weight lies cost no codebook entry: a few weights far from all others would
    otherwise spread the bins so far that all others share one.
    """
    largest = float(np.abs(x).max())
    high = largest / (values // 2 + 0.499)  # bins 1 to values / 2 on each side
    low = high / 2
    while _bins_in_use(x, low) <= values:
        if low < largest / _MOST_BINS:  # few distinct values, each in a bin of its own
            return low
        low, high = low / 2, low
    while high > 1.01 * low:
        middle = math.sqrt(low * high)
        if _bins_in_use(x, middle) <= values:
            high = middle
        else:
            low = middle
    return high


def _bins_in_use(x: Floats, step: float) -> int:
    """How many bins but that around zero hold a weight."""
    most = int(np.rint(np.abs(x).max() / np.float32(step)))
    used = np.zeros(2 * most + 1, np.bool_)
    for part in _parts(len(x)):
        used[np.rint(x[part] / np.float32(step)).astype(np.int64) + most] = True
    used[most] = False
    return int(used.sum())


@renamed_arguments(values="codebook_size", together="joint")
def quantize_uniform(
    weights: Arrays,
    codebook_size: int | None = None,
    *,
    step: float | None = None,
    importance: Arrays | None = None,
    kept: Masks | None = None,
    joint: bool = False,
) -> dict[str, Quantized]:
    """Quantizes weights uniformly; the codebook entry of a bin is the mean of its members.

    Bins are centred on the multiples of the step. Weights in the bin around zero are pruned. Means
    are weighted by the importance.

    Args:
        weights: float32 by name.
        codebook_size: maximum number of non-zero codebook entries, 1 to 255: the step is the
            smallest that needs no more; or
        step: width of a bin.
        importance: non-negative, names and shapes as the weights; None = all equal.
        kept: as for :func:`tersor.quantizers.kmeans.quantize_kmeans`.
        joint: one step and one joint codebook over all layers.

    Raises:
        ValueError: not exactly one of ``codebook_size`` and ``step`` is given, or it is out of
            range; or names, shapes or values are invalid.
    """
    if (codebook_size is None) == (step is None):
        raise ValueError("give either codebook_size or step")
    if codebook_size is not None and not 1 <= codebook_size <= MAX_CODEBOOK_SIZE:
        raise ValueError(f"codebook_size must be 1 to {MAX_CODEBOOK_SIZE}, not {codebook_size}")
    if step is not None and not step > 0:
        raise ValueError(f"step must be positive, not {step}")

    def solver(x: Floats, h: Floats | None, pruned: int) -> tuple[Bytes, Floats]:
        if not len(x):
            return np.zeros(0, np.uint8), np.zeros(0, np.float32)
        if codebook_size == 1:  # one entry for both signs
            codes = np.ones(len(x), np.uint8)
            return codes, _means(codes, x, h, 1)
        if codebook_size is None:
            assert step is not None
            width = step
        else:
            width = smallest_step(x, codebook_size)
        codes, bins = codes_by_step(x, width)
        return codes, _means(codes, x, h, len(bins))

    return solve(weights, importance, kept, joint, solver)
