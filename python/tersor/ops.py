"""torch.ops.tersor: the operators that graphs, tracing and gradients go through.

All are linear in each of: the input, the shared values, and the gradient that flows back. So the
gradients of each operator are others of them, and so are second derivatives.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.grad import conv2d_input

from tersor import _core
from tersor.layer import pack_layer

_GEOMETRY = "int[] kernel, int[] stride, int[] padding, int[] dilation, int groups"
_LAYER = "Tensor blob, Tensor? values, Tensor? bias, Tensor? residual, int rows"

_LIBRARY = torch.library.Library("tersor", "DEF")
_LIBRARY.define(f"linear(Tensor x, {_LAYER}, str activation, str precision) -> Tensor")
_LIBRARY.define(f"conv2d(Tensor x, {_LAYER}, {_GEOMETRY}, str activation, str precision) -> Tensor")
_LIBRARY.define(
    "linear_to_input(Tensor gradient, Tensor blob, Tensor? values, SymInt cols, str precision) "
    "-> Tensor"
)
_LIBRARY.define(
    "conv2d_to_input(Tensor gradient, Tensor blob, Tensor? values, SymInt[] x_shape, "
    f"{_GEOMETRY}, str precision) -> Tensor"
)
_LIBRARY.define(
    "linear_to_values(Tensor x, Tensor gradient, Tensor blob, int count, str precision) -> Tensor"
)
_LIBRARY.define(
    f"conv2d_to_values(Tensor x, Tensor gradient, Tensor blob, int count, {_GEOMETRY}, "
    "str precision) -> Tensor"
)

# Packed matrices by blob, for as long as the blob lives.
_PACKED: dict[int, tuple[weakref.ref[torch.Tensor], int, _core.PackedMatrix]] = {}

# The same with other values, by the tensor of the values.
_REVALUED: dict[
    int, tuple[weakref.ref[torch.Tensor], int, _core.PackedMatrix, _core.PackedMatrix]
] = {}


def _version(tensor: torch.Tensor) -> int:
    """How often the tensor was changed; those made in inference mode count no versions."""
    try:
        return tensor._version
    except RuntimeError:
        return 0


def packed_of(blob: torch.Tensor, values: torch.Tensor | None = None) -> _core.PackedMatrix:
    """The packed matrix of a blob, made when it is first asked for.

    Args:
        blob: uint8 ``[n]``.
        values: ``[k]``, in place of the blob's shared values.

    Raises:
        FormatError: the blob is malformed.
        ValueError: the values are not as many as the blob's, or not finite.
    """
    key = id(blob)
    entry = _PACKED.get(key)
    if entry is not None and entry[0]() is blob and entry[1] == _version(blob):
        packed = entry[2]
    else:
        packed = pack_layer(blob.detach().cpu().numpy(), threads=torch.get_num_threads())
        reference = weakref.ref(blob, lambda _: _PACKED.pop(key, None))
        _PACKED[key] = (reference, _version(blob), packed)
    return packed if values is None else _revalued(packed, values)


def _revalued(packed: _core.PackedMatrix, values: torch.Tensor) -> _core.PackedMatrix:
    key = id(values)
    entry = _REVALUED.get(key)
    if (
        entry is not None
        and entry[0]() is values
        and entry[1] == _version(values)
        and entry[2] is packed
    ):
        return entry[3]
    codebook = np.zeros(values.numel() + 1, np.float32)
    codebook[1:] = values.detach().cpu().float().numpy()
    revalued = packed.with_codebook(codebook)
    reference = weakref.ref(values, lambda _: _REVALUED.pop(key, None))
    _REVALUED[key] = (reference, _version(values), packed, revalued)
    return revalued


def _readable(x: torch.Tensor) -> torch.Tensor:
    """x itself where the kernels can read it, or a float32 copy that they can."""
    if (
        (x.dtype is torch.float32 or x.dtype is torch.bfloat16)
        and x.is_cpu
        and x.is_contiguous()
        and not x.is_neg()
    ):
        return x
    if not x.is_cpu:
        raise ValueError(f"compressed layers run on the CPU; the input is on {x.device}")
    if not x.is_floating_point():
        raise ValueError(f"compressed layers take float inputs, not {x.dtype}")
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
        bias = _readable(bias)
        offset = bias.data_ptr()
        bfloat16 |= 2 if bias.dtype is torch.bfloat16 else 0
    if residual is not None:
        if residual.shape != out.shape:
            raise ValueError(f"the residual has shape {list(residual.shape)}, expected {shape}")
        residual = _readable(residual)
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
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
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
    taps = kernel[0] * kernel[1]
    channels = packed.cols // taps * groups if taps else 0
    if x.dim() != 4 or x.shape[1] != channels:
        raise ValueError(f"x has shape {list(x.shape)}, expected [n, {channels}, h, w]")
    geometry = _core.ConvGeometry(
        channels,
        groups,
        (x.shape[2], x.shape[3]),
        (kernel[0], kernel[1]),
        (stride[0], stride[1]),
        (padding[0], padding[1]),
        (dilation[0], dilation[1]),
    )
    n = x.shape[0]
    out = (n, packed.rows, *geometry.output_size())
    operands = (packed, geometry)
    return _run(_core.conv_convolve, operands, x, n, out, bias, residual, activation, precision)


@torch.library.impl(_LIBRARY, "linear", "CPU")
def _linear(
    x: torch.Tensor,
    blob: torch.Tensor,
    values: torch.Tensor | None,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    rows: int,
    activation: str,
    precision: str,
) -> torch.Tensor:
    packed = packed_of(blob, values)
    shape = (packed.rows, packed.cols)
    return run_linear(packed, x, bias, shape, precision, activation, residual)


@torch.library.register_fake("tersor::linear", lib=_LIBRARY)
def _linear_fake(
    x: torch.Tensor, blob: Any, values: Any, bias: Any, residual: Any, rows: int, *rest: Any
) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], rows))


@torch.library.impl(_LIBRARY, "linear_to_input", "CPU")
def _linear_to_input(
    gradient: torch.Tensor,
    blob: torch.Tensor,
    values: torch.Tensor | None,
    cols: int,
    precision: str,
) -> torch.Tensor:
    packed = packed_of(blob, values)
    return run_linear(packed.transposed, gradient, None, (packed.cols, packed.rows), precision)


@torch.library.register_fake("tersor::linear_to_input", lib=_LIBRARY)
def _linear_to_input_fake(
    gradient: torch.Tensor, blob: Any, values: Any, cols: int, precision: str
) -> torch.Tensor:
    return gradient.new_empty((*gradient.shape[:-1], cols))


def _sum_by_code(
    packed: _core.PackedMatrix, x: torch.Tensor, gradient: torch.Tensor, row_begin: int = 0
) -> torch.Tensor:
    """The gradient of the shared values: x ``[..., cols]``, gradient ``[..., rows]``."""
    sums = _core.spmm_sum_by_code(
        packed,
        x.float().reshape(-1, packed.cols).contiguous().resolve_neg().numpy(),
        gradient.float().flatten(0, -2).contiguous().resolve_neg().numpy(),
        row_begin,
        torch.get_num_threads(),
    )
    return torch.from_numpy(sums[1:])


@torch.library.impl(_LIBRARY, "linear_to_values", "CPU")
def _linear_to_values(
    x: torch.Tensor, gradient: torch.Tensor, blob: torch.Tensor, count: int, precision: str
) -> torch.Tensor:
    return _sum_by_code(packed_of(blob), x.reshape(-1, x.shape[-1]), gradient)


@torch.library.register_fake("tersor::linear_to_values", lib=_LIBRARY)
def _linear_to_values_fake(
    x: torch.Tensor, gradient: Any, blob: Any, count: int, precision: str
) -> torch.Tensor:
    return x.new_empty(count, dtype=torch.float32)


@torch.library.impl(_LIBRARY, "conv2d", "CPU")
def _conv2d(
    x: torch.Tensor,
    blob: torch.Tensor,
    values: torch.Tensor | None,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    rows: int,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    activation: str,
    precision: str,
) -> torch.Tensor:
    packed = packed_of(blob, values)
    geometry = (kernel, stride, padding, dilation, groups)
    return run_conv2d(packed, x, bias, *geometry, precision, activation, residual)


@torch.library.register_fake("tersor::conv2d", lib=_LIBRARY)
def _conv2d_fake(
    x: torch.Tensor,
    blob: Any,
    values: Any,
    bias: Any,
    residual: Any,
    rows: int,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    *rest: Any,
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
    values: torch.Tensor | None,
    x_shape: list[int],
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    precision: str,
) -> torch.Tensor:
    # Filters are small beside what they are applied to: decoded anew each time, never kept.
    dense = torch.from_numpy(packed_of(blob, values).unpack())
    filters = dense.reshape(gradient.shape[1], x_shape[1] // groups, *kernel)
    to_x = conv2d_input(x_shape, filters, gradient.float(), stride, padding, dilation, groups)
    same_type: torch.Tensor = to_x.to(gradient.dtype).contiguous()
    return same_type


@torch.library.register_fake("tersor::conv2d_to_input", lib=_LIBRARY)
def _conv2d_to_input_fake(
    gradient: torch.Tensor, blob: Any, values: Any, x_shape: list[int], *rest: Any
) -> torch.Tensor:
    return gradient.new_empty(x_shape)


@torch.library.impl(_LIBRARY, "conv2d_to_values", "CPU")
def _conv2d_to_values(
    x: torch.Tensor,
    gradient: torch.Tensor,
    blob: torch.Tensor,
    count: int,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    precision: str,
) -> torch.Tensor:
    packed = packed_of(blob)
    # The activations that each output reads, [n, columns of all groups, outputs].
    how = (tuple(pair) for pair in (kernel, dilation, padding, stride))
    columns = F.unfold(x.float(), *how)
    outputs = gradient.flatten(2)
    rows = outputs.shape[1] // groups
    sums = torch.zeros(count)
    for group in range(groups):
        read = columns[:, group * packed.cols : (group + 1) * packed.cols]
        written = outputs[:, group * rows : (group + 1) * rows]
        sums += _sum_by_code(packed, read.mT, written.mT, group * rows)
    return sums


@torch.library.register_fake("tersor::conv2d_to_values", lib=_LIBRARY)
def _conv2d_to_values_fake(
    x: torch.Tensor, gradient: Any, blob: Any, count: int, *rest: Any
) -> torch.Tensor:
    return x.new_empty(count, dtype=torch.float32)


def _through_activation(
    gradient: torch.Tensor, activation: str, y: torch.Tensor, forward: Callable[[], torch.Tensor]
) -> torch.Tensor:
    """The gradient before the activation; ``forward()`` computes again what entered it."""
    before = gradient
    if activation == "relu":
        before = torch.ops.aten.threshold_backward(gradient, y, 0)
    elif activation == "relu6":
        before = torch.ops.aten.hardtanh_backward(gradient, y, 0.0, 6.0)
    elif activation == "gelu":
        before = torch.ops.aten.gelu_backward(gradient, forward())
    elif activation == "silu":
        # Not aten.silu_backward, which has no derivative of its own.
        z = forward()
        sigmoid = z.sigmoid()
        before = gradient * sigmoid * (1 + z * (1 - sigmoid))
    return before


class _Linear:
    """How gradients of linear layers are computed."""

    forward = torch.ops.tersor.linear
    to_input = torch.ops.tersor.linear_to_input
    to_values = torch.ops.tersor.linear_to_values

    @staticmethod
    def size_of(x: torch.Tensor) -> Any:
        """What ``to_input`` is to know of x."""
        return x.shape[-1]

    @staticmethod
    def to_bias(gradient: torch.Tensor) -> torch.Tensor:
        return gradient.sum(list(range(gradient.dim() - 1)))

    @staticmethod
    def rows_of(gradient: torch.Tensor) -> int:
        return gradient.shape[-1]


class _Conv2d:
    """How gradients of convolutions are computed."""

    forward = torch.ops.tersor.conv2d
    to_input = torch.ops.tersor.conv2d_to_input
    to_values = torch.ops.tersor.conv2d_to_values

    @staticmethod
    def size_of(x: torch.Tensor) -> Any:
        return x.shape

    @staticmethod
    def to_bias(gradient: torch.Tensor) -> torch.Tensor:
        return gradient.sum([0, 2, 3])

    @staticmethod
    def rows_of(gradient: torch.Tensor) -> int:
        return gradient.shape[1]


def _register_gradients(name: str, layer: type[_Linear] | type[_Conv2d]) -> None:
    """Registers those of a layer's three operators."""

    def save(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        x, blob, values, bias, residual, ctx.rows, *ctx.geometry, ctx.activation, precision = inputs
        ctx.precision = precision
        ctx.save_for_backward(x, blob, values, bias, residual, output)

    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        x, blob, values, bias, residual, y = ctx.saved_tensors
        wanted = ctx.needs_input_grad

        def again() -> torch.Tensor:
            arguments = (x, blob, values, bias, residual, ctx.rows, *ctx.geometry)
            z: torch.Tensor = layer.forward(*arguments, "none", ctx.precision)
            return z

        gradient = _through_activation(gradient, ctx.activation, y, again)
        rest = (*ctx.geometry, ctx.precision)
        to_x = to_values = to_bias = to_residual = None
        if wanted[0]:
            to_x = layer.to_input(gradient, blob, values, layer.size_of(x), *rest)
        if values is not None and wanted[2]:
            to_values = layer.to_values(x, gradient, blob, values.numel(), *rest).to(values.dtype)
        if bias is not None and wanted[3]:
            to_bias = layer.to_bias(gradient).to(bias.dtype)
        if residual is not None and wanted[4]:
            to_residual = gradient.to(residual.dtype)
        nothing = [None] * (len(ctx.geometry) + 3)
        return (to_x, None, to_values, to_bias, to_residual, *nothing)

    def save_to_input(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        gradient, blob, values, _, *ctx.geometry, ctx.precision = inputs
        ctx.save_for_backward(gradient, blob, values)

    def backward_to_input(ctx: Any, onward: torch.Tensor) -> tuple[Any, ...]:
        gradient, blob, values = ctx.saved_tensors
        to_gradient = to_values = None
        if ctx.needs_input_grad[0]:
            arguments = (onward, blob, values, None, None, layer.rows_of(gradient))
            to_gradient = layer.forward(*arguments, *ctx.geometry, "none", ctx.precision)
        if values is not None and ctx.needs_input_grad[2]:
            rest = (*ctx.geometry, ctx.precision)
            to_values = layer.to_values(onward, gradient, blob, values.numel(), *rest)
            to_values = to_values.to(values.dtype)
        return (to_gradient, None, to_values, *([None] * (len(ctx.geometry) + 2)))

    def save_to_values(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        x, gradient, blob, _, *ctx.geometry, ctx.precision = inputs
        ctx.save_for_backward(x, gradient, blob)

    def backward_to_values(ctx: Any, values: torch.Tensor) -> tuple[Any, ...]:
        x, gradient, blob = ctx.saved_tensors
        to_x = to_gradient = None
        rest = (*ctx.geometry, ctx.precision)
        if ctx.needs_input_grad[0]:
            to_x = layer.to_input(gradient, blob, values, layer.size_of(x), *rest).to(x.dtype)
        if ctx.needs_input_grad[1]:
            arguments = (x, blob, values, None, None, layer.rows_of(gradient))
            to_gradient = layer.forward(*arguments, *ctx.geometry, "none", ctx.precision)
            to_gradient = to_gradient.to(gradient.dtype)
        return (to_x, to_gradient, *([None] * (len(ctx.geometry) + 3)))

    for suffix, compute, remember in (
        ("", backward, save),
        ("_to_input", backward_to_input, save_to_input),
        ("_to_values", backward_to_values, save_to_values),
    ):
        torch.library.register_autograd(
            f"tersor::{name}{suffix}", compute, setup_context=remember, lib=_LIBRARY
        )


_register_gradients("linear", _Linear)
_register_gradients("conv2d", _Conv2d)


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
    if any(dim is not None for dim in in_dims[1:5]):  # blob, values, bias, residual
        raise ValueError("vmap can batch the input of a compressed layer, and nothing else")
