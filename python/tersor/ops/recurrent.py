"""``torch.ops.tersor.recurrent``: one layer of an LSTM, GRU or RNN in one direction.

The operator is for inference: where a gradient is needed, compressed layers decode their weights by
``torch.ops.tersor.decode``, whose gradient is registered, and torch's own layer runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from tersor import _core
from tersor.ops.library import LIBRARY
from tersor.ops.packed import packed_of

LIBRARY.define(
    "recurrent(Tensor x, Tensor h, Tensor? c, Tensor batch_sizes, Tensor input_blob, "
    "Tensor hidden_blob, Tensor? projection_blob, Tensor? input_values, Tensor? hidden_values, "
    "Tensor? projection_values, Tensor? input_bias, Tensor? hidden_bias, str cell, bool reversed, "
    "str precision) -> (Tensor, Tensor, Tensor)"
)


def _array(x: torch.Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A tensor as the kernels read it: contiguous float32."""
    if not x.is_cpu:
        raise ValueError(f"compressed layers run on the CPU; a tensor is on {x.device}")
    array: np.ndarray[Any, np.dtype[np.float32]] = (
        x.detach().float().contiguous().resolve_neg().numpy()
    )
    return array


def run_recurrent(
    cell: str,
    packed: Sequence[_core.PackedMatrix | None],
    biases: Sequence[torch.Tensor | None],
    batch_sizes: Sequence[int],
    x: torch.Tensor,
    h: torch.Tensor,
    c: torch.Tensor | None,
    y: torch.Tensor,
    column: int,
    precision: str,
    *,
    reversed: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Runs one direction of a layer, past torch's dispatcher, in one call for all steps.

    Args:
        cell: ``lstm``, ``gru``, ``rnn_tanh`` or ``rnn_relu``.
        packed: the weights of the input and of the state, and the projection or None.
        biases: of the input and of the state.
        batch_sizes: as those of a ``PackedSequence``.
        x: ``[sum of the batch sizes, inputs]``, of any float type.
        h, c: the states before, ``[batch, ...]``; c is None but for an LSTM.
        y: contiguous float32 ``[sum of the batch sizes, columns]``, whose columns from ``column``
            on are overwritten.
        precision: class of arithmetic.
        reversed: from the last input of each sequence to its first.

    Returns:
        The states after, float32.
    """
    state = np.array(_array(h))
    cells = None if c is None else np.array(_array(c))
    input_weight, state_weight, projection = packed
    assert input_weight is not None
    assert state_weight is not None
    input_bias, state_bias = (None if bias is None else _array(bias) for bias in biases)
    _core.recurrent_run(
        cell,
        input_weight,
        state_weight,
        projection,
        input_bias,
        state_bias,
        batch_sizes,
        reversed,
        _array(x),
        state,
        cells,
        y.numpy(),
        column,
        precision,
        torch.get_num_threads(),
    )
    return torch.from_numpy(state), None if cells is None else torch.from_numpy(cells)


@torch.library.impl(LIBRARY, "recurrent", "CPU")
def _recurrent(
    x: torch.Tensor,
    h: torch.Tensor,
    c: torch.Tensor | None,
    batch_sizes: torch.Tensor,
    input_blob: torch.Tensor,
    hidden_blob: torch.Tensor,
    projection_blob: torch.Tensor | None,
    input_values: torch.Tensor | None,
    hidden_values: torch.Tensor | None,
    projection_values: torch.Tensor | None,
    input_bias: torch.Tensor | None,
    hidden_bias: torch.Tensor | None,
    cell: str,
    reversed: bool,
    precision: str,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    packed = [
        packed_of(input_blob, input_values),
        packed_of(hidden_blob, hidden_values),
        None if projection_blob is None else packed_of(projection_blob, projection_values),
    ]
    y = torch.empty(len(x), h.shape[1])
    state, cells = run_recurrent(
        cell,
        packed,
        (input_bias, hidden_bias),
        batch_sizes.tolist(),
        x,
        h,
        c,
        y,
        0,
        precision,
        reversed=reversed,
    )
    return (
        y.to(x.dtype),
        state.to(x.dtype),
        (h.new_empty(0) if cells is None else cells.to(x.dtype)),
    )


@torch.library.register_fake("tersor::recurrent", lib=LIBRARY)
def _recurrent_fake(
    x: torch.Tensor, h: torch.Tensor, c: torch.Tensor | None, *rest: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    y = x.new_empty((x.shape[0], h.shape[1]))
    state = x.new_empty(h.shape)
    return y, state, x.new_empty(0) if c is None else x.new_empty(c.shape)
