"""Look-ups of rows as operators: ``torch.ops.tersor.embedding``, and its gradients."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from tersor import _core
from tersor.kernels.rows import index_error
from tersor.ops.decoded import dense_of
from tersor.ops.library import LIBRARY
from tersor.ops.packed import rows_of

LIBRARY.define(
    "embedding(Tensor indices, Tensor blob, Tensor? values, SymInt cols, ScalarType dtype) "
    "-> Tensor"
)
LIBRARY.define(
    "embedding_to_values(Tensor gradient, Tensor indices, Tensor blob, int count) -> Tensor"
)


def run_embedding(
    rows: _core.PackedRows, indices: torch.Tensor, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """The rows of these indices, past torch's dispatcher.

    Args:
        rows: ``[n, cols]``.
        indices: int32 or int64 of any shape, on the CPU.
        dtype: of the result, a float type.

    Returns:
        ``[*indices, cols]``.

    Raises:
        IndexError: an index is negative, or not less than n.
        ValueError: the indices are of another type, or not on the CPU.
    """
    if indices.dtype is not torch.int64 or not indices.is_contiguous():
        if indices.dtype not in (torch.int32, torch.int64):
            raise ValueError(f"indices must be int32 or int64, not {indices.dtype}")
        indices = indices.long().contiguous()
    if not indices.is_cpu:
        raise ValueError(f"compressed layers run on the CPU; the indices are on {indices.device}")
    kept = torch.bfloat16 if dtype is torch.bfloat16 else torch.float32
    out = torch.empty((*indices.shape, rows.cols), dtype=kept)
    wrong = _core.rows_look_up(
        rows,
        indices.data_ptr(),
        indices.numel(),
        out.data_ptr(),
        1 if kept is torch.bfloat16 else 0,
        torch.get_num_threads(),
    )
    if wrong is not None:
        raise index_error(int(indices.flatten()[wrong]), wrong, rows.rows)
    return out if kept is dtype else out.to(dtype)


def look_up(
    indices: torch.Tensor,
    blob: torch.Tensor,
    values: torch.Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """The rows of a blob; one without a codebook is decoded once and kept.

    Arguments and errors as of :func:`run_embedding` and :func:`tersor.ops.packed.rows_of`.
    """
    rows = rows_of(blob, values)
    if rows is None:
        return F.embedding(indices, dense_of(blob, dtype))
    return run_embedding(rows, indices, dtype)


@torch.library.impl(LIBRARY, "embedding", "CPU")
def _embedding(
    indices: torch.Tensor,
    blob: torch.Tensor,
    values: torch.Tensor | None,
    cols: int,
    dtype: torch.dtype,
) -> torch.Tensor:
    return look_up(indices, blob, values, dtype)


@torch.library.register_fake("tersor::embedding", lib=LIBRARY)
def _embedding_fake(
    indices: torch.Tensor, blob: Any, values: Any, cols: int, dtype: torch.dtype
) -> torch.Tensor:
    return indices.new_empty((*indices.shape, cols), dtype=dtype)


@torch.library.impl(LIBRARY, "embedding_to_values", "CPU")
def _embedding_to_values(
    gradient: torch.Tensor, indices: torch.Tensor, blob: torch.Tensor, count: int
) -> torch.Tensor:
    # With the codes themselves as the values, a look-up gives the code of each weight.
    codes = run_embedding(rows_of(blob, torch.arange(1.0, count + 1)), indices)
    sums = torch.zeros(count + 1).index_add_(0, codes.int().flatten(), gradient.float().flatten())
    return sums[1:].clone()


@torch.library.register_fake("tersor::embedding_to_values", lib=LIBRARY)
def _embedding_to_values_fake(
    gradient: torch.Tensor, indices: Any, blob: Any, count: int
) -> torch.Tensor:
    return gradient.new_empty(count, dtype=torch.float32)


def _save(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    indices, blob, values, _, _ = inputs
    ctx.save_for_backward(indices, blob, values)


def _backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
    indices, blob, values = ctx.saved_tensors
    to_values = None
    if values is not None and ctx.needs_input_grad[2]:
        to_values = torch.ops.tersor.embedding_to_values(gradient, indices, blob, values.numel())
        to_values = to_values.to(values.dtype)
    return (None, None, to_values, None, None)


def _save_to_values(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    gradient, indices, blob, _ = inputs
    ctx.cols, ctx.dtype = gradient.shape[-1], gradient.dtype
    ctx.save_for_backward(indices, blob)


def _backward_to_values(ctx: Any, values: torch.Tensor) -> tuple[Any, ...]:
    indices, blob = ctx.saved_tensors
    rows = torch.ops.tersor.embedding(indices, blob, values, ctx.cols, ctx.dtype)
    return (rows, None, None, None)


for _name, _to, _remember in (
    ("embedding", _backward, _save),
    ("embedding_to_values", _backward_to_values, _save_to_values),
):
    torch.library.register_autograd(f"tersor::{_name}", _to, setup_context=_remember, lib=LIBRARY)
