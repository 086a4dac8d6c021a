"""The layers of a model: modules that hold parameters themselves."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from tersor.nn.matrices import CompressedMatrix, matrices_of
from tersor.nn.wrappers import plain_name, wrapper_prefix


def own_parameters(module: nn.Module) -> list[nn.Parameter]:
    """The parameters of a layer itself, and those that its parametrizations keep instead."""
    own = [p for p in module._parameters.values() if p is not None]
    if parametrize.is_parametrized(module):
        parametrizations: nn.Module = module.parametrizations  # type: ignore[assignment]
        own += parametrizations.parameters()
    return own


def layers_of(model: nn.Module) -> dict[nn.Module, list[str]]:
    """The layers of a model in its order, with all their names; wrappers are left out of these."""
    prefix = wrapper_prefix(model)
    layers: dict[nn.Module, list[str]] = {}
    inside: tuple[str, ...] = ()
    for name, module in model.named_modules(remove_duplicate=False):
        if parametrize.is_parametrized(module):
            inside += (f"{name}.parametrizations.".removeprefix("."),)
        if f"{name}.".startswith(inside):
            continue
        if isinstance(module, CompressedMatrix):  # seen through the layer that has it
            continue
        if matrices_of(module) or own_parameters(module):
            names = layers.setdefault(module, [])
            if (plain := plain_name(name, prefix)) not in names:
                names.append(plain)
    return layers


def nbytes(tensor: torch.Tensor) -> int:
    """Bytes of the elements of a tensor; 0 where it is not initialized."""
    return 0 if is_lazy(tensor) else tensor.numel() * tensor.element_size()
