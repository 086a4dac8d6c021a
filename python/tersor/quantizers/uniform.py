"""Uniform quantization: evenly spaced thresholds, codebook entries at the means of their members.

Source: Choi et al. (arXiv 1612.01543), section 4.1.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tersor.quantizers.base import MAX_CODEBOOK_SIZE, Arrays, Bytes, Floats, Masks, Quantized, solve

_CHUNK = 1 << 20  # weights processed at once


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


def _uniform(x: Floats, h: Floats | None, step: float) -> tuple[Bytes, Floats]:
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
    codes = np.concatenate(found)
    return codes, _means(codes, x, h, len(distinct))


def quantize_uniform(
    weights: Arrays,
    values: int | None = None,
    *,
    step: float | None = None,
    importance: Arrays | None = None,
    kept: Masks | None = None,
    together: bool = False,
) -> dict[str, Quantized]:
    """Quantizes weights uniformly; the codebook entry of a bin is the mean of its members.

    Bins are centred on the multiples of the step. Weights in the bin around zero are pruned. Means
    are weighted by the importance.

    Args:
        weights: float32 by name.
        values: maximum number of non-zero codebook entries, 1 to 255, from which the step follows;
            or
        step: width of a bin.
        importance: non-negative, names and shapes as the weights; None = all equal.
        kept: as for :func:`tersor.quantizers.kmeans.quantize_kmeans`.
        together: one step and one joint codebook over all layers.

    Raises:
        ValueError: not exactly one of ``values`` and ``step`` is given, or it is out of range; or
            names, shapes or values are invalid.
    """
    if (values is None) == (step is None):
        raise ValueError("give either values or step")
    if values is not None and not 1 <= values <= MAX_CODEBOOK_SIZE:
        raise ValueError(f"values must be 1 to {MAX_CODEBOOK_SIZE}, not {values}")
    if step is not None and not step > 0:
        raise ValueError(f"step must be positive, not {step}")

    def solver(x: Floats, h: Floats | None, pruned: int) -> tuple[Bytes, Floats]:
        if not len(x):
            return np.zeros(0, np.uint8), np.zeros(0, np.float32)
        if values == 1:  # one entry for both signs
            codes = np.ones(len(x), np.uint8)
            return codes, _means(codes, x, h, 1)
        if values is None:
            assert step is not None
            return _uniform(x, h, step)
        # Bins 1 to values / 2 on each side.
        return _uniform(x, h, float(np.abs(x).max()) / (values // 2 + 0.499))

    return solve(weights, importance, kept, together, solver)
