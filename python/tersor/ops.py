"""torch.ops.tersor: the operators that graphs, tracing and gradients go through."""

from __future__ import annotations

import math
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
_LIBRARY.define(
    "linear_to_input(Tensor gradient, Tensor blob, SymInt cols, str precision) -> Tensor"
)
_LIBRARY.define(
    "conv2d_to_input(Tensor gradient, Tensor blob, SymInt[] x_shape, int[] kernel, int[] stride, "
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
    # Tensors made in inference mode count no versions.
    version = 0 if blob.is_inference() else blob._version
    entry = _PACKED.get(key)
    if entry is not None and entry[0]() is blob and entry[1] == version:
        return entry[2]
    packed = pack_layer(blob.detach().cpu().numpy())
    _PACKED[key] = (weakref.ref(blob, lambda _: _PACKED.pop(key, None)), version, packed)
    return packed


def _contiguous_float(x: torch.Tensor) -> torch.Tensor:
    """x itself where the kernels can read it, or a copy that they can."""
    if x.dtype is torch.float32 and x.is_cpu and x.is_contiguous() and not x.is_neg():
        return x
    if not x.is_cpu:
        raise ValueError(f"compressed layers run on the CPU; the input is on {x.device}")
    if not x.is_floating_point():
        raise ValueError(f"compressed layers take float inputs, not {x.dtype}")
    return x.to(torch.float32).contiguous().resolve_neg()


def _check_columns(shape: torch.Size, cols: int) -> None:
    if not shape or shape[-1] != cols:
        raise ValueError(f"x has shape {list(shape)}, expected [..., {cols}]")


def run_linear(
    packed: _core.PackedMatrix,
    x: torch.Tensor,
    bias: torch.Tensor | None,
    shape: tuple[int, ...],
    precision: str,
) -> torch.Tensor:
    """``x W^T + bias`` for W of a shape ``[rows, cols]``, past torch's dispatcher.

    Args:
        packed: W.
        x: ``[..., cols]``, of any float type, on the CPU.
        bias: ``[rows]``.
        shape: of W, which the caller has at hand for less than it takes to ask ``packed``.
        precision: class of arithmetic.

    Returns:
        ``[..., rows]`` of x's type.

    Raises:
        ValueError: x is of another shape, not of a float type, or not on the CPU.
    """
    rows, cols = shape
    _check_columns(x.shape, cols)
    source = _contiguous_float(x)
    out = source.new_empty((*x.shape[:-1], rows))
    offset = None if bias is None else _contiguous_float(bias)
    _core.spmm_multiply_ptr(
        packed,
        source.data_ptr(),
        source.numel() // cols if cols else math.prod(x.shape[:-1]),
        0 if offset is None else offset.data_ptr(),
        out.data_ptr(),
        precision,
        torch.get_num_threads(),
    )
    return out if x.dtype is torch.float32 else out.to(x.dtype)


def _check_images(shape: torch.Size, channels: int) -> None:
    if len(shape) != 4 or shape[1] != channels:
        raise ValueError(f"x has shape {list(shape)}, expected [n, {channels}, h, w]")


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
    """Convolves x ``[n, c, h, w]`` of any float type on the CPU, past torch's dispatcher.

    Returns:
        ``[n, rows, h', w']`` of x's type.

    Raises:
        ValueError: x is of another shape, not of a float type, or not on the CPU.
    """
    _check_images(x.shape, packed.cols // (kernel[0] * kernel[1]) * groups)
    source = _contiguous_float(x)
    offset = None if bias is None else _contiguous_float(bias)
    _, channels, height, width = x.shape
    geometry = _core.ConvGeometry(
        channels,
        groups,
        (height, width),
        (kernel[0], kernel[1]),
        (stride[0], stride[1]),
        (padding[0], padding[1]),
        (dilation[0], dilation[1]),
    )
    out = source.new_empty((x.shape[0], packed.rows, *geometry.output_size()))
    _core.conv_convolve_ptr(
        packed,
        geometry,
        source.data_ptr(),
        x.shape[0],
        0 if offset is None else offset.data_ptr(),
        out.data_ptr(),
        precision,
        torch.get_num_threads(),
    )
    return out if x.dtype is torch.float32 else out.to(x.dtype)


@torch.library.impl(_LIBRARY, "linear", "CPU")
def _linear(
    x: torch.Tensor, blob: torch.Tensor, bias: torch.Tensor | None, rows: int, precision: str
) -> torch.Tensor:
    packed = packed_of(blob)
    return run_linear(packed, x, bias, (packed.rows, packed.cols), precision)


@torch.library.register_fake("tersor::linear", lib=_LIBRARY)
def _linear_fake(
    x: torch.Tensor, blob: torch.Tensor, bias: torch.Tensor | None, rows: int, precision: str
) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], rows))


@torch.library.impl(_LIBRARY, "linear_to_input", "CPU")
def _linear_to_input(
    gradient: torch.Tensor, blob: torch.Tensor, cols: int, precision: str
) -> torch.Tensor:
    return (gradient.float() @ _dense(blob)).to(gradient.dtype)


@torch.library.register_fake("tersor::linear_to_input", lib=_LIBRARY)
def _linear_to_input_fake(
    gradient: torch.Tensor, blob: torch.Tensor, cols: int, precision: str
) -> torch.Tensor:
    return gradient.new_empty((*gradient.shape[:-1], cols))


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


@torch.library.impl(_LIBRARY, "conv2d_to_input", "CPU")
def _conv2d_to_input(
    gradient: torch.Tensor,
    blob: torch.Tensor,
    x_shape: list[int],
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    precision: str,
) -> torch.Tensor:
    filters = _dense(blob).reshape(gradient.shape[1], x_shape[1] // groups, *kernel)
    to_x = conv2d_input(x_shape, filters, gradient.float(), stride, padding, dilation, groups)
    same_type: torch.Tensor = to_x.to(gradient.dtype).contiguous()
    return same_type


@torch.library.register_fake("tersor::conv2d_to_input", lib=_LIBRARY)
def _conv2d_to_input_fake(
    gradient: torch.Tensor, blob: torch.Tensor, x_shape: list[int], *parameters: Any
) -> torch.Tensor:
    return gradient.new_empty(x_shape)


def _dense(blob: torch.Tensor) -> torch.Tensor:
    """The weight as a matrix, for gradients; made anew each time, never kept."""
    return torch.from_numpy(packed_of(blob).unpack())


# Both directions of both layers are linear in their first argument, so each one's gradient is the
# other, and second derivatives need nothing more.


def _bias_gradient(ctx: Any, gradient: torch.Tensor, over: list[int]) -> torch.Tensor | None:
    if ctx.bias_dtype is None or not ctx.needs_input_grad[2]:
        return None
    return gradient.sum(over).to(ctx.bias_dtype)


def _save_linear(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    x, blob, bias, _, ctx.precision = inputs
    ctx.save_for_backward(blob)
    ctx.cols = x.shape[-1]
    ctx.bias_dtype = None if bias is None else bias.dtype


def _linear_backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    (blob,) = ctx.saved_tensors
    to_x = None
    if ctx.needs_input_grad[0]:
        to_x = torch.ops.tersor.linear_to_input(gradient, blob, ctx.cols, ctx.precision)
    return to_x, None, _bias_gradient(ctx, gradient, list(range(gradient.dim() - 1))), None, None


def _save_linear_to_input(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    gradient, blob, _, ctx.precision = inputs
    ctx.save_for_backward(blob)
    ctx.rows = gradient.shape[-1]


def _linear_to_input_backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    (blob,) = ctx.saved_tensors
    return torch.ops.tersor.linear(gradient, blob, None, ctx.rows, ctx.precision), None, None, None


def _save_conv2d(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    x, blob, bias, _, *ctx.parameters = inputs
    ctx.save_for_backward(blob)
    ctx.x_shape = x.shape
    ctx.bias_dtype = None if bias is None else bias.dtype


def _conv2d_backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    (blob,) = ctx.saved_tensors
    to_x = None
    if ctx.needs_input_grad[0]:
        to_x = torch.ops.tersor.conv2d_to_input(gradient, blob, ctx.x_shape, *ctx.parameters)
    return (to_x, None, _bias_gradient(ctx, gradient, [0, 2, 3]), *([None] * 7))


def _save_conv2d_to_input(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    gradient, blob, _, *ctx.parameters = inputs
    ctx.save_for_backward(blob)
    ctx.rows = gradient.shape[1]


def _conv2d_to_input_backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    (blob,) = ctx.saved_tensors
    onward = torch.ops.tersor.conv2d(gradient, blob, None, ctx.rows, *ctx.parameters)
    return (onward, *([None] * 8))


for _name, _backward, _save in (
    ("linear", _linear_backward, _save_linear),
    ("linear_to_input", _linear_to_input_backward, _save_linear_to_input),
    ("conv2d", _conv2d_backward, _save_conv2d),
    ("conv2d_to_input", _conv2d_to_input_backward, _save_conv2d_to_input),
):
    torch.library.register_autograd(
        f"tersor::{_name}", _backward, setup_context=_save, lib=_LIBRARY
    )


@torch.library.register_vmap("tersor::linear", lib=_LIBRARY)
def _linear_vmap(
    info: Any, in_dims: tuple[int | None, ...], x: torch.Tensor, *rest: Any
) -> tuple[torch.Tensor, int]:
    _refuse_batched_weights(in_dims)
    return torch.ops.tersor.linear(x.movedim(in_dims[0] or 0, 0), *rest), 0


@torch.library.register_vmap("tersor::conv2d", lib=_LIBRARY)
def _conv2d_vmap(
    info: Any, in_dims: tuple[int | None, ...], x: torch.Tensor, *rest: Any
) -> tuple[torch.Tensor, int]:
    _refuse_batched_weights(in_dims)
    x = x.movedim(in_dims[0] or 0, 0)
    y = torch.ops.tersor.conv2d(x.flatten(0, 1), *rest)
    return y.unflatten(0, x.shape[:2]), 0


def _refuse_batched_weights(in_dims: tuple[int | None, ...]) -> None:
    if any(dim is not None for dim in in_dims[1:3]):
        raise ValueError("vmap can batch the input of a compressed layer, not its weight or bias")
