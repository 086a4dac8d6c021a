"""Means and second moments of layer inputs, accumulated over calibration batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tersor.calibration.inputs import Batch, each_batch, evaluating, input_of, run
from tersor.nn.registry import LayerHandler, handler_of, why_not

MAX_INPUTS = 4096
"""Wider layers are processed in blocks of at most this many inputs, taken as uncorrelated."""


@dataclass
class InputStatistics:
    """Mean and second moments of a layer's inputs, on the device of these.

    Attributes:
        count: number of samples: rows of inputs, or patches of a convolution.
        mean: float32 ``[groups, inputs]``.
        second: float32 ``[groups, inputs, inputs]`` for each block of at most ``MAX_INPUTS``.
    """

    count: int
    mean: torch.Tensor
    second: list[torch.Tensor]


def blocks_of(inputs: int) -> Iterator[slice]:
    """The blocks of inputs that are processed independently, each at most ``MAX_INPUTS`` wide."""
    for start in range(0, inputs, MAX_INPUTS):
        yield slice(start, min(start + MAX_INPUTS, inputs))


def supported(layer: nn.Module, name: str) -> LayerHandler:
    """The handler of a layer.

    Raises:
        ValueError: the layer cannot be compressed; the message has the reason.
    """
    handler, reason = handler_of(layer), why_not(layer)
    if handler is None or reason is not None:
        raise ValueError(f"{name}: {reason}")
    return handler


@dataclass
class _Accumulator:
    """The sums over all samples of a layer so far."""

    layer: nn.Module
    handler: LayerHandler
    sums: InputStatistics | None = None

    def add(self, _: nn.Module, x: torch.Tensor) -> None:
        """Adds the inputs of a call; a call without any is none."""
        if x.numel():
            for part in self.handler.samples(self.layer, x):
                self._add(part.float())

    def _add(self, samples: torch.Tensor) -> None:
        groups, count, inputs = samples.shape
        if self.sums is None:
            sizes = [block.stop - block.start for block in blocks_of(inputs)]
            second = [samples.new_zeros(groups, n, n) for n in sizes]
            self.sums = InputStatistics(0, samples.new_zeros(groups, inputs), second)
        self.sums.count += count
        self.sums.mean += samples.sum(1)
        for block, second_of_block in zip(blocks_of(inputs), self.sums.second, strict=True):
            part = samples[:, :, block]
            second_of_block.baddbmm_(part.transpose(1, 2), part)


@torch.no_grad()
def input_statistics(
    model: nn.Module, layer: nn.Module, batches: Iterable[Batch], name: str = "layer"
) -> InputStatistics | None:
    """Mean and second moments of a layer's inputs, over all calls of the layer.

    Args:
        model: contains the layer; is run in evaluation mode.
        layer: of a registered type (:mod:`tersor.nn.registry`), whose inputs are recorded.
        batches: inputs of the model: each a tensor, a tuple of arguments or a dict of keyword
            arguments.
        name: of the layer, for messages.

    Returns:
        float32 statistics; None if no input reaches the layer.

    Raises:
        ValueError: an input is not finite or its square overflows; the type of the layer is not
            registered; a batch is not what the model takes.
    """
    found = _Accumulator(layer, supported(layer, name))
    with evaluating(model), _watched([layer], found.add):
        for batch in each_batch(batches):
            run(model, batch)
    sums = found.sums
    if sums is None:
        return None
    sums.mean /= sums.count
    for second in sums.second:
        second /= sums.count
        # Sums of squares are finite only where all inputs are.
        if not second.diagonal(dim1=1, dim2=2).isfinite().all():
            raise ValueError(
                f"{name}: its inputs hold NaN or infinite values, or some whose square overflows"
            )
    return sums


def pooled(parts: Sequence[InputStatistics]) -> InputStatistics:
    """Statistics over the calls of several layers, as if one layer was called in all their places.

    Parts whose groups are not those of the first are left out.
    """
    parts = [part for part in parts if part.mean.shape == parts[0].mean.shape]
    count = sum(part.count for part in parts)
    made = InputStatistics(
        count, torch.zeros_like(parts[0].mean), [torch.zeros_like(s) for s in parts[0].second]
    )
    for part in parts:
        share = part.count / count
        made.mean.add_(part.mean, alpha=share)
        for second, own in zip(made.second, part.second, strict=True):
            second.add_(own, alpha=share)
    return made


@torch.no_grad()
def call_order(
    model: nn.Module, layers: Iterable[nn.Module], batches: Iterable[Batch]
) -> list[nn.Module]:
    """The layers that inputs reach, each after those that run before it in any batch.

    Where batches disagree, an earlier one decides.
    """
    order: list[nn.Module] = []
    called: dict[nn.Module, None] = {}

    def mark(layer: nn.Module, x: torch.Tensor) -> None:
        if x.numel():
            called[layer] = None

    with evaluating(model), _watched(layers, mark):
        for batch in each_batch(batches):
            called.clear()
            run(model, batch)
            place = 0
            for layer in called:
                if layer not in order:
                    order.insert(place, layer)
                place = order.index(layer) + 1
    return order


@contextmanager
def _watched(
    layers: Iterable[nn.Module], function: Callable[[nn.Module, torch.Tensor], None]
) -> Iterator[None]:
    """Calls a function with the layer and its input at each call of one of them."""

    def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        function(layer, input_of(layer, args, kwargs))

    handles = [layer.register_forward_pre_hook(hook, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
