"""The quantizer that a layer's settings ask for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from tersor._validation import as_float32
from tersor.config import LayerConfig
from tersor.quantizers.base import MAX_CODEBOOK_SIZE, Arrays, Masks, Quantized, check
from tersor.quantizers.ecsq import quantize_ecsq
from tersor.quantizers.kmeans import quantize_kmeans
from tersor.quantizers.uniform import quantize_uniform

_SAMPLE = 1 << 20  # weights looked at before all are


def _shared_already(
    x: npt.NDArray[np.float32], limit: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.intp]] | None:
    """The distinct values, and which one each number is; None: more than ``limit``."""
    if len(np.unique(x[:_SAMPLE])) > limit:
        return None
    distinct, number = np.unique(x, return_inverse=True)
    return (distinct, number) if len(distinct) <= limit else None


def codebook_size_of(settings: LayerConfig, dimensions: int) -> int:
    """The most shared values beside zero of a weight with so many dimensions."""
    return settings.codebook_size or (15 if dimensions <= 2 else 255)


def entropy_of_settings(settings: LayerConfig, values: int) -> float:
    """The entropy that ECSQ comes down to where no penalty is given."""
    return max(0.0, math.log2(values) - 1) if settings.bits is None else settings.bits


def quantize_weight(
    weight: npt.NDArray[np.float32],
    kept: npt.NDArray[np.bool_],
    settings: LayerConfig,
    name: str,
    importance: Any,
) -> Quantized:
    """Codes and shared values of a weight, by the method of the settings.

    ``kept`` says which entries are not pruned.

    Raises:
        ValueError: as :func:`compress_weight`.
    """
    limit = codebook_size_of(settings, weight.ndim)
    weights, masks = {name: weight}, {name: kept}
    matters = None if importance is None else {name: as_float32(importance, f"{name}: importance")}
    # Weights that share a codebook already keep it, whatever number would be chosen for others.
    chosen = (settings.codebook_size, settings.bits) != (None, None)
    exact = None
    if settings.penalty is None:
        exact = _shared_already(weight[kept], limit if chosen else MAX_CODEBOOK_SIZE)
    if exact is not None:
        distinct, number = exact
        check(weights, matters)
        codes = np.zeros(weight.shape, np.uint8)
        codes[kept] = number + 1
        return Quantized(codes, distinct)
    return quantize_by(weights, masks, settings, limit, matters)[name]


def quantize_by(
    weights: Arrays,
    kept: Masks,
    settings: LayerConfig,
    limit: int,
    importance: Arrays | None,
    together: bool = False,
) -> dict[str, Quantized]:
    """Shared values by the method of the settings, at most ``limit``: of each weight, or of all.

    Raises:
        ValueError: as the methods of :mod:`tersor.quantizers.base`.
    """
    given: dict[str, Any] = {"importance": importance, "kept": kept, "together": together}
    if settings.method == "uniform":
        return quantize_uniform(weights, limit, **given)
    if settings.method == "kmeans":
        return quantize_kmeans(weights, limit, mode=settings.algorithm, **given)
    bits = None if settings.penalty is not None else entropy_of_settings(settings, limit)
    return quantize_ecsq(
        weights, limit, bits=bits, penalty=settings.penalty, prune=settings.prune, **given
    )
