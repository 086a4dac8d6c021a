"""Layers whose weight is computed before each forward, and the plain layers that they stand for.

``torch.nn.utils.prune``, hook-based ``weight_norm`` and ``spectral_norm``, and
``torch.nn.utils.parametrizations`` keep other parameters and derive ``weight`` from them. What is
written into such a weight is undone by the next forward, and what is read from it may be stale. A
plain copy of the layer has the weight as it is now, as an ordinary parameter.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm


def dense_type_of(module: nn.Module) -> type[nn.Module]:
    """The type of a layer before ``torch.nn.utils.parametrize`` changed it."""
    kind = type(module)
    return kind.__bases__[0] if parametrize.is_parametrized(module) else kind


def dtype_of(module: nn.Module) -> torch.dtype:
    """The float type of a layer's parameters; float32 where it has none."""
    for parameter in module.parameters():
        if parameter.is_floating_point() or parameter.is_complex():
            return parameter.dtype
    return torch.float32


def _computed(hook: Any, module: nn.Module) -> tuple[str, Any] | None:
    """The name and the current value of the tensor that a forward pre-hook computes."""
    if isinstance(hook, BasePruningMethod):
        return hook._tensor_name, hook.apply_mask(module)
    if isinstance(hook, WeightNorm):
        return hook.name, hook.compute_weight(module)
    if isinstance(hook, SpectralNorm):
        return hook.name, hook.compute_weight(module, do_power_iteration=False)
    return None


@torch.no_grad()
def plain_copy(module: nn.Module) -> nn.Module | None:
    """A layer of plain parameters that computes what this one does now; None if it is plain.

    The module itself is not changed. Hooks that somebody else registered, the mode and all other
    attributes are shared with it.
    """
    tensors: dict[str, torch.Tensor] = {}
    dropped: set[str] = set()
    hooks = dict(module._forward_pre_hooks)
    for key, hook in module._forward_pre_hooks.items():
        found = _computed(hook, module)
        if found is not None:
            name, tensors[name] = found[0], found[1].detach().clone()
            dropped |= {f"{name}_{part}" for part in ("orig", "mask", "g", "v", "u")}
            del hooks[key]
    if parametrize.is_parametrized(module):
        parametrizations: Any = module.parametrizations
        training = parametrizations.training
        parametrizations.eval()  # the power iteration of a spectral norm would go on
        try:
            for name in parametrizations:
                tensors[name] = getattr(module, name).detach().clone()
        finally:
            parametrizations.train(training)
        dropped.add("parametrizations")
    if not tensors:
        return None
    kind = dense_type_of(module)
    plain = kind.__new__(kind)
    plain.__dict__.update(
        {name: copy.copy(v) if isinstance(v, dict) else v for name, v in module.__dict__.items()}
    )
    plain._forward_pre_hooks = type(module._forward_pre_hooks)(hooks)
    for registry in (plain._parameters, plain._buffers, plain._modules):
        for name in dropped & registry.keys():
            del registry[name]
    # Those that a spectral norm registers keep its vector in the state.
    plain._state_dict_hooks.clear()
    plain._load_state_dict_pre_hooks.clear()
    # In the order of torch's own layers.
    others = {name: p for name, p in plain._parameters.items() if name not in tensors}
    plain._parameters.clear()
    for name in ("weight", *(n for n in tensors if n != "weight")):
        if name in tensors:
            plain.__dict__.pop(name, None)
            with torch.inference_mode(False):
                plain._parameters[name] = nn.Parameter(tensors[name].clone())
    plain._parameters.update({n: p for n, p in others.items() if n not in plain._parameters})
    return plain
