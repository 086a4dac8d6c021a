"""A tensor as a blob that decodes to the same bits (docs/format.md).

Exponents, and the bytes of integers that repeat, are coded; mantissas stay as they are. Tensors are
bytes here, as numpy has no type for all of them; :mod:`tersor.io.lossless` takes torch's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tersor import _core
from tersor._core import FormatError
from tersor.codec.blob import as_blob

Raw = npt.NDArray[np.uint8]

_BELIEVED = 1 << 30
_PER_BYTE = 256
_COPY_BELOW = 1 << 16


@dataclass(frozen=True)
class LosslessInfo:
    """What a blob announces.

    Attributes:
        dtype: as safetensors names it (``BF16``).
        shape: of the tensor.
        nbytes: of the tensor.
        block_bytes: decoded together: a range takes the time of whole blocks.
        header_bytes: of the blob before its blocks: shape, tables, sizes.
    """

    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    block_bytes: int
    header_bytes: int


def encode(raw: Raw, dtype: str, shape: Sequence[int], *, threads: int = 1) -> Raw:
    """Encodes a tensor as a blob, uint8 ``[m]``.

    It is never larger than the tensor by more than 10 bytes and those of its shape, about as many
    as it has dimensions. The bytes do not depend on the instruction set or the number of threads.

    Args:
        raw: the tensor's bytes, little-endian in row order, uint8 ``[n]``.
        dtype: as safetensors names it.
        shape: of the tensor, at most 8 dimensions.
        threads: at most this many.

    Raises:
        ValueError: the dtype is unknown, or the shape does not fit the bytes.
    """
    out = np.empty(_core.lossless_bound(raw.nbytes), np.uint8)
    size = _core.lossless_encode(dtype, list(shape), raw, out, threads)
    # Pages of a large array that were never written to take no memory.
    return out[:size].copy() if size < _COPY_BELOW else out[:size]


def inspect(blob: npt.ArrayLike | bytes) -> LosslessInfo:
    """Reads the head of a blob; nothing is decoded.

    Raises:
        FormatError: it is malformed; the message names the byte.
    """
    return LosslessInfo(*_core.lossless_inspect(as_blob(blob)))


def decode(
    blob: npt.ArrayLike | bytes,
    out: Raw | None = None,
    *,
    max_bytes: int | None = None,
    threads: int = 1,
    verify: bool = True,
) -> Raw:
    """Decodes a whole tensor: its bytes, uint8 ``[n]``.

    Args:
        blob: uint8 ``[m]``.
        out: contiguous uint8 of exactly the decoded length, filled in place; None = allocate.
        max_bytes: without ``out``, refuse a larger tensor before it is allocated. None = 1 GiB and
            256 bytes for each byte of the blob.
        threads: at most this many.
        verify: check the checksums.

    Raises:
        FormatError: the blob is malformed, or needs more; the message names the byte.
        ValueError: ``out`` does not fit.
    """
    source = as_blob(blob)
    nbytes = inspect(source).nbytes
    if out is None:
        out = _allocate(nbytes, source, max_bytes)
    elif out.dtype != np.uint8 or out.nbytes != nbytes or not out.flags.c_contiguous:
        raise ValueError(f"out must be contiguous uint8 with {nbytes} elements")
    _core.lossless_decode(source, 0, out, threads, verify)
    return out


def decode_rows(
    blob: npt.ArrayLike | bytes,
    first: int,
    count: int,
    *,
    max_bytes: int | None = None,
    threads: int = 1,
    verify: bool = True,
) -> Raw:
    """Decodes the rows ``first`` to ``first + count - 1``, reading only the blocks they are in.

    A row is what one index of the first dimension holds.

    Raises:
        FormatError: the blob is malformed, or needs more than ``max_bytes``; the message names the
            byte.
        ValueError: the rows are out of range.
    """
    source = as_blob(blob)
    info = inspect(source)
    rows = info.shape[0] if info.shape else 1
    if first < 0 or count < 0 or first + count > rows:
        raise ValueError(f"the tensor has no rows {first} to {first + count}, but {rows}")
    row_bytes = info.nbytes // rows if rows else 0
    out = _allocate(count * row_bytes, source, max_bytes)
    _core.lossless_decode(source, first * row_bytes, out, threads, verify)
    return out


def is_lossless(blob: npt.ArrayLike | bytes) -> bool:
    """Whether the bytes begin like such a blob; nothing else is checked."""
    return _core.is_lossless(as_blob(blob))


def _allocate(nbytes: int, blob: Raw, max_bytes: int | None) -> Raw:
    limit = _BELIEVED + _PER_BYTE * blob.nbytes if max_bytes is None else max_bytes
    if nbytes > limit:
        raise FormatError(
            f"lossless blob: the tensor takes {nbytes} bytes, more than {limit} (at byte 5)"
        )
    return np.empty(nbytes, np.uint8)
