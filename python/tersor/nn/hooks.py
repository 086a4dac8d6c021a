"""What is moved from a module to the one that takes its place: hooks, mode, attributes."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from tersor.nn.recomputed import drop_computing_hooks

# Those around a call, and all. They move as the very same dictionaries: handles that users hold go
# on removing their hooks.
_CALL_HOOKS = (
    "_backward_hooks",
    "_backward_pre_hooks",
    "_forward_hooks",
    "_forward_hooks_always_called",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_is_full_backward_hook",
)
_HOOKS = (
    *_CALL_HOOKS,
    "_load_state_dict_post_hooks",
    "_load_state_dict_pre_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
)


def is_observed(module: nn.Module) -> bool:
    """Whether somebody sees, or changes, what goes in or out of a module."""
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return "forward" in module.__dict__ or any(getattr(module, name) for name in names)


def hand_over(new: nn.Module, old: nn.Module) -> None:
    """Gives ``new`` the very dictionaries of the hooks of ``old``, which is not used any more.

    Without those that compute weights.
    """
    drop_computing_hooks(old)
    for name in _HOOKS:
        if name in old.__dict__:
            new.__dict__[name] = old.__dict__[name]


def lift_call_hooks(outer: nn.Module, inner: nn.Module) -> None:
    """Moves the hooks around the calls of a module to one that contains it."""
    fresh = nn.Module().__dict__
    for name in _CALL_HOOKS:
        outer.__dict__[name], inner.__dict__[name] = inner.__dict__[name], fresh[name]


def take_over(
    new: nn.Module, old: nn.Module, attributes: Iterable[str] = (), without: Iterable[str] = ()
) -> None:
    """Gives ``new`` the hooks, the mode and the attributes of ``old``, which stays as it is.

    Attributes are those named, and those that somebody set on ``old`` (layer numbers, flags of a
    framework) except ``without``; also parameters, buffers and modules of its own. The weight and
    the bias are up to the caller.
    """
    for name in _HOOKS:
        if name in old.__dict__:
            new.__dict__[name] = old.__dict__[name]
    named = set(attributes)
    leave = {*nn.Module().__dict__, "weight", "bias", *without}
    for name, value in old.__dict__.items():
        if name in named or (name not in leave and name not in new.__dict__):
            new.__dict__[name] = value
    for table in ("_parameters", "_buffers", "_modules"):
        for name, value in old.__dict__[table].items():
            if name not in leave:
                new.__dict__[table].setdefault(name, value)
    new._non_persistent_buffers_set.update(old._non_persistent_buffers_set)
    new.training = old.training
