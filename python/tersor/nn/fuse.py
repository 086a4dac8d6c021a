"""Activations in the kernels of the compressed layers before them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import nn

from tersor.nn.base import ACTIVATIONS, Compressed
from tersor.nn.hooks import is_observed


def _name_of(module: nn.Module) -> str | None:
    """The activation that a module computes, if compressed layers have it."""
    if isinstance(module, nn.GELU) and module.approximate != "none":
        return None
    if is_observed(module):
        return None
    names = {kind: name for name, kind in ACTIVATIONS.items() if name != "none"}
    return names.get(type(module))


def _followed(model: nn.Module) -> Iterator[tuple[nn.Sequential, int, nn.Module]]:
    """Each pair of neighbours in an ``nn.Sequential``: the sequence, the second's place, the first.

    Without layers that occur twice in the model, which may be followed by something else elsewhere.
    """
    places: dict[nn.Module, int] = {}
    for _, module in model.named_modules(remove_duplicate=False):
        places[module] = places.get(module, 0) + 1
    for sequence in model.modules():
        # A subclass may do something else between its modules, or call them in another order.
        in_order = type(sequence).forward is nn.Sequential.forward
        if isinstance(sequence, nn.Sequential) and in_order and "forward" not in vars(sequence):
            for i in range(1, len(sequence)):
                if places.get(sequence[i - 1]) == 1:
                    yield sequence, i, sequence[i - 1]


def fuse_(model: nn.Module) -> nn.Module:
    """Fuses each activation that follows a compressed layer in an ``nn.Sequential``, in place.

    ReLU, ReLU6, exact GELU and SiLU become part of the layer's kernel; an ``nn.Identity`` takes the
    module's place, so that names stay. Layers and activations with hooks are left alone, and so
    are layers that occur twice in the model.

    Returns:
        The model.
    """
    for sequence, i, layer in _followed(model):
        name = _name_of(sequence[i])
        if (
            name is not None
            and isinstance(layer, Compressed)
            and layer.activation == "none"
            and not is_observed(layer)
        ):
            layer.activation = name
            sequence[i] = nn.Identity().train(sequence[i].training)
    return model


def fuse_recorded_(model: nn.Module, recorded: Mapping[nn.Module, str]) -> None:
    """Fuses the activations that a file says its layers have, in place.

    Args:
        model: with the layers in it.
        recorded: by layer, the name of the activation.

    Raises:
        ValueError: a layer is followed by something else than its activation or the ``nn.Identity``
            that :func:`fuse_` puts there.
    """
    todo = {layer: name for layer, name in recorded.items() if name != "none"}
    for sequence, i, layer in _followed(model):
        name = todo.get(layer)
        if name is None or not isinstance(layer, Compressed):
            continue
        if _name_of(sequence[i]) == name:
            sequence[i] = nn.Identity().train(sequence[i].training)
        if isinstance(sequence[i], nn.Identity):
            layer.activation = name
            del todo[layer]
    if todo:
        names = {module: name for name, module in model.named_modules()}
        layer, activation = next(iter(todo.items()))
        raise ValueError(
            f"{names.get(layer, 'a layer')}: the file has {activation} fused into this layer, and "
            f"in this model no {ACTIVATIONS[activation].__name__} follows it"
        )
