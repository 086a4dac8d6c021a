"""How each type of layer is compressed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from tersor.config import LayerConfig
from tersor.nn.base import Compressed
from tersor.nn.conv import CompressedConv2d
from tersor.nn.linear import CompressedLinear

# How each type of layer is compressed. A subclass is left alone: its forward may differ.
HANDLERS: dict[type[nn.Module], Callable[[Any, LayerConfig, str, Any], Compressed]] = {
    nn.Linear: CompressedLinear.from_dense,
    nn.Conv2d: CompressedConv2d.from_dense,
}


def swap_modules(
    model: nn.Module, replacement: Callable[[nn.Module, str], nn.Module | None]
) -> nn.Module:
    """Replaces modules in place; one that is used in several places is replaced once, in all."""
    swapped: dict[nn.Module, nn.Module | None] = {}
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if module not in swapped:
            swapped[module] = replacement(module, name)
        new = swapped[module]
        if new is None:
            continue
        if name == "":
            return new
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, new)
    return model
