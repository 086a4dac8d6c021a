"""Modules that wrap a whole model: ``torch.compile``, ``DataParallel``, DDP."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from tersor._names import without_wrappers


def _inner(model: nn.Module) -> str | None:
    """The name of the module in a wrapper; None where a model is none."""
    if isinstance(model, (DataParallel, DistributedDataParallel)):
        return "module"
    return "_orig_mod" if "_orig_mod" in model._modules else None  # what torch.compile makes


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside all wrappers."""
    while (name := _inner(model)) is not None:
        model = model.get_submodule(name)
    return model


def renew_compiled(module: nn.Module) -> None:
    """Lets what ``torch.compile`` made call the module that is in it now.

    It holds on to the call of the module that it was made of.
    """
    if "_orig_mod" in module._modules:
        state: Any = module
        state.__setstate__(state.__getstate__())


def wrapper_prefix(model: nn.Module) -> str:
    """What wrappers put before the names of a model's layers: ``module.``, ``_orig_mod.``, both."""
    prefix = ""
    while (name := _inner(model)) is not None:
        prefix += f"{name}."
        model = model.get_submodule(name)
    return prefix


def plain_name(name: str, prefix: str) -> str:
    """The name of a layer, a parameter or a buffer without any wrappers."""
    return without_wrappers(name if name != prefix[:-1] else "", prefix)
