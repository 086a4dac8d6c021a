"""Dispatch from the settings of a layer to a quantizer."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from tersor._validation import as_float32
from tersor.config import LayerConfig
from tersor.quantizers.base import MAX_CODEBOOK_SIZE, Arrays, Masks, Quantized, check
from tersor.quantizers.ecsq import quantize_ecsq
from tersor.quantizers.integer import quantize_integer
from tersor.quantizers.kmeans import quantize_kmeans
from tersor.quantizers.uniform import quantize_uniform

_SAMPLE = 1 << 20  # weights checked first: most weights have too many values already there


def _distinct_values(
    x: npt.NDArray[np.float32], limit: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.intp]] | None:
    """The distinct values and the index of each element; None if there are more than ``limit``."""
    if len(np.unique(x[:_SAMPLE])) > limit:
        return None
    distinct, number = np.unique(x, return_inverse=True)
    return (distinct, number) if len(distinct) <= limit else None


def own_codebook(
    values: npt.NDArray[np.float32], settings: LayerConfig, dimensions: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.intp]] | None:
    """The codebook that a weight has already, where the settings keep it.

    Args:
        values: float32 ``[n]``: the weights that are kept.
        settings: without a number, up to 255 entries are kept; a codebook size, and ``bits``, allow
            as many as others get, and a penalty none.
        dimensions: of the weight.

    Returns:
        The distinct values, and the index of each weight; None = they are to be quantized.
    """
    if settings.penalty is not None:
        return None
    chosen = (settings.codebook_size, settings.bits) != (None, None)
    limit = codebook_size_of(settings, dimensions) if chosen else MAX_CODEBOOK_SIZE
    return _distinct_values(values, limit)


def codebook_size_of(settings: LayerConfig, dimensions: int) -> int:
    """Maximum number of non-zero codebook entries for a weight with this many dimensions."""
    return settings.codebook_size or (15 if dimensions <= 2 else 255)


def with_method(settings: LayerConfig, dimensions: int, kept: float) -> LayerConfig:
    """The settings with a method and a codebook size.

    Fifteen entries are few for a matrix that was not pruned and is not trained with them. As
    multiples of a step 127 take no more bytes, for most weights then lie at the small ones.

    Args:
        settings: of the layer.
        dimensions: of its weight.
        kept: share of the weights that are not pruned.
    """
    method, size = settings.method, codebook_size_of(settings, dimensions)
    if method is None:
        method = "kmeans"
        if settings.codebook_size is None and dimensions == 2 and kept > 0.5:
            method, size = "integer", 127
    return dataclasses.replace(settings, method=method, codebook_size=size)


def entropy_of_settings(settings: LayerConfig, values: int) -> float:
    """Target entropy of ECSQ in bits per code, where no penalty is given."""
    return max(0.0, math.log2(values) - 1) if settings.bits is None else settings.bits


def quantize_weight(
    weight: npt.NDArray[np.float32],
    kept: npt.NDArray[np.bool_],
    settings: LayerConfig,
    name: str,
    importance: Any,
) -> Quantized:
    """Quantizes one weight with the method of its settings.

    Args:
        weight: float32 of any shape.
        kept: bool of the same shape: the weights that are not pruned.
        settings: method, codebook size and the options of the method.
        name: for messages.
        importance: non-negative, of the same shape, or None.

    Raises:
        ValueError: as :func:`tersor.codec.encode.compress_weight`.
    """
    weights, masks = {name: weight}, {name: kept}
    by_name = None if importance is None else {name: as_float32(importance, f"{name}: importance")}
    exact = own_codebook(weight[kept], settings, weight.ndim)
    if exact is not None:
        distinct, number = exact
        check(weights, by_name)
        codes = np.zeros(weight.shape, np.uint8)
        codes[kept] = number + 1
        return Quantized(codes, distinct)
    share = float(np.mean(kept)) if kept.size and importance is None else 0.0
    chosen = with_method(settings, weight.ndim, share)
    return quantize_by(weights, masks, chosen, codebook_size_of(chosen, weight.ndim), by_name)[name]


def quantize_by(
    weights: Arrays,
    kept: Masks,
    settings: LayerConfig,
    limit: int,
    importance: Arrays | None,
    joint: bool = False,
) -> dict[str, Quantized]:
    """Quantizes weights with the method of the settings and at most ``limit`` codebook entries.

    Each weight has its own codebook; if ``joint``, all have one joint codebook. Without a method
    that is k-means.

    Raises:
        ValueError: as the quantizers.
    """
    given: dict[str, Any] = {"importance": importance, "kept": kept, "joint": joint}
    if settings.method == "uniform":
        return quantize_uniform(weights, limit, **given)
    if settings.method == "integer":
        return quantize_integer(weights, limit, **given)
    if settings.method in ("kmeans", None):
        return quantize_kmeans(weights, limit, algorithm=settings.algorithm, **given)
    bits = None if settings.penalty is not None else entropy_of_settings(settings, limit)
    return quantize_ecsq(
        weights, limit, bits=bits, penalty=settings.penalty, prune=settings.prune, **given
    )
