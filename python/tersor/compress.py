"""Swapping the layers of a model for compressed ones, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tersor.config import Config, LayerConfig
from tersor.layer import LayerInfo, decode_layer, encode_layer, inspect_layer
from tersor.nn import Compressed, CompressedConv2d, CompressedLinear
from tersor.quantize import compress_weight, decompress_layer

FilterFunction = Callable[[nn.Module, str], bool]

# How each type of layer is compressed. A subclass is left alone: its forward may differ.
HANDLERS: dict[type[nn.Module], Callable[[Any, LayerConfig, str, Any], Compressed]] = {
    nn.Linear: CompressedLinear.from_dense,
    nn.Conv2d: CompressedConv2d.from_dense,
}


def swap_modules(
    model: nn.Module, replacement: Callable[[nn.Module, str], nn.Module | None]
) -> nn.Module:
    """Replaces modules in place; one that is used in several places is replaced once, in all."""
    swapped: dict[nn.Module, nn.Module | None] = {}
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if module not in swapped:
            swapped[module] = replacement(module, name)
        new = swapped[module]
        if new is None:
            continue
        if name == "":
            return new
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, new)
    return model


def _taken(
    model: nn.Module,
    config: Config,
    filter_fn: FilterFunction | None,
    importance: Mapping[str, Any] | None,
) -> Iterator[tuple[str, nn.Module, LayerConfig, Any]]:
    """The layers that a configuration compresses, each once, and what matters in their weights."""
    for name, module in model.named_modules():
        if type(module) not in HANDLERS or (filter_fn is not None and not filter_fn(module, name)):
            continue
        weight: Any = module.weight
        settings = config.for_layer(name, weight.dim())
        if settings is not None:
            matters = (importance or {}).get(f"{name}.weight".removeprefix("."))
            yield name, module, settings, matters


def compress_(
    model: nn.Module,
    config: Config | None = None,
    filter_fn: FilterFunction | None = None,
    importance: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Compresses a model in place: each Linear and Conv2d becomes a module that runs compressed.

    Args:
        model: a module; where it is a layer itself, a new module is returned.
        config: settings; by default nothing is pruned beyond existing zeros.
        filter_fn: ``(module, name) -> bool``: whether to take a layer.
        importance: by the name of a weight, how much each of its entries matters, for example
            :func:`tersor.hessian.hessian_diagonal`; weights without one matter alike.

    Returns:
        The model.

    Raises:
        ValueError: a weight holds NaN or infinity, or a layer has an option that is not supported;
            the message names the layer, and the model is as it was.
    """
    config = config or Config()
    compressed: dict[nn.Module, Compressed] = {}
    blobs: dict[tuple[object, ...], Compressed] = {}
    for name, module, settings, matters in _taken(model, config, filter_fn, importance):
        made = HANDLERS[type(module)](module, settings, name or type(module).__name__, matters)
        if config.biases is not None and made.bias is not None:
            bias = encode_layer(
                compress_weight(made.bias, config.biases, f"{name}.bias".removeprefix("."))
            )
            with torch.no_grad():
                made.bias.copy_(torch.from_numpy(decompress_layer(decode_layer(bias))))
        compressed[module] = made
        # Layers that shared a weight share its blob.
        made.weight_blob = blobs.setdefault((module.weight, settings), made).weight_blob
    return swap_modules(model, lambda module, _: compressed.get(module))


def decompress_(model: nn.Module) -> nn.Module:
    """Gives the dense modules back, with the weights that the compressed ones stand for."""

    def dense(module: nn.Module, _: str) -> nn.Module | None:
        if isinstance(module, (CompressedLinear, CompressedConv2d)):
            return module.to_dense()
        return None

    return swap_modules(model, dense)


@dataclass(frozen=True)
class Estimate:
    """Sizes in bytes, from blobs that were really encoded.

    Attributes:
        layers: by name, what each compressed weight would take.
        dense_bytes: all parameters and buffers as they are now.
        compressed_bytes: the same with the blobs in place of the weights, without file headers.
    """

    layers: dict[str, LayerInfo]
    dense_bytes: int
    compressed_bytes: int

    def __str__(self) -> str:
        lines = [f"{name}: {info.total_bytes:,} bytes" for name, info in self.layers.items()]
        ratio = self.dense_bytes / max(1, self.compressed_bytes)
        total = f"{self.dense_bytes:,} -> {self.compressed_bytes:,} bytes ({ratio:.1f}x)"
        return "\n".join([*lines, total])


def estimate(
    model: nn.Module,
    config: Config | None = None,
    filter_fn: FilterFunction | None = None,
    importance: Mapping[str, Any] | None = None,
) -> Estimate:
    """What :func:`compress_` would make of a model, which stays as it is; arguments as there."""
    layers: dict[str, LayerInfo] = {}
    saved = 0
    for name, module, settings, matters in _taken(model, config or Config(), filter_fn, importance):
        weight: Any = module.weight
        blob = encode_layer(compress_weight(weight, settings, name, matters))
        layers[name] = inspect_layer(blob)
        saved += weight.numel() * weight.element_size() - len(blob)
    tensors = [*model.parameters(), *model.buffers()]
    dense = sum(t.numel() * t.element_size() for t in tensors)
    return Estimate(layers, dense, dense - saved)
