"""Values for the parameters and buffers of a model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from tersor.nn.wrappers import plain_name, wrapper_prefix


@torch.no_grad()
def fill_(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """Gives a model's parameters and buffers values by plain names.

    Values are copied into what is there, in its dtype; in the places of what is on the meta device
    the given tensors stand themselves. What is tied stays tied, and only that.

    Returns:
        The names of what is still on the meta device.
    """
    prefix = wrapper_prefix(model)
    modules = {
        plain_name(name, prefix): name for name, _ in model.named_modules(remove_duplicate=False)
    }
    state = {plain_name(name, prefix): name for name in model.state_dict(keep_vars=True)}
    copied: dict[str, torch.Tensor] = {}
    new: dict[int, torch.Tensor] = {}  # by the identity of the tensor on the meta device
    used: set[int] = set()
    for name, value in tensors.items():
        target = _target(model, modules, name)
        if target is None or not target.is_meta:
            copied[state.get(name, name)] = value
        elif id(target) not in new:
            new[id(target)] = _like(target, value, copy=id(value) in used)
            used.add(id(value))
    for module in model.modules():
        for table in (module._parameters, module._buffers):
            for leaf, old in table.items():
                if old is not None and id(old) in new:
                    table[leaf] = new[id(old)]  # type: ignore[assignment]
    model.load_state_dict(copied, strict=False)
    return [name for name, t in [*model.named_parameters(), *model.named_buffers()] if t.is_meta]


def _target(model: nn.Module, modules: Mapping[str, str], name: str) -> torch.Tensor | None:
    """The parameter or buffer of a plain name; None where the state has it in another way."""
    owner, _, leaf = name.rpartition(".")
    if owner not in modules:
        return None
    module = model.get_submodule(modules[owner])
    return module._parameters.get(leaf, module._buffers.get(leaf))


def _like(target: torch.Tensor, value: torch.Tensor, *, copy: bool) -> torch.Tensor:
    """A value with the dtype of its target, as a parameter where that is one."""
    with torch.inference_mode(False):
        made = value.to(target.dtype, copy=copy)
        if isinstance(target, nn.Parameter):
            return nn.Parameter(made, target.requires_grad)
        return made
