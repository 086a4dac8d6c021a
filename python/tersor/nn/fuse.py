"""Putting activations into the compressed layers before them."""

from __future__ import annotations

from torch import nn

from tersor.nn import Compressed
from tersor.nn.base import ACTIVATIONS


def _name_of(module: nn.Module) -> str | None:
    """The activation that a module computes, if compressed layers have it."""
    if isinstance(module, nn.GELU) and module.approximate != "none":
        return None
    if module._forward_hooks or module._forward_pre_hooks:
        return None
    names = {kind: name for name, kind in ACTIVATIONS.items() if name != "none"}
    return names.get(type(module))


def fuse_(model: nn.Module) -> nn.Module:
    """Fuses each activation that follows a compressed layer in an ``nn.Sequential``, in place.

    ReLU, ReLU6, exact GELU and SiLU become part of the layer's kernel; an ``nn.Identity`` takes the
    module's place, so that names stay. Layers and activations with hooks are left alone, and so
    are layers that occur twice in the model, for they may be followed by something else elsewhere.

    Returns:
        The model.
    """
    places: dict[nn.Module, int] = {}
    for _, module in model.named_modules(remove_duplicate=False):
        places[module] = places.get(module, 0) + 1
    for sequence in model.modules():
        if not isinstance(sequence, nn.Sequential):
            continue
        for i in range(len(sequence) - 1):
            layer, activation = sequence[i], sequence[i + 1]
            name = _name_of(activation)
            if (
                name is not None
                and isinstance(layer, Compressed)
                and layer.activation == "none"
                and places[layer] == 1
                and not layer._forward_hooks
            ):
                layer.activation = name
                sequence[i + 1] = nn.Identity().train(activation.training)
    return model
