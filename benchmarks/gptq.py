"""GPTQ by its reference formula (arXiv 2210.17323), as a peer: 3 or 4 bits in groups of 128.

Damping is a hundredth of the mean diagonal; a group has a minimum and a step, each fp16. Depthwise
convolutions and those with fewer than 32 inputs have 8 bits a weight and a step for each row, as
usual; tables are rounded in groups of 128. Bytes are those of codes, minima and steps packed as
tightly as they go, and of everything else in fp16.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from tersor.calibration.blocks import BlockRun, Inputs
from tersor.calibration.statistics import InputStatistics
from tersor.calibration.trace import Group

_GROUP = 128
_DAMPING = 0.01


def rounded(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """Rows ``[rows, n]``, each on 2^bits evenly spaced values between its extremes."""
    low, high = weight.amin(1, keepdim=True), weight.amax(1, keepdim=True)
    step = ((high - low) / (2**bits - 1)).clamp(min=1e-7).half().float()
    return ((weight - low.half().float()) / step).round().clamp(0, 2**bits - 1) * step + low.half()


def gptq(weight: torch.Tensor, second: torch.Tensor, bits: int) -> torch.Tensor:
    """A matrix ``[rows, n]`` for inputs with the second moments ``[n, n]``."""
    n = len(second)
    damped = second.double() + _DAMPING * second.diagonal().mean().double() * torch.eye(n)
    damped += 1e-12 * torch.eye(n)
    root = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True).float()
    weight, made = weight.clone(), torch.empty_like(weight)
    for start in range(0, n, _GROUP):
        stop = min(start + _GROUP, n)
        group = weight[:, start:stop]
        low, high = group.amin(1), group.amax(1)
        step = ((high - low) / (2**bits - 1)).clamp(min=1e-7).half().float()
        low = low.half().float()
        errors = torch.empty_like(group)
        for i in range(start, stop):
            code = ((weight[:, i] - low) / step).round().clamp(0, 2**bits - 1)
            made[:, i] = code * step + low
            error = (weight[:, i] - made[:, i]) / root[i, i]
            errors[:, i - start] = error
            weight[:, i + 1 : stop] -= error[:, None] * root[i, i + 1 : stop]
        weight[:, stop:] -= errors @ root[start:stop, stop:]
    return made


@torch.no_grad()
def gptq_(model: nn.Module, batches: list[Any], bits: int) -> int:
    """Quantizes a model in place, each layer after those before it; returns its bytes."""
    layers = {
        module: name
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d))
    }
    total = 2.0 * sum(p.numel() for p in model.parameters())

    def quantize(group: Group, found: Mapping[nn.Module, InputStatistics]) -> None:
        nonlocal total
        for module, statistics in found.items():
            weight: torch.Tensor = module.weight  # type: ignore[assignment]
            flat = weight.flatten(1)
            rows, columns = flat.shape
            if len(statistics.mean) > 1 or columns < 32:
                made, width, groups = rounded(flat, 8), 8, 1
            else:
                made, width = gptq(flat, statistics.second[0][0], bits), bits
                groups = math.ceil(columns / _GROUP)
            weight.copy_(made.view_as(weight))
            total += flat.numel() * (width / 8 - 2) + rows * groups * 4

    BlockRun(model, Inputs(batches), layers, {}).each_group(quantize)
    for table in model.modules():
        if isinstance(table, nn.Embedding):
            parts = table.weight.unflatten(1, (-1, math.gcd(_GROUP, table.embedding_dim)))
            made = rounded(parts.flatten(0, 1), bits)
            table.weight.copy_(made.view_as(table.weight))
            total += table.weight.numel() * (bits / 8 - 2) + len(made) * 4
    return round(total)
