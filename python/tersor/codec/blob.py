"""One compressed tensor as one self-describing blob of bytes (docs/format.md)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tersor import _core
from tersor.codec.csr import RelativeCsr

SUFFIX = "_blob"
"""The blob of tensor ``fc.weight`` is stored under ``fc.weight_blob``."""


@dataclass(frozen=True, eq=False)
class CompressedTensor:
    """The decoded, canonical content of a blob.

    Attributes:
        shape: of the dense tensor; its first dimension makes the rows of the matrix.
        kind: ``shared_fp32``, ``shared_fp16`` (a codebook) or ``plain_fp32``, ``plain_fp16``.
        csr: the codes (0 and 1 for the plain kinds).
        values: float32; shared: ``[k]``, code c has ``values[c - 1]``; plain: one per non-zero.
        row_factors: float32 ``[rows]``, which the weights of each row are multiplied with; None =
            all 1. Factors of :func:`tersor.codec.factors.round_factors` are stored in a few bits.
        column_factors: the same for each column, float32 ``[cols]``. Of a filter bank the columns
            are input channels by taps; factors that are equal for all taps are stored once.
        entropy: how the blob codes places and codes: ``huffman``, in blocks that decode alone, or
            ``smallest``, adaptively, for 5 to 15 % fewer bytes and 50 to 200 ns a weight to decode;
            shared kinds only.
    """

    shape: tuple[int, ...]
    kind: str
    csr: RelativeCsr
    values: npt.NDArray[np.float32]
    row_factors: npt.NDArray[np.float32] | None = None
    column_factors: npt.NDArray[np.float32] | None = None
    entropy: str = "huffman"

    @property
    def shared(self) -> bool:
        """Whether the weights are codes into a codebook."""
        return self.kind.startswith("shared")

    def codebook(self) -> npt.NDArray[np.float32]:
        """The codebook with the zero of code 0 in front: float32 ``[k + 1]``."""
        return np.concatenate([np.zeros(1, np.float32), self.values])

    def scale(self, matrix: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The matrix ``[rows, cols]`` with the factors of its rows and columns, in place."""
        if self.row_factors is not None:
            matrix *= self.row_factors[:, None]
        if self.column_factors is not None:
            matrix *= self.column_factors
        return matrix


@dataclass(frozen=True)
class BlobInfo:
    """The size of a blob by part, read from its streams; in bytes unless the name says bits.

    Where the entropy is ``smallest``, places and codes are one stream, counted as ``code_bytes``,
    and there are no fillers.
    """

    shape: tuple[int, ...]
    kind: str
    index_bits: int
    flat: bool
    weights: int
    nonzeros: int
    entries: int
    clusters: int
    header_bytes: int
    value_bytes: int
    code_bytes: int
    code_bits: int
    gap_bytes: int
    gap_bits: int
    row_length_bytes: int
    total_bytes: int
    decoded_bytes: int = 0
    packing_bytes: int = 0
    factor_bytes: int = 0
    entropy: str = "huffman"

    @property
    def is_vector(self) -> bool:
        """Whether this is a coded vector, such as a bias, rather than the weight of a layer."""
        return len(self.shape) == 1


def as_blob(blob: npt.ArrayLike | bytes) -> npt.NDArray[np.uint8]:
    """The bytes of a blob as contiguous uint8 ``[n]``."""
    if isinstance(blob, (bytes, bytearray, memoryview)):
        return np.frombuffer(blob, np.uint8)
    array = np.asarray(blob)
    if array.dtype != np.uint8:
        raise ValueError(f"a blob must be uint8, not {array.dtype}")
    return np.ascontiguousarray(array).reshape(-1)


def encode_blob(layer: CompressedTensor) -> npt.NDArray[np.uint8]:
    """Encodes a compressed tensor as a blob, uint8 ``[n]``.

    Raises:
        ValueError: the fields of the tensor are inconsistent, or a value is not finite.
    """
    return _core.layer_encode(
        list(layer.shape),
        layer.kind,
        *layer.csr.parts(),
        np.ascontiguousarray(layer.values, dtype=np.float32),
        *factors_of(layer),
        layer.entropy,
    )


def factors_of(
    layer: CompressedTensor,
) -> tuple[npt.NDArray[np.float32] | None, npt.NDArray[np.float32] | None]:
    """The factors of rows and columns as contiguous float32."""
    rows, columns = (
        None if factors is None else np.ascontiguousarray(factors, dtype=np.float32)
        for factors in (layer.row_factors, layer.column_factors)
    )
    return rows, columns


def decode_blob(
    blob: npt.ArrayLike | bytes, *, max_bytes: int | None = None, threads: int = 1
) -> CompressedTensor:
    """Decodes a blob and validates all of it, including its hash.

    Args:
        blob: uint8 ``[n]``.
        max_bytes: reject, before allocating, a blob that needs more memory while it is decoded: one
            byte per code, per gap and per byte of the row-length stream, four per row length, per
            factor and per codebook entry or value, five per factor as it is stored, five per
            element of a vector, and of a blob whose entropy is ``smallest`` one per weight and
            eight per column. None = 1 GiB and 256 bytes for each byte of the blob.
        threads: at most this many.

    Raises:
        FormatError: the blob is malformed, or needs more than ``max_bytes``; the message names the
            byte.
    """
    shape, kind, csr, *rest = _core.layer_decode(as_blob(blob), max_bytes, threads)
    return CompressedTensor(shape, kind, RelativeCsr(*csr), *rest)


def decode_rows(
    blob: npt.ArrayLike | bytes,
    first: int,
    count: int,
    *,
    verify: bool = True,
    max_bytes: int | None = None,
    threads: int = 1,
) -> CompressedTensor:
    """Decodes the rows ``first`` to ``first + count - 1``, as a tensor of ``count`` rows.

    If the blob is stored by rows, only the stream blocks that contain them are decoded; if its
    entropy is ``smallest``, everything is.

    Args:
        blob: uint8 ``[n]``.
        first: index of the first row, from 0.
        count: number of rows.
        verify: check the hash of the complete blob first; otherwise only the checksums of the
            decoded blocks detect damage.
        max_bytes: as for :func:`decode_blob`.
        threads: at most this many.

    Raises:
        FormatError: the blob is malformed, or needs more than ``max_bytes``; the message names the
            byte.
        ValueError: the rows are out of range.
    """
    if first < 0 or count < 0:
        raise ValueError(f"first and count must not be negative, not {first} and {count}")
    shape, kind, csr, *rest = _core.layer_decode_rows(
        as_blob(blob), first, count, verify, max_bytes, threads
    )
    return CompressedTensor(shape, kind, RelativeCsr(*csr), *rest)


def inspect_blob(blob: npt.ArrayLike | bytes, *, verify: bool = False) -> BlobInfo:
    """Reads the size of each part of a blob without decoding it; ``verify`` checks its hash.

    The number of non-zeros is taken from the header; :func:`decode_blob` verifies it.

    Raises:
        FormatError: the blob is malformed; the message names the byte.
    """
    return BlobInfo(**_core.layer_inspect(as_blob(blob), verify))


def is_blob(blob: npt.ArrayLike | bytes) -> bool:
    """Whether the bytes begin with the magic of a blob; nothing else is checked."""
    return _core.is_layer(as_blob(blob))
