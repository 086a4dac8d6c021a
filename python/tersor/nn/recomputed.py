"""Layers whose weight is computed before each forward, and the plain layers that they stand for.

``torch.nn.utils.prune``, hook-based ``weight_norm`` and ``spectral_norm``, and
``torch.nn.utils.parametrizations`` keep other parameters and derive ``weight`` from them. What is
written into such a weight is undone by the next forward, and what is read from it may be stale. A
plain copy of the layer has the weight as it is now, as an ordinary parameter.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

# The hooks among which torch puts its own, where it computes a weight before each forward.
_MIXED = ("_forward_pre_hooks", "_load_state_dict_pre_hooks", "_state_dict_hooks")


def dense_type_of(module: nn.Module) -> type[nn.Module]:
    """The type of a layer before ``torch.nn.utils.parametrize`` changed it."""
    kind = type(module)
    return kind.__bases__[0] if parametrize.is_parametrized(module) else kind


def dtype_of(module: nn.Module) -> torch.dtype:
    """The float type of a layer's weight, or of what it is computed from; float32 without any."""
    for tensor in (module._parameters.get("weight"), *module.parameters()):
        if tensor is not None and (tensor.is_floating_point() or tensor.is_complex()):
            return tensor.dtype
    return torch.float32


def _computed(hook: Any, module: nn.Module) -> tuple[str, Any, tuple[str, ...]] | None:
    """What a forward pre-hook computes: name and value of the tensor, and the parts it is made of.

    ``module`` holds the parts.
    """
    if isinstance(hook, BasePruningMethod):
        return hook._tensor_name, hook.apply_mask(module), ("orig", "mask")
    if isinstance(hook, WeightNorm):
        return hook.name, hook.compute_weight(module), ("g", "v")
    if isinstance(hook, SpectralNorm):
        weight = hook.compute_weight(module, do_power_iteration=False)
        return hook.name, weight, ("orig", "u", "v")
    return None


def computed_names(module: nn.Module) -> set[str]:
    """The names of the tensors that torch computes before each forward."""
    hooks: list[Any] = [h for h in module._forward_pre_hooks.values() if _is_known(h)]
    names = {h._tensor_name if isinstance(h, BasePruningMethod) else h.name for h in hooks}
    if parametrize.is_parametrized(module):
        names |= set(module.parametrizations)  # type: ignore[arg-type]
    return names


def drop_computing_hooks(module: nn.Module) -> None:
    """Removes the hooks by which torch computes weights, in place."""
    for name in _MIXED:
        table = module.__dict__[name]
        for key in [key for key, hook in table.items() if _is_of_torch(hook)]:
            del table[key]


def _is_known(hook: Any) -> bool:
    return isinstance(hook, (BasePruningMethod, WeightNorm, SpectralNorm))


def _is_of_torch(hook: Any) -> bool:
    """Whether a hook computes a weight, or keeps the state of one that is computed."""
    return _is_known(hook) or str(getattr(hook, "__module__", "")).startswith("torch.nn.utils.")


@contextmanager
def _in_eval_mode(module: nn.Module) -> Iterator[None]:
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


@torch.no_grad()
def plain_copy(module: nn.Module) -> nn.Module | None:
    """A layer of plain parameters that computes what this one does now; None if it is plain.

    The module itself is not changed. Hooks that somebody else registered, the mode and all other
    attributes are shared with it.
    """
    parametrized = parametrize.is_parametrized(module)
    hooks: list[Any] = [h for h in module._forward_pre_hooks.values() if _is_known(h)]
    if not parametrized and not hooks:
        return None
    kind = dense_type_of(module)
    plain = kind.__new__(kind)
    plain.__dict__.update(module.__dict__)
    for name in nn.Module().__dict__:
        plain.__dict__[name] = copy.copy(module.__dict__[name])
    tensors: dict[str, torch.Tensor] = {}
    parts: set[str] = set()
    if parametrized:
        parametrizations: Any = module.parametrizations
        with _in_eval_mode(parametrizations):  # the power iteration of a spectral norm would go on
            for name in parametrizations:
                tensors[name] = getattr(module, name).detach()
        parts.add("parametrizations")
    # Each as often as there are hooks: one may compute what an earlier one reads.
    for hook in hooks * len(hooks):
        found = _computed(hook, plain)
        assert found is not None
        name, value, suffixes = found
        tensors[name] = plain.__dict__[name] = value.detach()
        parts |= {f"{name}_{suffix}" for suffix in suffixes}
    for name in tensors:
        plain.__dict__.pop(name, None)
    for registry in (plain._parameters, plain._buffers, plain._modules):
        for name in parts & registry.keys():
            del registry[name]
    drop_computing_hooks(plain)
    # In the order of torch's own layers.
    kept = {name: tensor for name, tensor in tensors.items() if name not in parts}
    others = {name: p for name, p in plain._parameters.items() if name not in kept}
    plain._parameters.clear()
    with torch.inference_mode(False):
        wanted = any(parameter.requires_grad for parameter in module.parameters())
        made = {name: nn.Parameter(tensor.clone(), wanted) for name, tensor in kept.items()}
    order = sorted([*made, *others], key=lambda name: (name != "weight", name != "bias"))
    plain._parameters.update({name: made.get(name, others.get(name)) for name in order})
    return plain
