"""What a model holds beside torch's registry: in plain attributes, lists, tuples, dicts.

``self.blocks = [self.first, self.second]`` is such a list, and ``self.weights = [self.fc.weight]``
another. What is swapped in the registry alone would go on running from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

_OF_TORCH = frozenset(nn.Module().__dict__)


def replace_references(
    model: nn.Module,
    swaps: Mapping[nn.Module, nn.Module],
    weights: Callable[[torch.Tensor], torch.Tensor] = lambda tensor: tensor,
) -> None:
    """Puts modules in the places of others in all plain attributes of a model's modules.

    Lists and dicts are changed in place.

    Args:
        model: with the new modules in it.
        swaps: the new modules by the old ones.
        weights: what takes the place of a tensor.
    """

    def replacement(value: Any) -> Any:
        return swaps.get(value, value) if isinstance(value, nn.Module) else weights(value)

    _visit(model, replacement)


def referenced(model: nn.Module) -> set[nn.Module]:
    """The modules that plain attributes of a model's modules hold."""
    found: set[nn.Module] = set()

    def note(value: Any) -> Any:
        if isinstance(value, nn.Module):
            found.add(value)
        return value

    _visit(model, note)
    return found


def _visit(model: nn.Module, replacement: Callable[[Any], Any]) -> None:
    seen: set[int] = set()
    for module in list(model.modules()):
        for name, value in list(vars(module).items()):
            if name not in _OF_TORCH:
                made = _replaced(value, replacement, seen)
                if made is not value:
                    module.__dict__[name] = made


def _replaced(value: Any, replacement: Callable[[Any], Any], seen: set[int]) -> Any:
    """A value with others in it; lists and dicts, which may hold themselves, once each."""
    if isinstance(value, (nn.Module, torch.Tensor)):
        return replacement(value)
    if not isinstance(value, (list, tuple, dict)) or id(value) in seen:
        return value
    if isinstance(value, tuple):
        items = [_replaced(item, replacement, seen) for item in value]
        if all(new is old for new, old in zip(items, value, strict=True)):
            return value
        return value._make(items) if hasattr(value, "_make") else type(value)(items)
    seen.add(id(value))
    for key, old in list(value.items() if isinstance(value, dict) else enumerate(value)):
        new = _replaced(old, replacement, seen)
        if new is not old:
            value[key] = new
    return value
