"""Means and second moments of layer inputs, accumulated over calibration batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

MAX_INPUTS = 4096
"""Wider layers are processed in blocks of at most this many inputs, taken as uncorrelated."""


@dataclass
class InputStatistics:
    """Mean and second moments of a layer's inputs.

    Attributes:
        count: number of samples: rows of inputs, or patches of a convolution.
        mean: float32 ``[groups, inputs]``.
        second: float32 ``[groups, inputs, inputs]`` for each block of at most ``MAX_INPUTS``.
    """

    count: int
    mean: torch.Tensor
    second: list[torch.Tensor]


def _samples(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The vectors that a layer's weight multiplies: float32 ``[groups, samples, inputs]``."""
    if isinstance(layer, nn.Linear):
        return x.reshape(1, -1, x.shape[-1]).float()
    assert isinstance(layer, nn.Conv2d)
    if isinstance(layer.padding, str):
        raise ValueError("the padding of a convolution must be given as numbers")
    x = x if x.dim() == 4 else x.unsqueeze(0)
    patches = F.unfold(x.float(), layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    grouped = patches.view(len(x), layer.groups, -1, patches.shape[-1])
    return grouped.permute(1, 0, 3, 2).flatten(1, 2)


def blocks_of(inputs: int) -> Iterator[slice]:
    """The blocks of inputs that are processed independently, each at most ``MAX_INPUTS`` wide."""
    for start in range(0, inputs, MAX_INPUTS):
        yield slice(start, min(start + MAX_INPUTS, inputs))


@contextmanager
def _watched(layer: nn.Module, hook: Callable[[torch.Tensor], None]) -> Iterator[None]:
    handle = layer.register_forward_pre_hook(lambda _, inputs: hook(inputs[0].detach()))
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def input_statistics(
    model: nn.Module, layer: nn.Linear | nn.Conv2d, batches: Iterable[torch.Tensor]
) -> InputStatistics | None:
    """Mean and second moments of a layer's inputs, over all calls of the layer.

    Args:
        model: contains the layer; is run in its present mode.
        layer: whose inputs are recorded.
        batches: inputs of the model.

    Returns:
        float32 statistics; None if the layer is never called.

    Raises:
        ValueError: a convolution's padding is not given as numbers.
    """
    found: InputStatistics | None = None

    def add(x: torch.Tensor) -> None:
        nonlocal found
        samples = _samples(layer, x)
        if found is None:
            groups, _, inputs = samples.shape
            sizes = [b.stop - b.start for b in blocks_of(inputs)]
            zeros = [torch.zeros(groups, n, n) for n in sizes]
            found = InputStatistics(0, torch.zeros(groups, inputs), zeros)
        found.count += samples.shape[1]
        found.mean += samples.sum(1)
        for block, second in zip(blocks_of(samples.shape[2]), found.second, strict=True):
            part = samples[:, :, block]
            second.baddbmm_(part.transpose(1, 2), part)

    with _watched(layer, add):
        for x in batches:
            model(x)
    if found is not None:
        found.mean /= found.count
        for second in found.second:
            second /= found.count
    return found
