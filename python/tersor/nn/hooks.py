"""What is moved from a module to the one that takes its place: hooks, mode, attributes."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

# The very same dictionaries: handles that users hold go on removing their hooks.
_HOOKS = (
    "_backward_hooks",
    "_backward_pre_hooks",
    "_forward_hooks",
    "_forward_hooks_always_called",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_is_full_backward_hook",
)


def take_over(new: nn.Module, old: nn.Module, attributes: Iterable[str] = ()) -> None:
    """Gives ``new`` the hooks, the mode and the attributes of ``old``.

    Attributes are those named, and those that ``new`` does not have and somebody set on ``old``
    (layer numbers, flags of a framework).
    """
    own = set(nn.Module().__dict__) | {"weight", "bias"}
    for name in _HOOKS:
        if name in old.__dict__:
            new.__dict__[name] = old.__dict__[name]
    for name, value in old.__dict__.items():
        if name in own or name in _HOOKS:
            continue
        if name in attributes or (not hasattr(new, name) and not name.startswith("_tersor")):
            new.__dict__[name] = value
    new.training = old.training
