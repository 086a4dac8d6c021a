"""Hidden units between two layers: removing the dead ones, and an order that costs fewer bytes.

Source of the first: Han et al. 2015 (arXiv 1506.02626), section 3.5, "pruning neurons".
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn


def _columns(producer: nn.Module, consumer: nn.Module) -> torch.Tensor:
    """The consumer's weight as ``[rows, units, taps]``, a view.

    Raises:
        ValueError: not Linear or Conv2d layers in one group, or they do not fit together.
    """
    for layer in (producer, consumer):
        if not isinstance(layer, (nn.Linear, nn.Conv2d)) or getattr(layer, "groups", 1) != 1:
            raise ValueError(f"units are those of Linear and ungrouped Conv2d layers, not {layer}")
    units = len(producer.weight)  # type: ignore[arg-type]
    weight: torch.Tensor = consumer.weight  # type: ignore[assignment]
    if weight.shape[1] % units:
        raise ValueError(f"{units} units do not feed {weight.shape[1]} inputs evenly")
    return weight.detach().view(len(weight), units, -1)


@torch.no_grad()
def remove_dead_neurons_(
    producer: nn.Linear | nn.Conv2d,
    consumer: nn.Linear | nn.Conv2d,
    activation: Callable[[torch.Tensor], torch.Tensor] = F.relu,
) -> int:
    """Prunes units that have no inputs or no consumers; what the model computes stays the same.

    A unit without inputs gives a constant, which goes into the consumer's bias; a unit without
    consumers loses its row and its bias. Where a consumer has no bias, or pads its input with
    zeros, a constant other than zero cannot be folded, and such a unit stays.

    Args:
        producer: whose rows are the units.
        consumer: fed by the units alone, in order (a convolution's channels may be flattened).
        activation: from the producer's output to the consumer's input, elementwise; pooling that
            keeps constants does not matter.

    Returns:
        How many units lost weights or a bias.

    Raises:
        ValueError: the layers are of other types or do not fit together.
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
    """Reorders units, those with most weights first; what the model computes stays the same.

    Dead units then stand together at the end, where no gap has to bridge them.

    Args:
        producer: whose rows are the units.
        consumer: fed by the units alone, in order, as for :func:`remove_dead_units_`.

    Returns:
        The old number of each unit, int64 ``[units]``.

    Raises:
        ValueError: the layers are of other types or do not fit together.
    """
    columns = _columns(producer, consumer)
    weight = producer.weight.detach()
    order = (weight.flatten(1) != 0).sum(1).argsort(descending=True, stable=True)
    weight.copy_(weight[order])
    if producer.bias is not None:
        producer.bias.copy_(producer.bias[order])
    columns.copy_(columns[:, order])
    return order
