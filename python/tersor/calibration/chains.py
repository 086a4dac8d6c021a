"""Blocks of which each takes the output of the one before it as its input.

They run one after another without the model around them. Only the last output of such a chain is
kept, if that is all that the rest of the model uses: a run in which the others are NaN tells.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tersor.calibration import ranks
from tersor.calibration.inputs import copied, first_tensor, mapped, parts_of
from tersor.calibration.stops import Stops
from tersor.calibration.trace import Arguments, Block, Group


@torch.no_grad()
def check_chains(plan: list[Block | Group], run_model: Callable[[], Any], expected: Any) -> None:
    """Links no blocks where the model, run by its chains for a batch, gives something else.

    Each block gets the output of the one before it, of which the model itself sees NaN.

    Args:
        plan: whose links are checked.
        run_model: runs the model on a batch.
        expected: what the model returns for it.
    """
    pairs = [(a, b) for a, b in itertools.pairwise(plan) if _links(a, b)]
    inner = {a.module for a, _ in pairs if isinstance(a, Block)}
    blocks = [item for item in plan if isinstance(item, Block)]
    if not inner:
        return
    carried: list[Any] = []
    stops = Stops(block.module for block in blocks)
    linked = {b.module for _, b in pairs if isinstance(b, Block)}

    def run_block(module: nn.Module, args: Any, kwargs: Any) -> Any:
        if module in linked:
            args, kwargs = _replaced((args, kwargs), carried.pop())
        output = stops.original[module](*args, **kwargs)
        if module not in inner:
            return output
        carried.append(output)
        return copied(blank(output))

    with stops.replaced(run_block):
        found = run_model()
    if not all(ranks.gathered(_equal(expected, found))):
        for block in blocks:
            block.follows = None


def _links(first: Block | Group, then: Block | Group) -> bool:
    return isinstance(then, Block) and isinstance(first, Block) and then.follows is first.module


@dataclass(eq=False)
class Chain:
    """A block that is done: its arguments and outputs, by stream and batch."""

    module: nn.Module
    arguments: list[list[Arguments | None]]
    outputs: list[list[Any]]

    def next_arguments(self) -> list[list[Arguments | None]]:
        """Those of the block that takes this one's output in the place of its input."""
        return [
            [
                None if given is None else _replaced(given, output)
                for given, output in zip(own, outputs, strict=True)
            ]
            for own, outputs in zip(self.arguments, self.outputs, strict=True)
        ]


def _replaced(arguments: Arguments, output: Any) -> Arguments:
    """The arguments with another first tensor, that of an output."""
    old, new = first_tensor(arguments), first_tensor(output)
    made: Arguments = mapped(arguments, lambda part: new if part is old else part)
    return made


def blank(output: Any) -> Any:
    """What stands for an output that nothing depends on: NaN, in no memory."""

    def blank(part: Any) -> Any:
        if not isinstance(part, torch.Tensor):
            return part
        fill = float("nan") if part.is_floating_point() else 0
        return torch.full((), fill, dtype=part.dtype, device=part.device).expand(part.shape)

    return mapped(output, blank)


def _equal(a: Any, b: Any) -> bool:
    """Whether two outputs of a model have the same values, up to rounding."""
    tensors = [
        (x.float(), y.float())
        for x, y in zip(parts_of(a), parts_of(b), strict=True)
        if isinstance(x, torch.Tensor)
    ]
    return bool(tensors) and all(
        torch.allclose(x, y, rtol=1e-3, atol=1e-3 * float(x.nan_to_num().abs().max()))
        for x, y in tensors
        if x.numel()
    )
