"""Activations in the kernels of the compressed layers before them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import nn

from tersor.nn.base import ACTIVATIONS, Compressed
from tersor.nn.hooks import is_observed
from tersor.nn.references import referenced


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

    An ``nn.Identity`` between them does not count.

    Without layers that occur twice in the model, which may be followed by something else elsewhere,
    and without what plain attributes hold, which may be called from there.
    """
    places: dict[nn.Module, int] = {}
    held = referenced(model)
    for _, module in model.named_modules(remove_duplicate=False):
        places[module] = places.get(module, 0) + 1
    for sequence in model.modules():
        # A subclass may do something else between its modules, or call them in another order.
        in_order = type(sequence).forward is nn.Sequential.forward
        if isinstance(sequence, nn.Sequential) and in_order and "forward" not in vars(sequence):
            for i in range(1, len(sequence)):
                layer = _before(sequence, i)
                if places.get(layer) == 1 and held.isdisjoint((layer, sequence[i])):
                    yield sequence, i, layer


def _before(sequence: nn.Sequential, i: int) -> nn.Module:
    """What the module at a place follows; what folded norms leave does nothing."""
    while i > 1 and type(sequence[i - 1]) is nn.Identity and not is_observed(sequence[i - 1]):
        i -= 1
    return sequence[i - 1]


def _put_identity(sequence: nn.Sequential, i: int) -> None:
    """Leaves a module that does nothing, so that names stay."""
    sequence[i] = nn.Identity().train(sequence[i].training)


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
            _put_identity(sequence, i)
    return model


@dataclass(frozen=True)
class Neighbour:
    """An activation that is to become part of the layer before it, and where it stands."""

    sequence: nn.Sequential
    position: int
    activation: str

    def fuse_into(self, layer: Compressed) -> None:
        """Makes it part of a layer, in place."""
        layer.activation = self.activation
        _put_identity(self.sequence, self.position)


def neighbours_to_fuse(
    model: nn.Module, wanted: Mapping[nn.Module, str]
) -> tuple[dict[nn.Module, Neighbour], list[nn.Module]]:
    """The places of activations in a model that is to be as :func:`fuse_` made another.

    Args:
        model: with the layers in it, compressed or not.
        wanted: by layer, the name of the activation that is to be fused into it.

    Returns:
        The places by layer, and the layers that neither this activation follows nor the
        ``nn.Identity`` that :func:`fuse_` leaves.
    """
    found: dict[nn.Module, Neighbour] = {}
    for sequence, i, layer in _followed(model):
        name = wanted.get(layer)
        if name is not None and (_name_of(sequence[i]) == name or type(sequence[i]) is nn.Identity):
            found[layer] = Neighbour(sequence, i, name)
    return found, [layer for layer in wanted if layer not in found]
