"""Quantizers compared at one weighted error, with one codebook over all layers.

As Choi et al. (arXiv 1612.01543) compare methods at one accuracy, so are they here at one weighted
error, before fine-tuning: that of Hessian-weighted k-means. The others take as few bytes as give no
larger one.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tersor.quantizers.base import MAX_CODEBOOK_SIZE, Arrays, Quantized, code_entropy
from tersor.quantizers.ecsq import quantize_ecsq
from tersor.quantizers.kmeans import quantize_kmeans
from tersor.quantizers.uniform import quantize_uniform

QUANTIZERS = ("kmeans", "hessian", "uniform", "ecsq")

_Layers = dict[str, Quantized]


def weighted_error(weights: Arrays, importance: Arrays, quantized: _Layers) -> float:
    """Sum over all layers of importance times squared error."""
    total = 0.0
    for name, w in weights.items():
        squared = (quantized[name].dense() - w) ** 2
        total += float((importance[name] * squared).sum(dtype=np.float64))
    return total


def joint_entropy(quantized: _Layers) -> float:
    """Bits for a code that is not 0, where all layers count as one source.

    Each layer numbers the entries that it has by itself, so the entries are what is counted.
    """
    entries = [q.dense()[q.codes != 0] for q in quantized.values()]
    _, numbers = np.unique(np.concatenate(entries), return_inverse=True)
    return code_entropy((numbers + 1).astype(np.uint8))


def quantize_at_equal_error(
    quantizer: str, weights: Arrays, importance: Arrays, codebook_size: int
) -> _Layers:
    """Quantizes all layers with one codebook, within the error of Hessian-weighted k-means.

    Args:
        quantizer: one of :data:`QUANTIZERS`.
        weights: float32 by name; pruned already.
        importance: the Hessian's diagonal, as the weights.
        codebook_size: of Hessian-weighted k-means, 1 to 255, whose weighted error is the bound.

    Raises:
        ValueError: the quantizer is unknown.
    """
    if quantizer not in QUANTIZERS:
        raise ValueError(f"quantizer {quantizer!r} is none of {', '.join(QUANTIZERS)}")
    hessian = quantize_kmeans(weights, codebook_size, importance=importance, joint=True)
    bound = weighted_error(weights, importance, hessian)

    def within(quantized: _Layers) -> bool:
        return weighted_error(weights, importance, quantized) <= bound

    if quantizer == "hessian":
        return hessian
    if quantizer == "kmeans":
        return _smallest(
            lambda size: quantize_kmeans(weights, size, joint=True), codebook_size, within
        )
    if quantizer == "uniform":
        return _smallest(
            lambda size: quantize_uniform(weights, size, importance=importance, joint=True),
            1,
            within,
        )
    kept = sum(int(np.count_nonzero(w)) for w in weights.values())
    start = min(MAX_CODEBOOK_SIZE, 4 * codebook_size + 3)

    def ecsq(exponent: float) -> _Layers:
        penalty = bound / max(1, kept) * 2.0**exponent  # the Lagrange multiplier's magnitude
        return quantize_ecsq(weights, start, penalty=penalty, importance=importance, joint=True)

    low, high = -6.0, 6.0
    found = ecsq(low)
    for _ in range(16):
        middle = (low + high) / 2
        tried = ecsq(middle)
        if within(tried):
            low, found = middle, tried
        else:
            high = middle
    return found


def _smallest(
    make: Callable[[int], _Layers], start: int, accept: Callable[[_Layers], bool]
) -> _Layers:
    """What the smallest acceptable codebook size gives."""
    for size in range(start, MAX_CODEBOOK_SIZE):
        made = make(size)
        if accept(made):
            return made
    return make(MAX_CODEBOOK_SIZE)


def quantize_uniform_within(weights: Arrays, importance: Arrays, bits: float) -> _Layers:
    """As many uniform steps as need at most ``bits`` for a code, all layers as one source."""
    for steps in range(MAX_CODEBOOK_SIZE, 1, -1):
        made = quantize_uniform(weights, steps, importance=importance, joint=True)
        if joint_entropy(made) <= bits:
            return made
    return quantize_uniform(weights, 1, importance=importance, joint=True)
