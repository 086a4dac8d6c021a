"""An optional stage before all others: norms become part of the layers before them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from tersor.calibration.blocks import Inputs
from tersor.calibration.inputs import evaluating, run
from tersor.config import Config
from tersor.nn.fold import Pair, find_pairs, fold, replace_norms
from tersor.nn.layers import layers_of
from tersor.nn.registry import swap_modules
from tersor.nn.wrappers import plain_name, wrapper_prefix


@dataclass(eq=False)
class Folding:
    """Norms that were folded for the time being.

    Attributes:
        pairs: the layers and their norms.
        names: by name of a layer, that of its norm.
        kept: whether they stay folded; else they are undone.
    """

    pairs: list[Pair] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    kept: bool = False

    def keep(self, model: nn.Module) -> nn.Module:
        """Lets norms stay folded, and puts an ``nn.Identity`` in the place of each."""
        self.kept = True
        swaps = replace_norms(self.pairs)
        return swap_modules(model, lambda module, _: swaps.get(module)) if swaps else model


@contextmanager
def folded_norms(model: nn.Module, config: Config, inputs: Inputs | None) -> Iterator[Folding]:
    """Folds what ``fold_norms`` asks for; afterwards the model is as it was, or as it was kept.

    Raises:
        ValueError: the model is in training mode, or cannot be traced and no inputs are given.
    """
    folding = Folding()
    if not config.fold_norms:
        yield folding
        return
    found = _pairs(model, inputs)
    names = {m: plain_name(n, wrapper_prefix(model)) for n, m in model.named_modules()}
    undo = []
    try:
        for pair in found:
            undo.append((pair, fold(pair)))
            folding.pairs.append(pair)
            folding.names[names[pair.layer]] = names[pair.norm]
        yield folding
    finally:
        if not folding.kept:
            for pair, restore in reversed(undo):
                restore(pair)


def _pairs(model: nn.Module, inputs: Inputs | None) -> list[Pair]:
    if model.training:
        raise ValueError("fold_norms folds running statistics: call model.eval() first")

    @torch.no_grad()
    def run_all(changed: nn.Module) -> list[Any]:
        assert inputs is not None
        return [run(changed, batch, inputs.forward_fn) for batch in inputs.batches]

    with evaluating(model):
        pairs, how = find_pairs(model, run_all if inputs is not None else None)
    if how not in ("traced", "recorded"):
        raise ValueError(f"fold_norms: {how}")
    layers = layers_of(model)
    return [pair for pair in pairs if pair.layer in layers]
