"""Modules that wrap a whole model: ``torch.compile``, ``DataParallel``, DDP."""

from __future__ import annotations

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from tersor._names import without_wrappers


def wrapper_prefix(model: nn.Module) -> str:
    """What wrappers put before the names of a model's layers: ``module.``, ``_orig_mod.``, both."""
    prefix = ""
    while True:
        if isinstance(model, (DataParallel, DistributedDataParallel)):
            attribute = "module"
        elif "_orig_mod" in model._modules:  # what torch.compile makes of a module
            attribute = "_orig_mod"
        else:
            return prefix
        prefix += f"{attribute}."
        model = model.get_submodule(attribute)


def plain_name(name: str, prefix: str) -> str:
    """The name of a layer, a parameter or a buffer without any wrappers."""
    return without_wrappers(name if name != prefix[:-1] else "", prefix)
