"""Norms that were folded before a model was saved: a model is made ready for such a file.

The text stands in the metadata under ``tersor.folded``: a JSON object of the norm's name by that of
the layer that it was folded into, both as in the model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from tersor._core import FormatError
from tersor._names import joined
from tersor.nn.fold import NORMS
from tersor.nn.registry import swap_modules
from tersor.nn.wrappers import plain_name, wrapper_prefix

KEY = "tersor.folded"
"""The key of the file's metadata."""


def write_folded(folded: Mapping[str, str]) -> dict[str, str]:
    """The entry of a file's metadata; empty where no norm was folded."""
    text = json.dumps(dict(sorted(folded.items())), separators=(",", ":"))
    return {KEY: text} if folded else {}


def read_folded(metadata: Mapping[str, str], path: object) -> dict[str, str]:
    """The norm that was folded, by layer.

    Raises:
        FormatError: the entry is malformed.
    """
    try:
        entries = json.loads(metadata.get(KEY, "{}"))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: metadata '{KEY}': {error}") from None
    if not isinstance(entries, dict) or not all(isinstance(v, str) for v in entries.values()):
        raise FormatError(f"{path}: metadata '{KEY}' is not an object of names")
    return entries


def fold_names(
    model: nn.Module, folded: Mapping[str, str], stored: Mapping[str, torch.Tensor]
) -> Callable[[], None]:
    """Puts an ``nn.Identity`` in the place of each norm, and gives its layer a bias to be filled.

    Args:
        model: is changed where it has these norms.
        folded: names of norms by layer.
        stored: the tensors of the file by name.

    Returns:
        What undoes it.
    """
    prefix = wrapper_prefix(model)
    named: dict[str, Any] = {plain_name(n, prefix): m for n, m in model.named_modules()}
    swaps: dict[nn.Module, nn.Module] = {}
    biased: list[Any] = []
    for layer_name, norm_name in folded.items():
        layer, norm = named.get(layer_name), named.get(norm_name)
        if layer is None or not isinstance(norm, NORMS):
            continue
        swaps[norm] = nn.Identity().train(norm.training)
        bias = stored.get(joined(layer_name, "bias"))
        if bias is not None and "bias" in layer._parameters and layer.bias is None:
            with torch.inference_mode(False):
                statistics: Any = norm.running_mean
                empty = torch.empty_like(statistics)
                layer.bias = nn.Parameter(empty, requires_grad=False)
            biased.append(layer)
    swap_modules(model, lambda module, _: swaps.get(module))

    def undo() -> None:
        back = {new: old for old, new in swaps.items()}
        swap_modules(model, lambda module, _: back.get(module))
        for layer in biased:
            layer.bias = None

    return undo
