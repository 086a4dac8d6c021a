"""How much the output of a model changes with an error in each row of a layer's output.

For errors that are independent, the expected square of the change is the sum of the squared entries
of the Jacobian. Gradients of the output's product with random signs have these as the mean of their
squares (Hutchinson's estimate), with one backward pass for all layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from tersor.calibration import ranks
from tersor.calibration.blocks import Inputs
from tersor.calibration.inputs import Batch, evaluating, first_tensor, mapped, parts_of, run

SAMPLES = 32
"""Of the calibration inputs, so many are used, spread over all batches."""
_TOGETHER = 8  # samples that run at once, which bounds the memory of the backward pass


def output_slopes(
    model: nn.Module, layers: Mapping[nn.Module, int], inputs: Inputs
) -> dict[nn.Module, torch.Tensor]:
    """The squared change of the model's output by a squared error in each output of a layer.

    Args:
        model: is run in evaluation mode.
        layers: with the axis of their output that counts their rows.
        inputs: calibration inputs.

    Returns:
        By layer, float64 ``[rows]``, summed over the positions of a sample; without the layers that
        do not change the output, and empty where its gradient is not defined.
    """
    sums: dict[nn.Module, torch.Tensor] = {}
    signs = torch.Generator().manual_seed(ranks.rank())
    used = 0
    with evaluating(model, gradients=True):
        for batch in _portions(inputs.batches):
            with _edges(layers) as calls:
                output = first_float(run(model, batch, inputs.forward_fn))
            if output is None or not output.requires_grad or not calls:
                used = 0
                break
            direction = torch.randint(0, 2, output.shape, generator=signs).to(output) * 2 - 1
            edges: list[Any] = [edge for _, edge in calls]
            gradients = torch.autograd.grad(output, edges, direction, allow_unused=True)
            for (layer, _), gradient in zip(calls, gradients, strict=True):
                if gradient is None:
                    continue
                rows = gradient.movedim(layers[layer], -1).flatten(0, -2)
                square = rows.double().square().sum(0)
                sums[layer] = sums[layer] + square if layer in sums else square
            used += len(output) if output.dim() else 1
    if not all(ranks.gathered(used > 0)):
        return {}
    return _over_ranks(list(layers), sums, used)


def _over_ranks(
    layers: list[nn.Module], sums: dict[nn.Module, torch.Tensor], used: int
) -> dict[nn.Module, torch.Tensor]:
    """Means over the samples of all ranks, some of which may not reach a layer."""
    sizes = ranks.gathered([len(sums[m]) if m in sums else 0 for m in layers])
    samples = sum(ranks.gathered(used))
    made = {}
    for number, layer in enumerate(layers):
        size = max(own[number] for own in sizes)
        if size:
            total = sums.get(layer, torch.zeros(size, dtype=torch.float64))
            ranks.sum_(total)
            made[layer] = total / max(1, samples)
    return made


def first_float(output: Any) -> torch.Tensor | None:
    """The first tensor of floats in what a model returned."""
    for part in parts_of(output):
        if isinstance(part, torch.Tensor) and part.is_floating_point():
            return part
    return None


def _portions(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Some samples of each batch, at most :data:`SAMPLES` in all, a few at a time."""
    batches = list(batches)
    each = max(1, SAMPLES // len(batches))
    for batch in batches[:SAMPLES]:
        first = first_tensor(batch)
        count = 1 if first is None or not first.dim() else len(first)
        for start in range(0, min(each, count), _TOGETHER):
            yield _rows(batch, count, slice(start, min(start + _TOGETHER, each)))


def _rows(batch: Batch, count: int, rows: slice) -> Batch:
    """A batch with some of its samples: of tensors whose first dimension counts these."""

    def part(value: Any) -> Any:
        sliced = isinstance(value, torch.Tensor) and value.dim() and len(value) == count
        return value[rows] if sliced else value

    return mapped(batch, part)


@contextmanager
def _edges(layers: Iterable[nn.Module]) -> Iterator[list[tuple[nn.Module, GradientEdge]]]:
    """Records where the output of each call is in the graph of gradients."""
    calls: list[tuple[nn.Module, GradientEdge]] = []

    def record(layer: nn.Module, args: Any, output: Any) -> Any:
        if not isinstance(output, torch.Tensor) or not output.numel():
            return output
        if not output.requires_grad:
            output = output.detach().requires_grad_().clone()
        elif output._is_view():  # what is then done in place goes around it, to its base
            output = output.clone()
        calls.append((layer, get_gradient_edge(output)))
        return output

    handles = [layer.register_forward_hook(record) for layer in layers]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()
