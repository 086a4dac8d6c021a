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
from tersor.methods import Arrays, Masks, Sharing, check, share_ecsq, share_kmeans, share_uniform


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


_CHUNK = 1 << 20  # weights looked at together


def _size_of_rank(weight: npt.NDArray[np.float32], count: int) -> np.float32:
    """The absolute value of the ``count``-th largest weight, without a copy of the weight.

    The bits of a float ascend with it: a histogram of the upper ones finds those of the value, a
    second one, of what begins with these, the lower ones.
    """
    bits = weight.reshape(-1).view(np.uint32)
    prefix = np.uint32(0)
    for shift in (15, 0):
        counts = np.zeros(1 << 16, np.int64)
        for start in range(0, bits.size, _CHUNK):
            size = bits[start : start + _CHUNK] & np.uint32(0x7FFFFFFF)
            if shift == 0:
                size = size[size >> np.uint32(15) == prefix] & np.uint32(0x7FFF)
            counts += np.bincount(size >> np.uint32(shift), minlength=1 << 16)
        larger = np.cumsum(counts[::-1])[::-1]  # so many are as large as the bin's least
        found = int(np.flatnonzero(larger >= count)[-1])
        count -= int(larger[found] - counts[found])
        prefix = np.uint32(found) if shift else prefix << np.uint32(15) | np.uint32(found)
    value: np.float32 = np.array([prefix], np.uint32).view(np.float32)[0]
    return value


def kept_weights(weight: npt.NDArray[np.float32], density: float | None) -> npt.NDArray[np.bool_]:
    """Which weights stay: the largest ones, the first of equal ones, and never one that is zero.

    Args:
        weight: contiguous float32 of any shape.
        density: share of the weights kept, 0 to 1; None = all but the zeros.
    """
    nonzero: npt.NDArray[np.bool_] = weight != 0
    count = weight.size if density is None else round(density * weight.size)
    if int(np.count_nonzero(nonzero)) <= count:
        return nonzero
    if count == 0:
        return np.zeros_like(nonzero)
    least = _size_of_rank(weight, count)
    kept = weight > least
    kept |= weight < -least
    equal = np.flatnonzero((weight == least) | (weight == -least))
    kept.reshape(-1)[equal[: count - int(np.count_nonzero(kept))]] = True
    return kept


def kept_by(weight: npt.NDArray[np.float32], settings: LayerConfig) -> npt.NDArray[np.bool_]:
    """Which weights stay by the settings' density or threshold."""
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


def _shared_already(
    x: npt.NDArray[np.float32], limit: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.intp]] | None:
    """The distinct values, and which one each number is; None: more than ``limit``."""
    if len(np.unique(x[:_CHUNK])) > limit:
        return None
    distinct, number = np.unique(x, return_inverse=True)
    return (distinct, number) if len(distinct) <= limit else None


def values_of(settings: LayerConfig, dimensions: int) -> int:
    """The most shared values beside zero of a weight with so many dimensions."""
    return settings.values or (15 if dimensions <= 2 else 255)


def bits_of(settings: LayerConfig, values: int) -> float:
    """The entropy that ECSQ comes down to where no penalty is given."""
    return max(0.0, math.log2(values) - 1) if settings.bits is None else settings.bits


def share_weight(
    weight: npt.NDArray[np.float32],
    kept: npt.NDArray[np.bool_],
    settings: LayerConfig,
    name: str,
    importance: Any,
) -> Sharing:
    """Codes and shared values of a weight, by the method of the settings.

    ``kept`` says which entries are not pruned.

    Raises:
        ValueError: as :func:`compress_weight`.
    """
    limit = values_of(settings, weight.ndim)
    weights, masks = {name: weight}, {name: kept}
    matters = None if importance is None else {name: as_float32(importance, f"{name}: importance")}
    if settings.penalty is None and (already := _shared_already(weight[kept], limit)) is not None:
        distinct, number = already
        # Shared already: keep exactly these values.
        check(weights, matters)
        codes = np.zeros(weight.shape, np.uint8)
        codes[kept] = number + 1
        return Sharing(codes, distinct)
    return share_by(weights, masks, settings, limit, matters)[name]


def share_by(
    weights: Arrays,
    kept: Masks,
    settings: LayerConfig,
    limit: int,
    importance: Arrays | None,
    together: bool = False,
) -> dict[str, Sharing]:
    """Shared values by the method of the settings, at most ``limit``: of each weight, or of all.

    Raises:
        ValueError: as the methods of :mod:`tersor.methods`.
    """
    given: dict[str, Any] = {"importance": importance, "kept": kept, "together": together}
    if settings.method == "uniform":
        return share_uniform(weights, limit, **given)
    if settings.method == "kmeans":
        return share_kmeans(weights, limit, mode=settings.mode, **given)
    bits = None if settings.penalty is not None else bits_of(settings, limit)
    return share_ecsq(
        weights, limit, bits=bits, penalty=settings.penalty, prune=settings.prune, **given
    )


def encode_shared(shared: Sharing, settings: LayerConfig) -> Layer:
    """The layer whose real blob is smallest among the allowed index widths and gap modes."""
    shape = shared.codes.shape
    codes = shared.codes.reshape(shape[0], math.prod(shape[1:]))
    widths = range(2, 9) if settings.index_bits is None else (settings.index_bits,)
    modes = (False, True) if settings.flat is None else (settings.flat,)
    best: Layer | None = None
    best_bytes = 0
    for flat in modes:
        for width in widths:
            matrix = csr.encode(codes, width, flat=flat)
            if best is not None and len(matrix.codes) > 4 * max(1, len(best.csr.codes)):
                continue  # mostly fillers: it cannot win, and would be slow to encode
            layer = Layer(shape, settings.kind, matrix, shared.values)
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
    kept = kept_by(dense, settings)
    if settings.kind.startswith("shared"):
        shared = share_weight(dense, kept, settings, name, importance)
    else:  # of the plain kinds each weight is a value of its own
        shared = Sharing(kept.astype(np.uint8), dense[kept])
    return encode_shared(shared, settings)


def decompress_layer(layer: Layer) -> npt.NDArray[np.float32]:
    """The dense weight of a layer: float32 of the layer's shape."""
    codes = csr.decode(layer.csr)
    if layer.shared:
        return layer.codebook()[codes].reshape(layer.shape)
    dense = np.zeros(codes.shape, np.float32)
    dense[codes != 0] = layer.values
    return dense.reshape(layer.shape)
