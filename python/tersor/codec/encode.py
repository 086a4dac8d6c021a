"""Dense weight to compressed tensor and back; takes numpy arrays and torch tensors."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tersor._validation import as_float32
from tersor.codec import csr
from tersor.codec.blob import CompressedTensor, encode_blob
from tersor.config import LayerConfig
from tersor.pruning.magnitude import kept_by
from tersor.quantizers.base import Quantized
from tersor.quantizers.choose import quantize_weight


def encode_smallest(shared: Quantized, settings: LayerConfig) -> CompressedTensor:
    """Encodes with the index width and gap mode, of those allowed, that give the smallest blob.

    With another entropy coder, where the settings ask for it and it takes fewer bytes.
    """
    shape = shared.codes.shape
    codes = shared.codes.reshape(shape[0], math.prod(shape[1:]))
    widths = range(2, 9) if settings.index_bits is None else (settings.index_bits,)
    modes = (False, True) if settings.flat is None else (settings.flat,)
    best: CompressedTensor | None = None
    best_bytes = 0
    for flat in modes:
        for width in widths:
            matrix = csr.encode(codes, width, flat=flat)
            if best is not None and len(matrix.codes) > 4 * max(1, len(best.csr.codes)):
                continue  # mostly fillers: it cannot be smaller, and is slow to encode
            layer = CompressedTensor(shape, settings.kind, matrix, shared.values)
            size = len(encode_blob(layer))
            if best is None or size < best_bytes:
                best, best_bytes = layer, size
    assert best is not None
    if settings.entropy == "smallest" and best.shared:
        other = replace(best, entropy="smallest")
        return other if len(encode_blob(other)) < best_bytes else best
    return best


def compress_weight(
    weight: Any, settings: LayerConfig, name: str = "weight", importance: Any = None
) -> CompressedTensor:
    """Prunes, quantizes and encodes one weight.

    A weight with at most ``settings.codebook_size`` distinct non-zero values is kept exactly; where
    that is None, one with at most 255.

    Args:
        weight: torch tensor or array of any float type, ``[rows, ...]``.
        settings: see :class:`tersor.LayerConfig`.
        name: for messages.
        importance: non-negative, of the weight's shape; weights the squared errors (the diagonal of
            the loss Hessian gives Hessian-weighted k-means); None = all equal.

    Raises:
        ValueError: the weight contains NaN or infinity, or the importance has another shape or
            negative values; the message names the layer.
    """
    dense = as_float32(weight, name)
    if settings.kind.endswith("fp16") and np.abs(dense).max(initial=0.0) > 65504:
        raise ValueError(f"{name}: a weight is too large for fp16")
    kept = kept_by(dense, settings)
    if settings.kind.startswith("shared"):
        shared = quantize_weight(dense, kept, settings, name, importance)
    else:  # the plain kinds store every value as it is
        shared = Quantized(kept.astype(np.uint8), dense[kept])
    return encode_smallest(shared, settings)


def transposed(layer: CompressedTensor) -> CompressedTensor:
    """The transposed of a matrix, exactly; gaps are of the same width."""
    rows, cols = layer.shape
    codes = np.ascontiguousarray(csr.decode(layer.csr).T)
    matrix = csr.encode(codes, layer.csr.index_bits, flat=layer.csr.flat)
    values = layer.values
    if not layer.shared:
        values = np.ascontiguousarray(decompress_weight(layer).T)[codes != 0]
    return CompressedTensor((cols, rows), layer.kind, matrix, values, entropy=layer.entropy)


def decompress_weight(layer: CompressedTensor) -> npt.NDArray[np.float32]:
    """Decodes to the dense weight: float32 of the tensor's shape."""
    codes = csr.decode(layer.csr)
    if layer.shared:
        dense = layer.codebook()[codes]
    else:
        dense = np.zeros(codes.shape, np.float32)
        dense[codes != 0] = layer.values
    return layer.scale(dense).reshape(layer.shape)
