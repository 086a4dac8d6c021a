"""A few steps of distillation for a block whose weights are quantized: norms and biases are tuned.

The outputs of the block in the dense network are what those of the compressed one are trained to,
from the inputs that the compressed blocks before it give. No labels are needed. Where the error
does not get smaller everything stays as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from tersor.calibration import ranks
from tersor.calibration.inputs import parts_of

_RATE = 1e-3  # of Adam, relative to the root mean square of a parameter
_LEAST = 1e-2  # that root at least, for parameters near zero


def tuned_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Vectors of floats: scales and shifts of norms, and biases."""
    return [p for p in module.parameters() if p.dim() <= 1 and p.is_floating_point()]


def refine_(
    parameters: Sequence[nn.Parameter],
    run: Callable[[int], Any],
    targets: Sequence[Any],
    steps: int,
) -> None:
    """Tunes parameters in place; gradients are as they were before.

    Args:
        parameters: of a block, with memory of their own.
        run: what the compressed block makes of a batch.
        targets: what the dense one made of each batch; None = it was not called.
        steps: of Adam, each with one batch.
    """
    numbers = [number for number, target in enumerate(targets) if target is not None]
    if not parameters or not steps or not all(ranks.gathered(bool(numbers))):
        return
    before = [parameter.detach().clone() for parameter in parameters]
    asked = [parameter.requires_grad for parameter in parameters]

    def error(number: int) -> torch.Tensor:
        return _distance(run(number), targets[number])

    @torch.no_grad()
    def whole() -> float:
        return sum(ranks.gathered(sum(float(error(number)) for number in numbers)))

    better = False
    try:
        start = whole()
        with torch.inference_mode(False), torch.enable_grad():
            for parameter in parameters:
                parameter.requires_grad_(True)
            groups = [
                {"params": [p], "lr": _RATE * max(_LEAST, float(p.detach().square().mean().sqrt()))}
                for p in parameters
            ]
            optimizer = torch.optim.Adam(groups)
            for step in range(steps):
                loss = error(numbers[step % len(numbers)])
                if not loss.requires_grad:
                    return
                found = torch.autograd.grad(loss, list(parameters), allow_unused=True)
                for parameter, gradient in zip(parameters, found, strict=True):
                    own = torch.zeros_like(parameter) if gradient is None else gradient
                    ranks.sum_(own)
                    parameter.grad = own
                optimizer.step()
        better = whole() < start
    finally:
        for parameter, own, wanted in zip(parameters, before, asked, strict=True):
            parameter.grad = None
            parameter.requires_grad_(wanted)
            if not better:
                parameter.data.copy_(own)


def _distance(found: Any, target: Any) -> torch.Tensor:
    """The squared error of all floats in an output, relative to their squares."""
    pairs = [
        (x.float(), y.float())
        for x, y in zip(parts_of(found), parts_of(target), strict=True)
        if isinstance(x, torch.Tensor) and x.is_floating_point()
    ]
    total: torch.Tensor = sum(((x - y).square().sum() for x, y in pairs), torch.zeros(()))
    return total / max(1e-30, sum(float(y.square().sum()) for _, y in pairs))
