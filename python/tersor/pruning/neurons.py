"""Neurons and channels between two layers: remove dead ones, and sort them to save bytes.

Source of the removal: Han et al. 2015 (arXiv 1506.02626), section 3.5, "pruning neurons".
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn


def _columns(producer: nn.Module, consumer: nn.Module) -> torch.Tensor:
    """The consumer's weight as ``[rows, neurons, taps]``, a view.

    Raises:
        ValueError: a layer is not Linear or ungrouped Conv2d, or their sizes do not match.
    """
    for layer in (producer, consumer):
        if not isinstance(layer, (nn.Linear, nn.Conv2d)) or getattr(layer, "groups", 1) != 1:
            raise ValueError(
                f"neurons are pruned in Linear and ungrouped Conv2d layers, not in {layer}"
            )
    neurons = len(producer.weight)  # type: ignore[arg-type]
    weight: torch.Tensor = consumer.weight  # type: ignore[assignment]
    if weight.shape[1] % neurons:
        raise ValueError(
            f"the {neurons} neurons do not divide the consumer's {weight.shape[1]} inputs"
        )
    return weight.detach().view(len(weight), neurons, -1)


@torch.no_grad()
def remove_dead_neurons_(
    producer: nn.Linear | nn.Conv2d,
    consumer: nn.Linear | nn.Conv2d,
    activation: Callable[[torch.Tensor], torch.Tensor] = F.relu,
) -> int:
    """Prunes dead neurons or channels: those without inputs or without consumers.

    The model computes the same function afterwards. A neuron without inputs has a constant output,
    which is folded into the consumer's bias; a neuron without consumers loses its row and its bias.
    If the consumer has no bias, or pads its input with zeros, a non-zero constant cannot be folded,
    and the neuron is kept.

    Args:
        producer: its rows are the neurons (Linear) or channels (Conv2d).
        consumer: takes these neurons and nothing else, in order (channels may be flattened).
        activation: elementwise function between producer and consumer; pooling that preserves
            constants may be left out.

    Returns:
        Number of neurons that lost weights or a bias.

    Raises:
        ValueError: a layer is not Linear or ungrouped Conv2d, or their sizes do not match.
    """
    columns = _columns(producer, consumer)
    rows = producer.weight.detach().flatten(1)
    bias = producer.bias if producer.bias is not None else torch.zeros(len(rows)).to(rows)
    constant = activation(bias.detach())
    pads = isinstance(consumer, nn.Conv2d) and consumer.padding not in ((0, 0), "valid")
    folds = (consumer.bias is not None and not pads) | (constant == 0)
    fed, used = (rows != 0).any(1), (columns != 0).any(2).any(0)
    without_inputs = ~fed & used & folds
    if without_inputs.any():
        if consumer.bias is not None and not pads:
            taps = columns.sum(2)[:, without_inputs]
            consumer.bias += taps @ constant[without_inputs]
        columns[:, without_inputs] = 0
    without_consumers = ~(columns != 0).any(2).any(0)
    changed = without_consumers & (fed | used | (bias.detach() != 0))
    rows[without_consumers] = 0
    if producer.bias is not None:
        producer.bias[without_consumers] = 0
    return int(changed.sum())


@torch.no_grad()
def sort_neurons_(producer: nn.Linear | nn.Conv2d, consumer: nn.Linear | nn.Conv2d) -> torch.Tensor:
    """Sorts neurons or channels by their number of weights, descending.

    The model computes the same function afterwards. Dead neurons end up together at the end, where
    no gap has to bridge them.

    Args:
        producer: its rows are the neurons (Linear) or channels (Conv2d).
        consumer: takes these neurons and nothing else, as for :func:`remove_dead_neurons_`.

    Returns:
        The old index of each neuron, int64 ``[neurons]``.

    Raises:
        ValueError: a layer is not Linear or ungrouped Conv2d, or their sizes do not match.
    """
    columns = _columns(producer, consumer)
    weight = producer.weight.detach()
    order = (weight.flatten(1) != 0).sum(1).argsort(descending=True, stable=True)
    weight.copy_(weight[order])
    if producer.bias is not None:
        producer.bias.copy_(producer.bias[order])
    columns.copy_(columns[:, order])
    return order
