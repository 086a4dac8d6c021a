"""torch.ops.tersor: the operators that graphs, tracing and gradients go through.

Their gradients are registered in :mod:`tersor.ops.autograd`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.grad import conv2d_input

from tersor import _core
from tersor.codec import csr
from tersor.codec.encode import decompress_weight
from tersor.ops.decoded import content_of
from tersor.ops.forward import run_conv2d, run_linear
from tersor.ops.packed import packed_of

# Elements of the patches of a convolution that are unfolded at a time: 64 MB of float32.
PATCH_ELEMENTS = 1 << 24

_GEOMETRY = "int[] kernel, int[] stride, int[] padding, int[] dilation, int groups"
_LAYER = "Tensor blob, Tensor? values, Tensor? bias, Tensor? residual, int rows"

LIBRARY = torch.library.Library("tersor", "DEF")
LIBRARY.define(f"linear(Tensor x, {_LAYER}, str activation, str precision) -> Tensor")
LIBRARY.define(f"conv2d(Tensor x, {_LAYER}, {_GEOMETRY}, str activation, str precision) -> Tensor")
LIBRARY.define("decode(Tensor blob, Tensor? values, int[] shape, ScalarType dtype) -> Tensor")
LIBRARY.define("decode_to_values(Tensor gradient, Tensor blob, int count) -> Tensor")
LIBRARY.define(
    "linear_to_input(Tensor gradient, Tensor blob, Tensor? values, SymInt cols, str precision) "
    "-> Tensor"
)
LIBRARY.define(
    "conv2d_to_input(Tensor gradient, Tensor blob, Tensor? values, SymInt[] x_shape, "
    f"{_GEOMETRY}, str precision) -> Tensor"
)
LIBRARY.define(
    "linear_to_values(Tensor x, Tensor gradient, Tensor blob, int count, str precision) -> Tensor"
)
LIBRARY.define(
    f"conv2d_to_values(Tensor x, Tensor gradient, Tensor blob, int count, {_GEOMETRY}, "
    "str precision) -> Tensor"
)


@torch.library.impl(LIBRARY, "linear", "CPU")
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


@torch.library.register_fake("tersor::linear", lib=LIBRARY)
def _linear_fake(
    x: torch.Tensor, blob: Any, values: Any, bias: Any, residual: Any, rows: int, *rest: Any
) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], rows))


@torch.library.impl(LIBRARY, "linear_to_input", "CPU")
def _linear_to_input(
    gradient: torch.Tensor,
    blob: torch.Tensor,
    values: torch.Tensor | None,
    cols: int,
    precision: str,
) -> torch.Tensor:
    packed = packed_of(blob, values)
    return run_linear(packed.transposed, gradient, None, (packed.cols, packed.rows), precision)


@torch.library.register_fake("tersor::linear_to_input", lib=LIBRARY)
def _linear_to_input_fake(
    gradient: torch.Tensor, blob: Any, values: Any, cols: int, precision: str
) -> torch.Tensor:
    return gradient.new_empty((*gradient.shape[:-1], cols))


@torch.library.impl(LIBRARY, "decode", "CPU")
def _decode(
    blob: torch.Tensor, values: torch.Tensor | None, shape: list[int], dtype: torch.dtype
) -> torch.Tensor:
    return torch.from_numpy(decompress_weight(content_of(blob, values))).to(dtype)


@torch.library.register_fake("tersor::decode", lib=LIBRARY)
def _decode_fake(
    blob: torch.Tensor, values: Any, shape: list[int], dtype: torch.dtype
) -> torch.Tensor:
    return blob.new_empty(shape, dtype=dtype)


@torch.library.impl(LIBRARY, "decode_to_values", "CPU")
def _decode_to_values(gradient: torch.Tensor, blob: torch.Tensor, count: int) -> torch.Tensor:
    content = content_of(blob)
    codes = torch.from_numpy(csr.decode(content.csr))
    scaled = content.scale(gradient.detach().float().reshape(codes.shape).numpy().copy())
    sums = torch.zeros(count + 1).index_add_(
        0, codes.flatten().int(), torch.from_numpy(scaled).flatten()
    )
    return sums[1:].clone()


@torch.library.register_fake("tersor::decode_to_values", lib=LIBRARY)
def _decode_to_values_fake(gradient: torch.Tensor, blob: Any, count: int) -> torch.Tensor:
    return gradient.new_empty(count, dtype=torch.float32)


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


@torch.library.impl(LIBRARY, "linear_to_values", "CPU")
def _linear_to_values(
    x: torch.Tensor, gradient: torch.Tensor, blob: torch.Tensor, count: int, precision: str
) -> torch.Tensor:
    return _sum_by_code(packed_of(blob), x.reshape(-1, x.shape[-1]), gradient)


@torch.library.register_fake("tersor::linear_to_values", lib=LIBRARY)
def _linear_to_values_fake(
    x: torch.Tensor, gradient: Any, blob: Any, count: int, precision: str
) -> torch.Tensor:
    return x.new_empty(count, dtype=torch.float32)


@torch.library.impl(LIBRARY, "conv2d", "CPU")
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


@torch.library.register_fake("tersor::conv2d", lib=LIBRARY)
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


@torch.library.impl(LIBRARY, "conv2d_to_input", "CPU")
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


@torch.library.register_fake("tersor::conv2d_to_input", lib=LIBRARY)
def _conv2d_to_input_fake(
    gradient: torch.Tensor, blob: Any, values: Any, x_shape: list[int], *rest: Any
) -> torch.Tensor:
    return gradient.new_empty(x_shape)


@torch.library.impl(LIBRARY, "conv2d_to_values", "CPU")
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
    rows = gradient.shape[1] // groups
    sums = torch.zeros(count)
    how = tuple(tuple(pair) for pair in (kernel, dilation, padding, stride))
    # Patches repeat each input as often as the kernel has taps: some images at a time.
    taps = x.shape[1] * kernel[0] * kernel[1] * gradient.shape[2] * gradient.shape[3]
    images = max(1, PATCH_ELEMENTS // max(1, taps))
    for part, outputs in zip(x.split(images), gradient.split(images), strict=True):
        # What each output reads, [n, columns of all groups, outputs].
        columns = F.unfold(part.float(), *how)
        for group in range(groups):
            read = columns[:, group * packed.cols : (group + 1) * packed.cols]
            written = outputs.flatten(2)[:, group * rows : (group + 1) * rows]
            sums += _sum_by_code(packed, read.mT, written.mT, group * rows)
    return sums


@torch.library.register_fake("tersor::conv2d_to_values", lib=LIBRARY)
def _conv2d_to_values_fake(
    x: torch.Tensor, gradient: Any, blob: Any, count: int, *rest: Any
) -> torch.Tensor:
    return x.new_empty(count, dtype=torch.float32)


@torch.library.register_vmap("tersor::linear", lib=LIBRARY)
def _linear_vmap(
    info: Any, in_dims: tuple[int | None, ...], x: torch.Tensor, *rest: Any
) -> tuple[torch.Tensor, int]:
    _refuse_batched_weights(in_dims)
    return torch.ops.tersor.linear(x.movedim(in_dims[0] or 0, 0), *rest), 0


@torch.library.register_vmap("tersor::conv2d", lib=LIBRARY)
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
