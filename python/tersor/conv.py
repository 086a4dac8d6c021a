"""Direct sparse convolution with a compressed filter bank."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tersor import _core
from tersor._core import PackedMatrix


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
) -> npt.NDArray[np.float32]:
    """Convolves a batch of images, as ``torch.nn.functional.conv2d`` does.

    Args:
        packed: the filters as a matrix ``[out_channels, in_channels / groups * kh * kw]``.
        x: float32 ``[batch, in_channels, height, width]``.
        kernel_size, stride, padding, dilation: height and width each, in pixels.
        bias: float32 ``[out_channels]``.
        groups, precision, threads: as in :func:`tersor.spmm.multiply` and torch.

    Returns:
        float32 ``[batch, out_channels, height', width']``.

    Raises:
        ValueError: shapes or parameters do not fit.
    """
    images = np.ascontiguousarray(x, dtype=np.float32)
    if images.ndim != 4:
        raise ValueError(f"x has shape {images.shape}, expected [batch, channels, height, width]")
    batch, channels, height, width = images.shape
    geometry = _core.ConvGeometry(
        channels, groups, (height, width), kernel_size, stride, padding, dilation
    )
    out = np.empty((batch, packed.rows, *geometry.output_size()), np.float32)
    offset = None if bias is None else np.ascontiguousarray(bias, dtype=np.float32)
    if offset is not None and offset.shape != (packed.rows,):
        raise ValueError(f"bias has shape {offset.shape}, expected ({packed.rows},)")
    _core.conv_convolve_ptr(
        packed,
        geometry,
        images.ctypes.data,
        batch,
        0 if offset is None else offset.ctypes.data,
        out.ctypes.data,
        precision,
        threads,
    )
    return out
