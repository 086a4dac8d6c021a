"""Direct sparse convolution with a compressed filter bank."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tersor import _core
from tersor._core import PackedMatrix
from tersor.kernels.spmm import address, operand


def convolve(
    packed: PackedMatrix,
    x: npt.ArrayLike,
    kernel_size: tuple[int, int],
    *,
    bias: npt.ArrayLike | None = None,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    precision: str = "high",
    threads: int = 1,
    activation: str = "none",
    residual: npt.ArrayLike | None = None,
) -> npt.NDArray[np.float32]:
    """``activation(conv2d(x, W) + bias + residual)``, with the conv2d of torch.

    Args:
        packed: the filters as a matrix ``[out_channels, in_channels / groups * kh * kw]``.
        x: float32 ``[batch, in_channels, height, width]``.
        kernel_size, stride, padding, dilation: height and width each, in pixels.
        bias: float32 ``[out_channels]``.
        groups, precision, threads, activation: as in :func:`tersor.kernels.spmm.multiply`.
        residual: float32, of the shape of the output.

    Returns:
        float32 ``[batch, out_channels, height', width']``.

    Raises:
        ValueError: shapes or parameters are inconsistent.
    """
    images = np.ascontiguousarray(x, dtype=np.float32)
    if images.ndim != 4:
        raise ValueError(f"x has shape {images.shape}, expected [batch, channels, height, width]")
    batch, channels, height, width = images.shape
    geometry = _core.ConvGeometry(
        channels, groups, (height, width), kernel_size, stride, padding, dilation
    )
    out = np.empty((batch, packed.rows, *geometry.output_size()), np.float32)
    offset = operand(bias, (packed.rows,), "bias")
    added = operand(residual, out.shape, "residual")
    _core.conv_convolve(
        packed,
        geometry,
        images.ctypes.data,
        batch,
        address(offset),
        address(added),
        out.ctypes.data,
        0,
        activation,
        precision,
        threads,
    )
    return out
