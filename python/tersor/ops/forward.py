"""Products past torch's dispatcher, on the memory of tensors."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch

from tersor import _core


def _readable(x: torch.Tensor, name: str = "input") -> torch.Tensor:
    """x itself where the kernels can read it, or a float32 copy that they can."""
    if (
        (x.dtype is torch.float32 or x.dtype is torch.bfloat16)
        and x.is_cpu
        and x.is_contiguous()
        and not x.is_neg()
    ):
        return x
    if not x.is_cpu:
        raise ValueError(f"compressed layers run on the CPU; the {name} is on {x.device}")
    if not x.is_floating_point():
        raise ValueError(f"compressed layers take a float {name}, not {x.dtype}")
    kept = torch.bfloat16 if x.dtype is torch.bfloat16 else torch.float32
    return x.to(kept).contiguous().resolve_neg()


def _run(
    kernel: Any,
    operands: tuple[Any, ...],
    x: torch.Tensor,
    batch: int,
    shape: tuple[int, ...],
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    activation: str,
    precision: str,
) -> torch.Tensor:
    """Calls a kernel on the memory of tensors; ``operands`` come first, ``shape`` is y's."""
    source = _readable(x)
    out = source.new_empty(shape)
    bfloat16 = 9 if source.dtype is torch.bfloat16 else 0  # of x and y
    offset, added = 0, 0
    if bias is not None:
        bias = _readable(bias, "bias")
        offset = bias.data_ptr()
        bfloat16 |= 2 if bias.dtype is torch.bfloat16 else 0
    if residual is not None:
        if residual.shape != out.shape:
            raise ValueError(f"the residual has shape {list(residual.shape)}, expected {shape}")
        residual = _readable(residual, "residual")
        added = residual.data_ptr()
        bfloat16 |= 4 if residual.dtype is torch.bfloat16 else 0
    kernel(
        *operands,
        source.data_ptr(),
        batch,
        offset,
        added,
        out.data_ptr(),
        bfloat16,
        activation,
        precision,
        torch.get_num_threads(),
    )
    return out if out.dtype is x.dtype else out.to(x.dtype)


def run_linear(
    packed: _core.PackedMatrix,
    x: torch.Tensor,
    bias: torch.Tensor | None,
    shape: tuple[int, ...],
    precision: str,
    activation: str = "none",
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    """``activation(x W^T + bias + residual)`` for W ``[rows, cols]``, past torch's dispatcher.

    Args:
        packed: W.
        x: ``[..., cols]``, of any float type, on the CPU; float32 and bfloat16 are read as they
            are, others by way of float32.
        bias: ``[rows]``.
        shape: of W, which the caller has at hand for less than it takes to ask ``packed``.
        precision: class of arithmetic.
        activation: ``none``, ``relu``, ``relu6``, ``gelu`` or ``silu``.
        residual: ``[..., rows]``.

    Returns:
        ``[..., rows]`` of x's type.

    Raises:
        ValueError: x or the residual is of another shape, not of a float type, or not on the CPU,
            or the activation or the precision is unknown.
    """
    y = _core.spmm_linear(packed, x, bias, residual, activation, precision, torch.get_num_threads())
    if y is not None:
        done: torch.Tensor = y
        return done
    # Something is to be converted, or to be refused.
    rows, cols = shape
    if not x.dim() or x.shape[-1] != cols:
        raise ValueError(f"x has shape {list(x.shape)}, expected [..., {cols}]")
    batch = x.numel() // cols if cols else math.prod(x.shape[:-1])
    out = (*x.shape[:-1], rows)
    return _run(
        _core.spmm_multiply, (packed,), x, batch, out, bias, residual, activation, precision
    )


def run_conv2d(
    packed: _core.PackedMatrix,
    x: torch.Tensor,
    bias: torch.Tensor | None,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    precision: str,
    activation: str = "none",
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    """``activation(conv2d(x, W) + bias + residual)``, past torch's dispatcher.

    Args:
        packed: W as a matrix ``[out, in / groups * kh * kw]``.
        x: ``[n, in, h, w]``, of any float type, on the CPU.
        bias: ``[out]``.
        kernel, stride, padding, dilation: height and width each, in pixels; zeros pad.
        groups: as in ``nn.Conv2d``.
        precision, activation: as in :func:`run_linear`.
        residual: ``[n, out, h', w']``.

    Returns:
        ``[n, out, h', w']`` of x's type.

    Raises:
        ValueError: shapes or parameters do not fit, or as :func:`run_linear`.
    """
    geometry = _geometry(
        packed.cols, tuple(kernel), tuple(stride), tuple(padding), tuple(dilation), groups
    )
    y = _core.conv2d(
        packed, x, bias, residual, geometry, activation, precision, torch.get_num_threads()
    )
    if y is not None:
        done: torch.Tensor = y
        return done
    # Something is to be converted, or to be refused.
    taps = kernel[0] * kernel[1]
    channels = packed.cols // taps * groups if taps else 0
    if x.dim() != 4 or x.shape[1] != channels:
        raise ValueError(f"x has shape {list(x.shape)}, expected [n, {channels}, h, w]")
    sized = _core.ConvGeometry(
        channels,
        groups,
        (x.shape[2], x.shape[3]),
        (kernel[0], kernel[1]),
        (stride[0], stride[1]),
        (padding[0], padding[1]),
        (dilation[0], dilation[1]),
    )
    n = x.shape[0]
    out = (n, packed.rows, *sized.output_size())
    return _run(
        _core.conv_convolve, (packed, sized), x, n, out, bias, residual, activation, precision
    )


@functools.lru_cache(maxsize=1024)
def _geometry(
    cols: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> _core.ConvGeometry:
    """A convolution's geometry without the size of its images."""
    taps = kernel[0] * kernel[1]
    channels = cols // taps * groups if taps else 0
    return _core.ConvGeometry(channels, groups, (0, 0), kernel, stride, padding, dilation)
