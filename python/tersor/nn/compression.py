"""What a compressed model remembers of its compression."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

_ATTRIBUTE = "tersor_compression"


@dataclass(frozen=True)
class Compression:
    """What a model was compressed by, and what was left dense.

    Attributes:
        config: the settings, as :meth:`tersor.Config.to_json` has them.
        left: by name of a layer, why it stayed dense.
        dense_bytes: bytes of all parameters and buffers before.
        frozen: names of the parameters that no longer ask for gradients.
    """

    config: Mapping[str, Any] = field(default_factory=dict)
    left: Mapping[str, str] = field(default_factory=dict)
    dense_bytes: int | None = None
    frozen: tuple[str, ...] = ()


def remember(model: nn.Module, compression: Compression | None) -> None:
    """Notes it at the model, in the place of an older one; None = forget."""
    model.__dict__.pop(_ATTRIBUTE, None)
    if compression is not None:
        model.__dict__[_ATTRIBUTE] = compression


def compression_of(model: nn.Module) -> Compression | None:
    """What a model remembers; None = it was not compressed or loaded as a whole."""
    found: Compression | None = model.__dict__.get(_ATTRIBUTE)
    return found


def freeze(model: nn.Module) -> tuple[str, ...]:
    """Stops parameters from asking for gradients; the names of those that did."""
    names = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.requires_grad_(False)
            names.append(name)
    return tuple(names)
