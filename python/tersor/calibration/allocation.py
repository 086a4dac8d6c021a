"""How bits are spread over the layers of a model, for a size, before anything is quantized.

An error of a layer's output costs what the model's output changes by it: with the Lagrange
multiplier lambda for all layers, a layer of slope S has the penalty lambda / S (Shoham and Gersho
1988, "Efficient bit allocation for an arbitrary set of quantizers"). Slopes hold for small errors.
Where errors add up over many layers and each is normalized again, relative errors count as well:
the penalty is then half-way, in the logarithm, between that and the same signal-to-noise ratio for
all layers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from tersor.calibration.blocks import BlockRun, Inputs
from tersor.calibration.compensation import pieces_of, taps_of, weight_of
from tersor.calibration.curves import RateCurve
from tersor.calibration.rates import steps_of
from tersor.calibration.statistics import InputStatistics, pooled
from tersor.calibration.sweeps import importance_of
from tersor.calibration.trace import Block, Group

_LEAST = 1e-2  # of the mean slope of a layer's rows, which are measured with few samples


@dataclass(frozen=True, eq=False)
class WeightRate:
    """What the allocation knows of a weight.

    Attributes:
        size: number of weights.
        power: compensated error of pruning a weight, with the geometric mean of what errors cost: a
            few inputs that are much larger than the others say little of these.
        curve: bits at a penalty.
    """

    size: int
    power: float
    curve: RateCurve


@torch.no_grad()
def weight_rates(
    model: nn.Module,
    layers: Mapping[str, Sequence[nn.Module]],
    inputs: Inputs,
    rows: Mapping[nn.Module, torch.Tensor],
    values: Mapping[str, int],
) -> tuple[dict[str, WeightRate], list[Block | Group]]:
    """The rate of each weight by name, and the plan of the model's run.

    Weights that no input reaches are left out.

    Args:
        model: dense.
        layers: by the name of a weight, the layers that share it.
        inputs: calibration inputs.
        rows: by layer, how much a squared error counts in each row.
        values: by name, the most codebook entries.

    Raises:
        ValueError: as :func:`tersor.calibration.compensation.compensate_`.
    """
    names = {layer: name for name, tied in layers.items() for layer in tied}
    ties = {layer: tied for tied in layers.values() for layer in tied}
    weights = {name: weight_of(tied[0], name) for name, tied in layers.items()}
    rates: dict[str, WeightRate] = {}

    def measure(group: Group, found: Mapping[nn.Module, InputStatistics]) -> None:
        reached: dict[str, list[nn.Module]] = {}
        for layer in found:
            reached.setdefault(names[layer], []).append(layer)
        for name, own in reached.items():
            statistics = pooled([found[layer] for layer in own])
            groups = len(statistics.mean)
            weight = weights[name].detach().float().flatten(1).unflatten(0, (groups, -1))
            centre = getattr(own[0], "bias", None) is not None
            pieces = pieces_of(statistics, name, centre=centre)
            counts = rows.get(own[0], torch.ones(weight.shape[:2])).to(weight)
            counts = counts.reshape(groups, -1)
            importance = importance_of(weight, pieces) * counts[:, :, None]
            steps = steps_of(pieces, counts, 1.0, taps_of(weights[name], groups))
            rates[name] = WeightRate(
                weight.numel(),
                float(weight.square().mean() * importance.clamp(min=1e-30).log().mean().exp()),
                steps.curve(weight, values[name]),
            )

    work = BlockRun(model, inputs, names, ties, frozen=True)
    work.each_group(measure)
    return rates, work.plan


def row_importance(slopes: torch.Tensor, share: float) -> tuple[torch.Tensor, float]:
    """How much a squared error counts in each row, with a geometric mean of 1, and that mean.

    Args:
        slopes: of the rows of a layer.
        share: of the slopes, in the logarithm, against none.
    """
    mean = float(slopes.mean())
    if not mean > 0:
        return torch.ones_like(slopes), 0.0
    logs = slopes.clamp(min=_LEAST * mean).log()
    middle = float(logs.mean())
    return ((logs - middle) * share).exp(), math.exp(middle)


def penalty_scales(
    rates: Mapping[str, WeightRate],
    slopes: Mapping[str, float],
    share: float,
    tables: Mapping[str, int],
) -> dict[str, float]:
    """By weight, its penalty at a Lagrange multiplier of 1.

    Args:
        rates: of the weights.
        slopes: of these; where any is missing, all have the same signal-to-noise ratio.
        share: of the slopes in the logarithm; of the signal-to-noise ratio it is the rest.
        tables: rows of the weights that are looked up, whose penalties follow the slopes alone.
    """
    power = {name: math.log(max(rate.power, 1e-30)) for name, rate in rates.items()}
    if any(not slopes.get(name, 0.0) > 0 for name in rates):
        return {name: math.exp(own) for name, own in power.items()}
    logs = {name: math.log(slopes[name]) for name in rates}
    products = {name: rate.size for name, rate in rates.items() if name not in tables}
    # Both have the same mean over the weights that are multiplied.
    total = sum(size * (power[name] + logs[name]) for name, size in products.items())
    offset = total / max(1, sum(products.values()))
    scales = {
        name: math.exp(-share * logs[name] + (1 - share) * (power[name] - offset))
        for name in products
    }
    return scales | {name: rows / slopes[name] for name, rows in tables.items()}
