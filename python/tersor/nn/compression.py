"""What a compressed model remembers of its compression."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn
from torch.nn.parameter import is_lazy

from tersor._names import joined
from tersor.config import Config
from tersor.nn.wrappers import unwrapped

_ATTRIBUTE = "tersor_compression"


@dataclass(frozen=True)
class Compression:
    """What a model was compressed by, and what was left dense.

    Attributes:
        config: the settings; None where they are not known.
        left: by name of a layer, why it stayed dense.
        frozen: names of the parameters that no longer ask for gradients.
        folded: by name of a layer, the norm that was folded into it.
    """

    config: Config | None = None
    left: Mapping[str, str] = field(default_factory=dict)
    frozen: frozenset[str] = frozenset()
    folded: Mapping[str, str] = field(default_factory=dict)


def remember(
    model: nn.Module,
    config: Config | None,
    left: Mapping[str, str],
    *,
    freeze: bool,
    folded: Mapping[str, str] | None = None,
) -> None:
    """Notes at a model how it was compressed, and freezes its parameters if asked to.

    Those that an earlier compression froze stay in the list, and so do norms that it folded.
    """
    model = unwrapped(model)
    before = compression_of(model) or Compression()
    frozen = set(before.frozen)
    if freeze:
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and not is_lazy(parameter):
                parameter.requires_grad_(False)
                frozen.add(name)
    model.__dict__[_ATTRIBUTE] = Compression(
        config, dict(left), frozenset(frozen), {**before.folded, **(folded or {})}
    )


def compression_of(model: nn.Module) -> Compression | None:
    """What a model remembers; None = it was not compressed or loaded as a whole."""
    found: Compression | None = unwrapped(model).__dict__.get(_ATTRIBUTE)
    return found


def reasons_of(model: nn.Module) -> dict[str, str]:
    """Why layers stayed dense, by name, as the model and its parts remember."""
    model = unwrapped(model)
    reasons: dict[str, str] = {}
    for name, module in model.named_modules():
        compression: Compression | None = module.__dict__.get(_ATTRIBUTE)
        for layer, why in (compression.left if compression else {}).items():
            reasons.setdefault(joined(name, layer) if layer else name, why)
    return reasons


def forget(model: nn.Module) -> None:
    """Undoes :func:`remember`: the parameters that it froze ask for gradients again."""
    for module in model.modules():
        compression: Compression | None = module.__dict__.pop(_ATTRIBUTE, None)
        if compression is not None:
            for name, parameter in module.named_parameters():
                if name in compression.frozen:
                    parameter.requires_grad_(True)
