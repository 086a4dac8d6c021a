"""Shared values for all layers as one problem, by each of the methods of Choi et al.

As they compare methods at one accuracy, so are they here at one weighted error, before values are
fine-tuned: that of Hessian-weighted k-means. The others take as few bytes as give no larger one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from tersor.quantizers.base import Quantized, code_entropy
from tersor.quantizers.ecsq import quantize_ecsq
from tersor.quantizers.kmeans import quantize_kmeans
from tersor.quantizers.uniform import quantize_uniform

METHODS = ("kmeans", "hessian", "uniform", "ecsq")

Arrays = Mapping[str, npt.NDArray[np.float32]]
Shared = dict[str, Quantized]


def weighted_error(weights: Arrays, importance: Arrays, shared: Shared) -> float:
    """Sum of importance times squared error."""
    total = 0.0
    for name, w in weights.items():
        squared = (shared[name].dense() - w) ** 2
        total += float((importance[name] * squared).sum(dtype=np.float64))
    return total


def entropy(shared: Shared) -> float:
    """Bits for a code that is not 0, where all layers count together.

    Each layer numbers the values that it has by itself, so the values are what is counted.
    """
    taken = [s.dense()[s.codes != 0] for s in shared.values()]
    _, numbers = np.unique(np.concatenate(taken), return_inverse=True)
    return code_entropy((numbers + 1).astype(np.uint8))


def share_by(method: str, weights: Arrays, importance: Arrays, values: int) -> Shared:
    """Shared values by one of :data:`METHODS`.

    Args:
        weights: float32 by name; pruned already.
        importance: the Hessian's diagonal, as the weights.
        values: beside zero, of Hessian-weighted k-means, whose weighted error is the bound.
    """
    hessian = quantize_kmeans(weights, values, importance=importance, together=True)
    bound = weighted_error(weights, importance, hessian)

    def within(shared: Shared) -> bool:
        return weighted_error(weights, importance, shared) <= bound

    if method == "hessian":
        return hessian
    if method == "kmeans":
        return _first(lambda k: quantize_kmeans(weights, k, together=True), values, within)
    if method == "uniform":
        return _first(
            lambda k: quantize_uniform(weights, k, importance=importance, together=True), 1, within
        )
    if method != "ecsq":
        raise ValueError(f"method {method!r} is none of {', '.join(METHODS)}")
    kept = sum(int(np.count_nonzero(w)) for w in weights.values())
    start = min(255, 4 * values + 3)

    def ecsq(exponent: float) -> Shared:
        penalty = bound / max(1, kept) * 2.0**exponent  # about the error that a bit is worth
        return quantize_ecsq(weights, start, penalty=penalty, importance=importance, together=True)

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


def _first(make: Callable[[int], Shared], start: int, accept: Callable[[Shared], bool]) -> Shared:
    """What the smallest acceptable number of values gives."""
    for values in range(start, 255):
        made = make(values)
        if accept(made):
            return made
    return make(255)


def share_uniform_within(weights: Arrays, importance: Arrays, bits: float) -> Shared:
    """As many uniform steps as need no more than so many bits for a code, all layers together."""
    for steps in range(255, 1, -1):
        made = quantize_uniform(weights, steps, importance=importance, together=True)
        if entropy(made) <= bits:
            return made
    return quantize_uniform(weights, 1, importance=importance, together=True)
