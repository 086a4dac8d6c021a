"""One compressed tensor as one self-describing blob of bytes (docs/format.md)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tersor import _core, spmm
from tersor.csr import RelativeCsr

SUFFIX = "_blob"
"""The blob of tensor ``fc.weight`` is stored under ``fc.weight_blob``."""

NO_LIMIT = (1 << 63) - 1
"""What the core takes for no ``max_bytes``."""


@dataclass(frozen=True, eq=False)
class Layer:
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
class LayerInfo:
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


def _as_blob(blob: npt.ArrayLike | bytes) -> npt.NDArray[np.uint8]:
    if isinstance(blob, (bytes, bytearray, memoryview)):
        return np.frombuffer(blob, np.uint8)
    array = np.asarray(blob)
    if array.dtype != np.uint8:
        raise ValueError(f"a blob must be uint8, not {array.dtype}")
    return np.ascontiguousarray(array).reshape(-1)


def encode_layer(layer: Layer) -> npt.NDArray[np.uint8]:
    """The blob of a layer, uint8 ``[n]``.

    Raises:
        ValueError: the parts of the layer do not fit together, or a value is not finite.
    """
    values = np.ascontiguousarray(layer.values, dtype=np.float32)
    return _core.layer_encode(list(layer.shape), layer.kind, *layer.csr.parts(), values)


def decode_layer(
    blob: npt.ArrayLike | bytes, *, max_bytes: int | None = None, threads: int = 1
) -> Layer:
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
    shape, kind, csr, values = _core.layer_decode(_as_blob(blob), limit, threads)
    return Layer(shape, kind, RelativeCsr(*csr), values)


def decode_rows(
    blob: npt.ArrayLike | bytes,
    first: int,
    count: int,
    *,
    verify: bool = True,
    max_bytes: int | None = None,
    threads: int = 1,
) -> Layer:
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
        _as_blob(blob), first, count, verify, limit, threads
    )
    return Layer(shape, kind, RelativeCsr(*csr), values)


def inspect_layer(blob: npt.ArrayLike | bytes, *, verify: bool = False) -> LayerInfo:
    """Counts the bytes of a blob without decoding any; checks its hash when asked to.

    The number of non-zeros is the announced one; :func:`decode_layer` checks that it is true.

    Raises:
        FormatError: the blob is malformed; the message names the byte.
    """
    return LayerInfo(**_core.layer_inspect(_as_blob(blob), verify))


def is_layer(blob: npt.ArrayLike | bytes) -> bool:
    """Whether the bytes start like a blob; says nothing about the rest."""
    return _core.is_layer(_as_blob(blob))


def pack_layer(
    layer: Layer | npt.ArrayLike | bytes, *, max_bytes: int | None = None, threads: int = 1
) -> spmm.PackedMatrix:
    """A layer, or its blob, ready to be multiplied with.

    Args:
        layer: decoded, or uint8 ``[n]``.
        max_bytes: refuse, before packing, a blob of which decoding and packing may take more
            together: ``decoded_bytes`` and ``packing_bytes`` of :func:`inspect_layer`.
        threads: at most this many.

    Raises:
        FormatError: the blob is malformed, or takes more than ``max_bytes``; the message names the
            byte.
    """
    if not isinstance(layer, Layer):
        limit = NO_LIMIT if max_bytes is None else max_bytes
        return _core.layer_pack(_as_blob(layer), limit, threads)
    if layer.shared:
        regime = None if len(layer.shape) == 2 else "batch"  # a convolution's filters
        return spmm.pack(layer.csr, layer.codebook(), regime=regime, threads=threads)
    return spmm.pack_values(layer.csr, layer.values)
