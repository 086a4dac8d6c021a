"""Products of a compressed matrix with dense activations, straight from codes and codebook."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tersor import _core
from tersor._core import PackedMatrix
from tersor.codec.blob import NO_LIMIT, CompressedTensor, as_blob
from tersor.codec.csr import RelativeCsr

__all__ = ["Kernel", "PackedMatrix", "kernels", "multiply", "pack", "pack_values"]


def pack(
    csr: RelativeCsr,
    codebook: npt.ArrayLike,
    *,
    regime: str | None = None,
    batch: int = 1,
    precision: str = "high",
    threads: int = 1,
) -> PackedMatrix:
    """Lays a matrix out for the kernels of the instruction set in use.

    Args:
        csr: the codes.
        codebook: float32 ``[k + 1]``, the value of each code; ``codebook[0]`` is 0.
        regime: what to lay out for first: ``vector`` (products with one to a few vectors) or
            ``batch`` (many vectors, convolutions); None = what is best for ``batch`` and
            ``precision`` by the rule of docs/kernels.md. The matrix serves every use: a second
            layout is made when a product needs it.
        batch, precision: of most products.
        threads: at most this many.

    Raises:
        FormatError: the entries are malformed, a code has no value, or a value is not finite.
        ValueError: the codebook is longer than 256 or does not start with 0, or the regime or the
            precision is unknown.
    """
    values = np.ascontiguousarray(codebook, dtype=np.float32)
    return _core.spmm_pack(*csr.parts(), values, regime, batch, precision, threads)


def pack_values(csr: RelativeCsr, values: npt.ArrayLike) -> PackedMatrix:
    """The same for weights that are pruned but not shared.

    Args:
        csr: codes 1 for non-zeros, 0 for fillers.
        values: float32 ``[non-zeros]`` in the order of the entries.

    Raises:
        FormatError: as :func:`pack`, or the number of values differs from the non-zeros.
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
        x: ``[..., cols]``; other types than float32 go through float32.
        bias: float32 ``[rows]``.
        out: contiguous float32 ``[..., rows]`` to be filled; made when missing.
        precision: ``highest``, ``high``, ``medium`` or ``low``: the error class (docs/kernels.md).
        threads: at most this many.
        activation: ``none``, ``relu``, ``relu6``, ``gelu`` or ``silu``.
        residual: float32 ``[..., rows]``; must not overlap ``out``.

    Raises:
        ValueError: shapes do not fit, or the precision or the activation is unknown.
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
    """One of the ways to compute products that :func:`multiply` chooses among.

    Attributes:
        name: that of docs/kernels.md.
        isa: the instruction-set level it is written for.
        regime: what it is for, ``vector`` or ``batch``.
    """

    name: str
    isa: str
    regime: str

    def run(
        self,
        packed: PackedMatrix,
        x: npt.NDArray[np.float32],
        out: npt.NDArray[np.float32] | None = None,
        threads: int = 1,
    ) -> npt.NDArray[np.float32]:
        """``x W^T`` by this kernel alone, whatever its error is: for measuring.

        Args:
            packed: W ``[rows, cols]``, packed for this kernel's level. What the kernel needs beside
                that is made by the first call.
            x: contiguous float32 ``[batch, cols]``.
            out: contiguous float32 ``[batch, rows]`` to be filled; made when missing.
            threads: at most this many.

        Raises:
            ValueError: the matrix is of another level or has no layout for the kernel, x does not
                fit it (fixed point: what is not finite), or shapes do not fit.
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
    """The kernels of all levels that this machine has."""
    return [Kernel(*kernel) for kernel in _core.spmm_kernel_list()]


def operand(
    values: npt.ArrayLike | None, shape: tuple[int, ...], name: str
) -> npt.NDArray[np.float32] | None:
    """Values that the kernels can read, if there are any.

    Raises:
        ValueError: they are of another shape.
    """
    if values is None:
        return None
    array = np.ascontiguousarray(values, dtype=np.float32)
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}, expected {shape}")
    return array


def address(array: npt.NDArray[np.float32] | None) -> int:
    """Where an array begins; 0 where there is none."""
    return 0 if array is None else array.ctypes.data


def pack_blob(
    layer: CompressedTensor | npt.ArrayLike | bytes,
    *,
    max_bytes: int | None = None,
    threads: int = 1,
) -> PackedMatrix:
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
    if not isinstance(layer, CompressedTensor):
        limit = NO_LIMIT if max_bytes is None else max_bytes
        return _core.layer_pack(as_blob(layer), limit, threads)
    if layer.shared:
        regime = None if len(layer.shape) == 2 else "batch"  # a convolution's filters
        return pack(layer.csr, layer.codebook(), regime=regime, threads=threads)
    return pack_values(layer.csr, layer.values)
