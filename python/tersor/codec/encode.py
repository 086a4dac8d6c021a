"""From a dense weight to a layer, and back; numpy in and out, torch tensors welcome."""

from __future__ import annotations

import math
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
    """The layer whose real blob is smallest among the allowed index widths and gap modes."""
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
                continue  # mostly fillers: it cannot win, and would be slow to encode
            layer = CompressedTensor(shape, settings.kind, matrix, shared.values)
            size = len(encode_blob(layer))
            if best is None or size < best_bytes:
                best, best_bytes = layer, size
    assert best is not None
    return best


def compress_weight(
    weight: Any, settings: LayerConfig, name: str = "weight", importance: Any = None
) -> CompressedTensor:
    """Prunes, shares and encodes one weight.

    A weight that holds no more distinct values than ``settings.codebook_size`` keeps exactly these.

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
    kept = kept_by(dense, settings)
    if settings.kind.startswith("shared"):
        shared = quantize_weight(dense, kept, settings, name, importance)
    else:  # of the plain kinds each weight is a value of its own
        shared = Quantized(kept.astype(np.uint8), dense[kept])
    return encode_smallest(shared, settings)


def decompress_weight(layer: CompressedTensor) -> npt.NDArray[np.float32]:
    """The dense weight of a layer: float32 of the layer's shape."""
    codes = csr.decode(layer.csr)
    if layer.shared:
        return layer.codebook()[codes].reshape(layer.shape)
    dense = np.zeros(codes.shape, np.float32)
    dense[codes != 0] = layer.values
    return dense.reshape(layer.shape)
