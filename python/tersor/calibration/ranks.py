"""Calibration by several processes: each has some inputs, and statistics are summed over all.

Under ``torchrun``, or wherever ``torch.distributed`` is initialized, every rank gives batches of
its own and gets the same compressed model. Sums over ranks are the same on all, so that what
follows from them is too; from a single process they differ by the order of sums alone.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.distributed as dist

_Value = TypeVar("_Value")


def rank() -> int:
    """The number of this process; 0 where there is one."""
    return dist.get_rank() if _several() else 0


def gathered(value: _Value) -> list[_Value]:
    """The value of each rank, which can be pickled, in order."""
    if not _several():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def sum_(*tensors: torch.Tensor) -> None:
    """Adds up each tensor over the ranks, in place; all must have it, of the same shape."""
    if _several():
        for tensor in tensors:
            dist.all_reduce(tensor)


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
