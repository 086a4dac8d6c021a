"""Look-ups of rows in a compressed matrix, each decoded when it is asked for."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tersor import _core
from tersor._core import PackedRows
from tersor.codec.blob import CompressedTensor, as_blob, decode_blob

__all__ = ["PackedRows", "look_up", "pack_rows"]


def pack_rows(
    layer: CompressedTensor | npt.ArrayLike | bytes,
    *,
    factors: npt.ArrayLike | None = None,
    threads: int = 1,
) -> PackedRows:
    """Packs the rows of a compressed tensor, or of its blob, for look-ups.

    Codes take as few bits as the codebook needs, 1 to 8.

    Args:
        layer: a decoded tensor of a kind with a codebook, or its blob, uint8 ``[n]``.
        factors: float32 ``[rows]``, by which rows are multiplied; None = by nothing.
        threads: at most this many.

    Raises:
        FormatError: the blob is malformed, or a value is not finite.
        ValueError: the tensor has no codebook, or there is not a factor for each row.
    """
    content = layer if isinstance(layer, CompressedTensor) else decode_blob(as_blob(layer))
    if not content.shared:
        raise ValueError(f"rows of codes need a codebook, which kind {content.kind} has not")
    scales = None if factors is None else np.ascontiguousarray(factors, dtype=np.float32)
    return _core.rows_pack(*content.csr.parts(), content.codebook(), scales, threads)


def rows_of_blob(blob: npt.ArrayLike | bytes, *, threads: int = 1) -> PackedRows | None:
    """As :func:`pack_rows`; None where the kind of the blob has no codebook."""
    content = decode_blob(as_blob(blob))
    return pack_rows(content, threads=threads) if content.shared else None


def look_up(
    packed: PackedRows, indices: npt.ArrayLike, *, threads: int = 1
) -> npt.NDArray[np.float32]:
    """The rows of these indices.

    Args:
        packed: ``[rows, cols]``.
        indices: integers of any shape.
        threads: at most this many.

    Returns:
        float32 ``[*indices, cols]``.

    Raises:
        IndexError: an index is negative, or not less than the number of rows.
        TypeError: the indices are no integers.
    """
    given = np.asarray(indices)
    if given.dtype.kind not in "iu" and given.size:
        raise TypeError(f"indices must be integers, not {given.dtype}")
    places = np.ascontiguousarray(given, dtype=np.int64)
    out = np.empty((*places.shape, packed.cols), np.float32)
    wrong = _core.rows_look_up(packed, places.ctypes.data, places.size, out.ctypes.data, 0, threads)
    if wrong is not None:
        raise index_error(int(places.reshape(-1)[wrong]), wrong, packed.rows)
    return out


def index_error(index: int, position: int, rows: int) -> IndexError:
    """What is raised for an index that is out of range."""
    return IndexError(f"index {index} at position {position} is out of range for {rows} rows")
