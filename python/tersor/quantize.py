"""From a dense weight to a layer, and back; numpy in and out, torch tensors welcome."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from tersor import csr
from tersor.checks import check_finite
from tersor.config import LayerConfig
from tersor.layer import Layer, encode_layer
from tersor.methods import Sharing, check, share_ecsq, share_kmeans, share_uniform


def as_float32(weight: Any, name: str) -> npt.NDArray[np.float32]:
    """A torch tensor or array of any float type as contiguous float32.

    Raises:
        ValueError: it holds NaN or infinity; the message names the layer.
    """
    if hasattr(weight, "detach"):
        weight = weight.detach().cpu().float().numpy()
    array = np.ascontiguousarray(weight, dtype=np.float32)
    if array.ndim == 0:
        raise ValueError(f"{name}: a weight needs one dimension at least")
    check_finite(array, name)
    return array


def _kept(weight: npt.NDArray[np.float32], density: float | None) -> npt.NDArray[np.bool_]:
    """Which weights stay: the largest ones, the first of equal ones, and never one that is zero."""
    kept: npt.NDArray[np.bool_] = weight != 0
    count = weight.size if density is None else round(density * weight.size)
    surplus = int(np.count_nonzero(kept)) - count
    if surplus <= 0:
        return kept
    if count == 0:
        return np.zeros_like(kept)
    size = np.abs(weight)
    threshold = np.partition(size, weight.size - count, axis=None)[weight.size - count]
    kept = size > threshold
    equal = np.flatnonzero(size == threshold)
    kept.reshape(-1)[equal[: count - int(np.count_nonzero(kept))]] = True
    return kept


def prune_weight(weight: npt.NDArray[np.float32], settings: LayerConfig) -> npt.NDArray[np.float32]:
    """The weight with the zeros that ``settings.density`` asks for."""
    return np.where(_kept(weight, settings.density), weight, np.float32(0))


def share_weight(
    weight: npt.NDArray[np.float32], settings: LayerConfig, name: str, importance: Any
) -> Sharing:
    """Codes and shared values of a pruned weight, by the method of the settings.

    Raises:
        ValueError: as :func:`compress_weight`.
    """
    limit = settings.values or (15 if weight.ndim <= 2 else 255)
    weights = {name: weight}
    matters = None if importance is None else {name: as_float32(importance, f"{name}: importance")}
    kept = weight != 0
    distinct, number = np.unique(weight[kept], return_inverse=True)
    if len(distinct) <= limit and settings.penalty is None:
        # Shared already: keep exactly these values.
        check(weights, matters)
        codes = np.zeros(weight.shape, np.uint8)
        codes[kept] = number + 1
        return Sharing(codes, distinct)
    if settings.method == "uniform":
        return share_uniform(weights, limit, importance=matters)[name]
    if settings.method == "ecsq":
        bits = settings.bits
        if bits is None and settings.penalty is None:
            bits = max(0.0, math.log2(limit) - 1)
        return share_ecsq(
            weights,
            limit,
            bits=bits,
            penalty=settings.penalty,
            prune=settings.prune,
            importance=matters,
        )[name]
    return share_kmeans(weights, limit, mode=settings.mode, importance=matters)[name]


def _smallest(
    codes: npt.NDArray[np.uint8],
    shape: tuple[int, ...],
    values: npt.NDArray[np.float32],
    settings: LayerConfig,
) -> Layer:
    """The layer whose real blob is smallest among the allowed index widths and gap modes."""
    widths = range(2, 9) if settings.index_bits is None else (settings.index_bits,)
    modes = (False, True) if settings.flat is None else (settings.flat,)
    best: Layer | None = None
    best_bytes = 0
    for flat in modes:
        for width in widths:
            matrix = csr.encode(codes, width, flat=flat)
            if best is not None and len(matrix.codes) > 4 * max(1, len(best.csr.codes)):
                continue  # mostly fillers: it cannot win, and would be slow to encode
            layer = Layer(shape, settings.kind, matrix, values)
            size = len(encode_layer(layer))
            if best is None or size < best_bytes:
                best, best_bytes = layer, size
    assert best is not None
    return best


def compress_weight(
    weight: Any, settings: LayerConfig, name: str = "weight", importance: Any = None
) -> Layer:
    """Prunes, shares and encodes one weight.

    A weight that holds no more distinct values than ``settings.values`` keeps exactly these.

    Args:
        weight: torch tensor or array of any float type, ``[rows, ...]``.
        settings: see :class:`tersor.LayerConfig`.
        name: for messages.
        importance: non-negative, of the weight's shape; errors of shared weights count by it (the
            diagonal of the loss's Hessian makes Hessian-weighted k-means); None = all alike.

    Raises:
        ValueError: the weight holds NaN or infinity, or the importance has another shape or is
            negative; the message names the layer.
    """
    dense = as_float32(weight, name)
    if settings.kind.endswith("fp16") and np.abs(dense).max(initial=0.0) > 65504:
        raise ValueError(f"{name}: a weight is too large for fp16")
    pruned = prune_weight(dense, settings)
    if settings.kind.startswith("shared"):
        shared = share_weight(pruned, settings, name, importance)
        codes, values = shared.codes, shared.values
    else:
        kept = pruned != 0
        codes, values = kept.astype(np.uint8), pruned[kept]
    rows = dense.shape[0]
    matrix = codes.reshape(rows, int(np.prod(dense.shape[1:])))
    return _smallest(matrix, dense.shape, values, settings)


def decompress_layer(layer: Layer) -> npt.NDArray[np.float32]:
    """The dense weight of a layer: float32 of the layer's shape."""
    codes = csr.decode(layer.csr)
    if layer.shared:
        return layer.codebook()[codes].reshape(layer.shape)
    dense = np.zeros(codes.shape, np.float32)
    dense[codes != 0] = layer.values
    return dense.reshape(layer.shape)
