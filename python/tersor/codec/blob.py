"""One compressed tensor as one self-describing blob of bytes (docs/format.md)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tersor import _core
from tersor.codec.csr import RelativeCsr

SUFFIX = "_blob"
"""The blob of tensor ``fc.weight`` is stored under ``fc.weight_blob``."""

NO_LIMIT = (1 << 63) - 1
"""What the core takes for no ``max_bytes``."""


@dataclass(frozen=True, eq=False)
class CompressedTensor:
    """The decoded, canonical content of a blob.

    Attributes:
        shape: of the dense tensor; its first dimension makes the rows of the matrix.
        kind: ``shared_fp32``, ``shared_fp16`` (a codebook) or ``plain_fp32``, ``plain_fp16``.
        csr: the codes (0 and 1 for the plain kinds).
        values: float32; shared: ``[k]``, code c has ``values[c - 1]``; plain: one per non-zero.
    """

    shape: tuple[int, ...]
    kind: str
    csr: RelativeCsr
    values: npt.NDArray[np.float32]

    @property
    def shared(self) -> bool:
        """Whether the weights share the values of a codebook."""
        return self.kind.startswith("shared")

    def codebook(self) -> npt.NDArray[np.float32]:
        """The values with the zero of code 0 before them: float32 ``[k + 1]``."""
        return np.concatenate([np.zeros(1, np.float32), self.values])


@dataclass(frozen=True)
class BlobInfo:
    """Where the bytes of a blob go, counted on its streams; in bytes unless named bits."""

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

    @property
    def is_vector(self) -> bool:
        """Whether this is a coded vector, such as a bias, and not the weight of a layer."""
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
    """The blob of a layer, uint8 ``[n]``.

    Raises:
        ValueError: the parts of the layer do not fit together, or a value is not finite.
    """
    values = np.ascontiguousarray(layer.values, dtype=np.float32)
    return _core.layer_encode(list(layer.shape), layer.kind, *layer.csr.parts(), values)


def decode_blob(
    blob: npt.ArrayLike | bytes, *, max_bytes: int | None = None, threads: int = 1
) -> CompressedTensor:
    """Decodes a blob and checks everything in it, its hash included.

    Args:
        blob: uint8 ``[n]``.
        max_bytes: refuse, before allocating, a blob whose content takes more while it is decoded:
            a byte for each code, gap and byte of the row lengths' stream, four for each row length
            and value.
        threads: at most this many.

    Raises:
        FormatError: the blob is malformed; the message names the byte.
    """
    limit = NO_LIMIT if max_bytes is None else max_bytes
    shape, kind, csr, values = _core.layer_decode(as_blob(blob), limit, threads)
    return CompressedTensor(shape, kind, RelativeCsr(*csr), values)


def decode_rows(
    blob: npt.ArrayLike | bytes,
    first: int,
    count: int,
    *,
    verify: bool = True,
    max_bytes: int | None = None,
    threads: int = 1,
) -> CompressedTensor:
    """Decodes ``count`` rows from ``first`` on, as a layer with so many rows.

    Of a blob that is stored by rows only the blocks of its streams that hold them are decoded.

    Args:
        verify: check the hash over the whole blob first; without it the checksums of the blocks
            alone tell damage.
        max_bytes: as of :func:`decode_layer`.
        threads: at most this many.

    Raises:
        FormatError: the blob is malformed; the message names the byte.
        ValueError: the layer has no such rows.
    """
    if first < 0 or count < 0:
        raise ValueError(f"first and count must not be negative, not {first} and {count}")
    limit = NO_LIMIT if max_bytes is None else max_bytes
    shape, kind, csr, values = _core.layer_decode_rows(
        as_blob(blob), first, count, verify, limit, threads
    )
    return CompressedTensor(shape, kind, RelativeCsr(*csr), values)


def inspect_blob(blob: npt.ArrayLike | bytes, *, verify: bool = False) -> BlobInfo:
    """Counts the bytes of a blob without decoding any; checks its hash when asked to.

    The number of non-zeros is the announced one; :func:`decode_layer` checks that it is true.

    Raises:
        FormatError: the blob is malformed; the message names the byte.
    """
    return BlobInfo(**_core.layer_inspect(as_blob(blob), verify))


def is_blob(blob: npt.ArrayLike | bytes) -> bool:
    """Whether the bytes start like a blob; says nothing about the rest."""
    return _core.is_layer(as_blob(blob))
