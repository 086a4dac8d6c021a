"""Products of a compressed matrix with dense activations, computed from codes and codebook."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tersor import _core
from tersor._core import PackedMatrix
from tersor.codec.blob import CompressedTensor, as_blob, factors_of
from tersor.codec.csr import RelativeCsr

__all__ = ["Kernel", "PackedMatrix", "kernels", "multiply", "pack", "pack_values"]


def pack(
    csr: RelativeCsr,
    codebook: npt.ArrayLike,
    *,
    layout_hint: str | None = None,
    batch: int = 1,
    precision: str = "high",
    threads: int = 1,
) -> PackedMatrix:
    """Packs a matrix for the kernels of the instruction set in use.

    Args:
        csr: the codes.
        codebook: float32 ``[k + 1]``, the value of each code; ``codebook[0]`` is 0.
        layout_hint: the layout packed first: ``vector`` (products with one to a few vectors) or
            ``batch`` (many vectors, convolutions); None = the best one for ``batch`` and
            ``precision`` by the rule of docs/kernels. The matrix serves every use: a second
            layout is packed when a product needs it.
        batch: vectors of most products.
        precision: of most products.
        threads: at most this many.

    Raises:
        FormatError: the entries are malformed, a code is outside the codebook, or a value is not
            finite.
        ValueError: the codebook is longer than 256 or does not start with 0, or the layout hint or
            the precision is unknown.
    """
    values = np.ascontiguousarray(codebook, dtype=np.float32)
    return _core.spmm_pack(*csr.parts(), values, layout_hint, batch, precision, threads)


def pack_values(csr: RelativeCsr, values: npt.ArrayLike) -> PackedMatrix:
    """Packs a matrix that is pruned but not quantized.

    Args:
        csr: codes 1 for non-zeros, 0 for fillers.
        values: float32 ``[non-zeros]`` in the order of the entries.

    Raises:
        FormatError: as :func:`pack`, or there are not as many values as non-zeros.
    """
    return _core.spmm_pack_values(*csr.parts(), np.ascontiguousarray(values, dtype=np.float32))


def multiply(
    packed: PackedMatrix,
    x: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    out: npt.NDArray[np.float32] | None = None,
    precision: str = "high",
    threads: int = 1,
    *,
    activation: str = "none",
    residual: npt.ArrayLike | None = None,
) -> npt.NDArray[np.float32]:
    """``activation(x W^T + bias + residual)``.

    Args:
        packed: W, ``[rows, cols]``.
        x: ``[..., cols]``; dtypes other than float32 are converted to it.
        bias: float32 ``[rows]``.
        out: contiguous float32 ``[..., rows]``, filled in place; None = allocate.
        precision: ``highest``, ``high``, ``medium`` or ``low``: the error class (docs/kernels).
        threads: at most this many.
        activation: ``none``, ``relu``, ``relu6``, ``gelu`` or ``silu``.
        residual: float32 ``[..., rows]``; must not overlap ``out``.

    Raises:
        ValueError: shapes do not match, or the precision or the activation is unknown.
    """
    source = np.ascontiguousarray(x, dtype=np.float32)
    if source.ndim == 0 or source.shape[-1] != packed.cols:
        raise ValueError(f"x has shape {source.shape}, expected [..., {packed.cols}]")
    shape = (*source.shape[:-1], packed.rows)
    if out is None:
        out = np.empty(shape, np.float32)
    elif out.dtype != np.float32 or out.shape != shape or not out.flags.c_contiguous:
        raise ValueError(f"out must be contiguous float32 of shape {shape}")
    offset = operand(bias, (packed.rows,), "bias")
    added = operand(residual, shape, "residual")
    _core.spmm_multiply(
        packed,
        source.ctypes.data,
        int(np.prod(shape[:-1])),
        address(offset),
        address(added),
        out.ctypes.data,
        0,
        activation,
        precision,
        threads,
    )
    return out


@dataclass(frozen=True)
class Kernel:
    """One of the kernels that :func:`multiply` chooses among.

    Attributes:
        name: as in docs/kernels.
        isa: the instruction-set level it is written for.
        layout_hint: the use it serves, ``vector`` or ``batch``.
    """

    name: str
    isa: str
    layout_hint: str

    def run(
        self,
        packed: PackedMatrix,
        x: npt.NDArray[np.float32],
        out: npt.NDArray[np.float32] | None = None,
        threads: int = 1,
    ) -> npt.NDArray[np.float32]:
        """``x W^T`` by this kernel, without regard to an error bound; for benchmarks.

        Args:
            packed: W ``[rows, cols]``, packed for this kernel's level. A further layout that the
                kernel needs is packed by the first call.
            x: contiguous float32 ``[batch, cols]``.
            out: contiguous float32 ``[batch, rows]``, filled in place; None = allocate.
            threads: at most this many.

        Raises:
            ValueError: the matrix is packed for another level or has no layout for the kernel, the
                kernel cannot take x (fixed point: non-finite values), or shapes do not match.
        """
        if packed.isa != self.isa:
            raise ValueError(f"the matrix is packed for {packed.isa}, the kernel for {self.isa}")
        if x.ndim != 2 or x.shape[1] != packed.cols:
            raise ValueError(f"x has shape {x.shape}, expected [batch, {packed.cols}]")
        if out is None:
            out = np.empty((len(x), packed.rows), np.float32)
        _core.spmm_multiply_by(self.name, packed, x, out, threads)
        return out


def kernels() -> list[Kernel]:
    """The kernels of all levels available on this machine."""
    return [Kernel(*kernel) for kernel in _core.spmm_kernel_list()]


def operand(
    values: npt.ArrayLike | None, shape: tuple[int, ...], name: str
) -> npt.NDArray[np.float32] | None:
    """An optional operand as contiguous float32, or None.

    Raises:
        ValueError: its shape is not ``shape``.
    """
    if values is None:
        return None
    array = np.ascontiguousarray(values, dtype=np.float32)
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}, expected {shape}")
    return array


def address(array: npt.NDArray[np.float32] | None) -> int:
    """The address of an array's data; 0 for None."""
    return 0 if array is None else array.ctypes.data


def pack_blob(
    layer: CompressedTensor | npt.ArrayLike | bytes,
    *,
    max_bytes: int | None = None,
    threads: int = 1,
) -> PackedMatrix:
    """Packs a compressed tensor, or directly its blob.

    Args:
        layer: a decoded tensor, or a blob, uint8 ``[n]``.
        max_bytes: reject, before packing, a blob that may need more memory for decoding and packing
            together: ``decoded_bytes`` plus ``packing_bytes`` of
            :func:`tersor.codec.blob.inspect_blob`. None = 1 GiB and 256 bytes for each byte of the
            blob.
        threads: at most this many.

    Raises:
        FormatError: the blob is malformed, or needs more than ``max_bytes``; the message names the
            byte.
    """
    if not isinstance(layer, CompressedTensor):
        return _core.layer_pack(as_blob(layer), max_bytes, threads)
    if layer.shared:
        layout_hint = None if len(layer.shape) == 2 else "batch"  # a convolution's filters
        packed = pack(layer.csr, layer.codebook(), layout_hint=layout_hint, threads=threads)
    else:
        packed = pack_values(layer.csr, layer.values)
    packed.set_factors(*factors_of(layer))
    return packed
