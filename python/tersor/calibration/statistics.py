"""Means and second moments of layer inputs, accumulated over calibration batches."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tersor.calibration import ranks
from tersor.calibration.inputs import (
    Batch,
    ForwardFunction,
    each_batch,
    evaluating,
    input_of,
    run,
)
from tersor.calibration.trace import Trace, numbered, recorded, united
from tersor.nn.registry import Conv2dHandler, LayerHandler, handler_of, why_not

MAX_INPUTS = 4096
"""Wider layers are processed in blocks of at most this many inputs, taken as uncorrelated."""

MAX_PATCHES = 1 << 14
PATCHES_PER_INPUT = 32
LEAST_PATCHES = 1 << 11
"""Of a call of a convolution with more patches than ``PATCHES_PER_INPUT`` for each input of a row,
``LEAST_PATCHES`` and ``MAX_PATCHES`` at the ends, at least that number, evenly spread, is used."""


@dataclass
class InputStatistics:
    """Mean and second moments of a layer's inputs, on the device of these.

    Attributes:
        count: number of samples: rows of inputs, or patches of a convolution.
        mean: float32 ``[groups, inputs]``.
        second: float32 ``[groups, inputs, inputs]`` for each block of at most ``MAX_INPUTS``.
        dense_mean: the mean in the dense network, ``[groups, inputs]``.
        drift: E[(inputs in the dense network - x) x^T], as ``second``; None where both are one.
    """

    count: int
    mean: torch.Tensor
    second: list[torch.Tensor]
    dense_mean: torch.Tensor
    drift: list[torch.Tensor] | None = None


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
    if not handler.multiplies:
        raise ValueError(f"{name}: errors in {type(layer).__name__} layers cannot be compensated")
    return handler


@dataclass
class Accumulator:
    """The sums over all samples of a layer so far.

    Attributes:
        shift: what is subtracted from each sample, ``[groups, inputs]``: about the mean, so that of
            nearly constant inputs rounding errors leave what varies.
        sums: of the samples without it.
    """

    layer: nn.Module
    handler: LayerHandler
    shift: torch.Tensor | None = None
    sums: InputStatistics | None = None

    def add(self, x: torch.Tensor, dense: torch.Tensor | None = None) -> None:
        """Adds the inputs of a call; a call without any is none.

        Args:
            x: inputs of the layer.
            dense: of the same call in the dense network, where that is another one.
        """
        if not x.numel():
            return
        parts = self._samples(x)
        if dense is None or dense.shape != x.shape:
            for part in parts:
                self._add(part.float())
        else:
            both = zip(parts, self._samples(dense), strict=True)
            for part, dense_part in both:
                self._add(part.float(), dense_part.float())

    def _samples(self, x: torch.Tensor) -> Iterator[torch.Tensor]:
        """What the weight is multiplied with; of very many patches some."""
        layer = self.layer
        if not isinstance(self.handler, Conv2dHandler):
            return self.handler.samples(layer, x)
        assert isinstance(layer, (nn.Conv1d, nn.Conv2d))
        inputs = layer.weight[0].numel()
        most = min(max(PATCHES_PER_INPUT * inputs, LEAST_PATCHES), MAX_PATCHES)
        axes = len(layer.stride)
        patches = x.numel() // x.shape[-1 - axes] // math.prod(layer.stride)
        ratio = patches // most
        if ratio <= 1:
            return self.handler.samples(layer, x)
        every = (ratio,) if axes == 1 else (root := math.isqrt(ratio), ratio // root)
        return self.handler.samples(layer, x, every)

    def _add(self, samples: torch.Tensor, dense: torch.Tensor | None = None) -> None:
        groups, count, inputs = samples.shape
        if self.sums is None:
            sizes = [block.stop - block.start for block in blocks_of(inputs)]
            second = [samples.new_zeros(groups, n, n) for n in sizes]
            mean = samples.new_zeros(groups, inputs)
            self.sums = InputStatistics(0, mean, second, torch.zeros_like(mean))
            self.shift = samples.mean(1)
        sums = self.sums
        assert self.shift is not None
        samples = samples - self.shift[:, None]
        dense = None if dense is None else dense - self.shift[:, None]
        sums.count += count
        sums.mean += samples.sum(1)
        sums.dense_mean += (samples if dense is None else dense).sum(1)
        if dense is not None and sums.drift is None:
            sums.drift = [torch.zeros_like(second) for second in sums.second]
        for i, block in enumerate(blocks_of(inputs)):
            part = samples[:, :, block]
            sums.second[i].baddbmm_(part.transpose(1, 2), part)
            if dense is not None:
                assert sums.drift is not None
                sums.drift[i].baddbmm_((dense[:, :, block] - part).transpose(1, 2), part)

    def _unshifted(self) -> InputStatistics | None:
        """The sums of the samples themselves, made in double: float32 then rounds them once."""
        sums, shift = self.sums, self.shift
        if sums is None or shift is None:
            return None
        shift, own = shift.double(), sums.mean.double()
        whole = sums.count * shift
        moved = sums.dense_mean.double() - own
        sums.mean, sums.dense_mean = (own + whole).float(), (moved + own + whole).float()
        for i, block in enumerate(blocks_of(shift.shape[1])):
            row = shift[:, None, block]
            second = sums.second[i].double()
            second.baddbmm_((own + whole)[:, block, None], row)
            second.baddbmm_(row.transpose(1, 2), own[:, None, block])
            sums.second[i] = second.float()
            if sums.drift is not None:
                sums.drift[i] = sums.drift[i].double().baddbmm_(moved[:, block, None], row).float()
        self.shift = None
        return sums

    def result(self, name: str) -> InputStatistics | None:
        """Means over all samples; None if there were none.

        Raises:
            ValueError: an input is not finite or its square overflows; the message has the name.
        """
        sums = _over_ranks(self._unshifted())
        if sums is None:
            return None
        sums.mean /= sums.count
        sums.dense_mean /= sums.count
        for moments in (*sums.second, *(sums.drift or ())):
            moments /= sums.count
        # Sums of squares are finite only where all inputs are.
        if not all(s.diagonal(dim1=1, dim2=2).isfinite().all() for s in sums.second):
            raise ValueError(
                f"{name}: its inputs hold NaN or infinite values, or some whose square overflows"
            )
        return sums


def _over_ranks(sums: InputStatistics | None) -> InputStatistics | None:
    """The sums over all ranks, some of which may have none."""
    own = None if sums is None else (sums.mean.shape, sums.drift is not None, sums.count)
    shapes = [shape for shape in ranks.gathered(own) if shape is not None]
    if not shapes:
        return None
    (groups, inputs), _, _ = shapes[0]
    if sums is None:
        second = [
            torch.zeros(groups, block.stop - block.start, block.stop - block.start)
            for block in blocks_of(inputs)
        ]
        sums = InputStatistics(0, torch.zeros(groups, inputs), second, torch.zeros(groups, inputs))
    if sums.drift is None and any(drift for _, drift, _ in shapes):
        sums.drift = [torch.zeros_like(second) for second in sums.second]
    ranks.sum_(sums.mean, sums.dense_mean, *sums.second, *(sums.drift or ()))
    sums.count = sum(count for _, _, count in shapes)
    return sums


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
    found = Accumulator(layer, supported(layer, name))
    with evaluating(model), _watched([layer], found):
        for batch in each_batch(batches):
            run(model, batch)
    return found.result(name)


def pooled(parts: Sequence[InputStatistics]) -> InputStatistics:
    """Statistics over the calls of several layers, as if one layer was called in all their places.

    Parts whose groups are not those of the first are left out.
    """
    parts = [part for part in parts if part.mean.shape == parts[0].mean.shape]
    count = sum(part.count for part in parts)
    first = parts[0]
    made = InputStatistics(
        count,
        torch.zeros_like(first.mean),
        [torch.zeros_like(s) for s in first.second],
        torch.zeros_like(first.mean),
    )
    for part in parts:
        share = part.count / count
        made.mean.add_(part.mean, alpha=share)
        made.dense_mean.add_(part.dense_mean, alpha=share)
        for second, own in zip(made.second, part.second, strict=True):
            second.add_(own, alpha=share)
    return made


def call_order(
    model: nn.Module, layers: Iterable[nn.Module], batches: Iterable[Batch]
) -> list[nn.Module]:
    """The layers that inputs reach, each after those that run before it in any batch.

    Where batches disagree, an earlier one decides.
    """
    return trace_of(model, layers, (), each_batch(batches))[0].order


@torch.no_grad()
def trace_of(
    model: nn.Module,
    layers: Iterable[nn.Module],
    blocks: Iterable[nn.Module],
    batches: Iterable[Batch],
    forward_fn: ForwardFunction | None = None,
) -> tuple[Trace, Any]:
    """Which layers and blocks all batches call, and what the model returns for the first.

    The model runs on each batch once.
    """
    first = None
    with evaluating(model), recorded(layers, blocks) as recorder:
        for number, batch in enumerate(batches):
            output = run(model, batch, forward_fn)
            first = output if number == 0 else first
            recorder.end_batch()
    return united(model, ranks.gathered(numbered(model, recorder.trace))), first


@contextmanager
def _watched(layers: Iterable[nn.Module], found: Accumulator) -> Iterator[None]:
    """Adds the input of each call of a layer."""

    def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.add(input_of(layer, args, kwargs))

    handles = [layer.register_forward_pre_hook(hook, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
