"""torch.ops.tersor: the operators that graphs, tracing and gradients go through."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.nn.grad import conv2d_input

from tersor import _core
from tersor.layer import pack_layer

_LIBRARY = torch.library.Library("tersor", "DEF")
_LIBRARY.define("linear(Tensor x, Tensor blob, Tensor? bias, int rows, str precision) -> Tensor")
_LIBRARY.define(
    "conv2d(Tensor x, Tensor blob, Tensor? bias, int rows, int[] kernel, int[] stride, "
    "int[] padding, int[] dilation, int groups, str precision) -> Tensor"
)

# Packed matrices by blob, for as long as the blob lives.
_PACKED: dict[int, tuple[weakref.ref[torch.Tensor], int, _core.PackedMatrix]] = {}


def packed_of(blob: torch.Tensor) -> _core.PackedMatrix:
    """The packed matrix of a blob, made when it is first asked for.

    Raises:
        FormatError: the blob is malformed.
    """
    key = id(blob)
    entry = _PACKED.get(key)
    if entry is not None and entry[0]() is blob and entry[1] == blob._version:
        return entry[2]
    packed = pack_layer(blob.detach().cpu().numpy())
    _PACKED[key] = (weakref.ref(blob, lambda _: _PACKED.pop(key, None)), blob._version, packed)
    return packed


def _contiguous_float(x: torch.Tensor) -> torch.Tensor:
    if x.device.type != "cpu":
        raise ValueError(f"compressed layers run on the CPU; the input is on {x.device}")
    return x.to(torch.float32).contiguous()


def _pointer(bias: torch.Tensor | None) -> int:
    return 0 if bias is None else bias.data_ptr()


def run_linear(
    packed: _core.PackedMatrix, x: torch.Tensor, bias: torch.Tensor | None, precision: str
) -> torch.Tensor:
    """``x W^T + bias`` for x ``[..., cols]`` of any float type on the CPU; returns x's type."""
    if x.shape[-1] != packed.cols:
        raise ValueError(f"x has shape {list(x.shape)}, expected [..., {packed.cols}]")
    source = _contiguous_float(x)
    offset = None if bias is None else _contiguous_float(bias)
    out = torch.empty((*x.shape[:-1], packed.rows), dtype=torch.float32)
    batch = out.numel() // packed.rows if packed.rows else 0
    _core.spmm_multiply_ptr(
        packed,
        source.data_ptr(),
        batch,
        _pointer(offset),
        out.data_ptr(),
        precision,
        torch.get_num_threads(),
    )
    return out if x.dtype == torch.float32 else out.to(x.dtype)


def _geometry(
    x_shape: tuple[int, ...],
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> _core.ConvGeometry:
    _, channels, height, width = x_shape

    def pair(values: list[int]) -> tuple[int, int]:
        return values[0], values[1]

    return _core.ConvGeometry(
        channels, groups, (height, width), pair(kernel), pair(stride), pair(padding), pair(dilation)
    )


def run_conv2d(
    packed: _core.PackedMatrix,
    x: torch.Tensor,
    bias: torch.Tensor | None,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    precision: str,
) -> torch.Tensor:
    """Convolves x ``[n, c, h, w]`` of any float type on the CPU; returns x's type."""
    source = _contiguous_float(x)
    offset = None if bias is None else _contiguous_float(bias)
    geometry = _geometry(tuple(x.shape), kernel, stride, padding, dilation, groups)
    if x.shape[1] // groups * kernel[0] * kernel[1] != packed.cols:
        raise ValueError(f"x has {x.shape[1]} channels, which the filters do not fit")
    out = torch.empty((x.shape[0], packed.rows, *geometry.output_size()), dtype=torch.float32)
    _core.conv_convolve_ptr(
        packed,
        geometry,
        source.data_ptr(),
        x.shape[0],
        _pointer(offset),
        out.data_ptr(),
        precision,
        torch.get_num_threads(),
    )
    return out if x.dtype == torch.float32 else out.to(x.dtype)


@torch.library.impl(_LIBRARY, "linear", "CPU")
def _linear(
    x: torch.Tensor, blob: torch.Tensor, bias: torch.Tensor | None, rows: int, precision: str
) -> torch.Tensor:
    return run_linear(packed_of(blob), x, bias, precision)


@torch.library.register_fake("tersor::linear", lib=_LIBRARY)
def _linear_fake(
    x: torch.Tensor, blob: torch.Tensor, bias: torch.Tensor | None, rows: int, precision: str
) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], rows))


@torch.library.impl(_LIBRARY, "conv2d", "CPU")
def _conv2d(
    x: torch.Tensor, blob: torch.Tensor, bias: torch.Tensor | None, rows: int, *parameters: Any
) -> torch.Tensor:
    return run_conv2d(packed_of(blob), x, bias, *parameters)


@torch.library.register_fake("tersor::conv2d", lib=_LIBRARY)
def _conv2d_fake(
    x: torch.Tensor,
    blob: torch.Tensor,
    bias: torch.Tensor | None,
    rows: int,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    precision: str,
) -> torch.Tensor:
    size = [
        (x.shape[2 + i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1
        for i in range(2)
    ]
    return x.new_empty((x.shape[0], rows, *size))


def _dense(blob: torch.Tensor) -> torch.Tensor:
    """The weight as a matrix, for gradients; made anew each time, never kept."""
    return torch.from_numpy(packed_of(blob).unpack())


def _save_linear(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    _, ctx.blob, ctx.bias, _, _ = inputs


def _linear_backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    to_x = to_bias = None
    if ctx.needs_input_grad[0]:
        to_x = (gradient.float() @ _dense(ctx.blob)).to(gradient.dtype)
    if ctx.bias is not None and ctx.needs_input_grad[2]:
        to_bias = gradient.reshape(-1, gradient.shape[-1]).sum(0).to(ctx.bias.dtype)
    return to_x, None, to_bias, None, None


def _save_conv2d(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    x, ctx.blob, ctx.bias, *ctx.parameters = inputs
    ctx.x_shape = x.shape


def _conv2d_backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    rows, kernel, stride, padding, dilation, groups, _ = ctx.parameters
    to_x = to_bias = None
    if ctx.needs_input_grad[0]:
        filters = _dense(ctx.blob).reshape(rows, ctx.x_shape[1] // groups, *kernel)
        to_x = conv2d_input(
            ctx.x_shape, filters, gradient.float(), stride, padding, dilation, groups
        ).to(gradient.dtype)
    if ctx.bias is not None and ctx.needs_input_grad[2]:
        to_bias = gradient.sum((0, 2, 3)).to(ctx.bias.dtype)
    return (to_x, None, to_bias, *([None] * 7))


torch.library.register_autograd(
    "tersor::linear", _linear_backward, setup_context=_save_linear, lib=_LIBRARY
)
torch.library.register_autograd(
    "tersor::conv2d", _conv2d_backward, setup_context=_save_conv2d, lib=_LIBRARY
)
