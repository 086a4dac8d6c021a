"""The gradients of the operators, which are other operators of them.

All are linear in each of: the input, the codebook, and the gradient that flows back. So the
gradients of each operator are others of them, and so are second derivatives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tersor.ops.library import LIBRARY

# Activations whose derivative is a function of their output, and those where it is one of their
# input, which is computed again from x.
_FROM_OUTPUT = ("relu", "relu6")
_FROM_INPUT = ("gelu", "silu")


def _through_activation(
    gradient: torch.Tensor,
    activation: str,
    y: torch.Tensor | None,
    forward: Callable[[], torch.Tensor],
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
        ctx.size = layer.size_of(x)
        # Only what a formula needs: what is saved stays in memory until the backward pass, and may
        # not be changed in place before it (a ReLU that follows often does that to the output).
        again = ctx.activation in _FROM_INPUT
        ctx.save_for_backward(
            x if again or (values is not None and ctx.needs_input_grad[2]) else None,
            blob,
            values,
            bias if again else None,
            residual if again else None,
            output if ctx.activation in _FROM_OUTPUT else None,
        )
        ctx.bias_dtype = None if bias is None else bias.dtype
        ctx.residual_dtype = None if residual is None else residual.dtype

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
            to_x = layer.to_input(gradient, blob, values, ctx.size, *rest)
        if values is not None and wanted[2]:
            to_values = layer.to_values(x, gradient, blob, values.numel(), *rest).to(values.dtype)
        if ctx.bias_dtype is not None and wanted[3]:
            to_bias = layer.to_bias(gradient).to(ctx.bias_dtype)
        if ctx.residual_dtype is not None and wanted[4]:
            to_residual = gradient.to(ctx.residual_dtype)
        nothing = [None] * (len(ctx.geometry) + 3)
        return (to_x, None, to_values, to_bias, to_residual, *nothing)

    def save_to_input(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        gradient, blob, values, _, *ctx.geometry, ctx.precision = inputs
        ctx.rows = layer.rows_of(gradient)
        needed = values is not None and ctx.needs_input_grad[2]
        ctx.save_for_backward(gradient if needed else None, blob, values)

    def backward_to_input(ctx: Any, onward: torch.Tensor) -> tuple[Any, ...]:
        gradient, blob, values = ctx.saved_tensors
        to_gradient = to_values = None
        if ctx.needs_input_grad[0]:
            arguments = (onward, blob, values, None, None, ctx.rows)
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
            f"tersor::{name}{suffix}", compute, setup_context=remember, lib=LIBRARY
        )


_register_gradients("linear", _Linear)
_register_gradients("conv2d", _Conv2d)


def _save_decode(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    blob, values, _, _ = inputs
    ctx.save_for_backward(blob, values)


def _backward_decode(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
    blob, values = ctx.saved_tensors
    to_values = None
    if values is not None and ctx.needs_input_grad[1]:
        to_values = torch.ops.tersor.decode_to_values(gradient, blob, values.numel())
        to_values = to_values.to(values.dtype)
    return (None, to_values, None, None)


def _save_decode_to_values(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    gradient, blob, _ = inputs
    ctx.shape, ctx.dtype = gradient.shape, gradient.dtype
    ctx.save_for_backward(blob)


def _backward_decode_to_values(ctx: Any, values: torch.Tensor) -> tuple[Any, ...]:
    (blob,) = ctx.saved_tensors
    return (torch.ops.tersor.decode(blob, values, list(ctx.shape), ctx.dtype), None, None)


for _name, _backward, _save in (
    ("decode", _backward_decode, _save_decode),
    ("decode_to_values", _backward_decode_to_values, _save_decode_to_values),
):
    torch.library.register_autograd(f"tersor::{_name}", _backward, setup_context=_save, lib=LIBRARY)
