"""Stage 5, swap: compressed modules in the places of the dense ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from tersor._names import joined
from tersor._validation import as_float32
from tersor.codec.encode import compress_weight, decompress_weight
from tersor.config import LayerConfig
from tersor.nn.base import Compressed, blob_tensor
from tersor.nn.hooks import take_over
from tersor.nn.registry import handler_of, swap_modules
from tersor.pipeline.records import WeightRecord

Swaps = dict[nn.Module, nn.Module]


def compressed_modules(
    model: nn.Module, records: Sequence[WeightRecord], biases: LayerConfig | None = None
) -> Swaps:
    """The compressed module of each layer of the records, by the dense one.

    Layers that share a weight share its blob. A weight that would grow stays dense.

    Args:
        model: with the dense layers in it.
        records: with their blobs.
        biases: how biases are quantized; None = they stay the same parameters.
    """
    swaps: dict[nn.Module, Compressed] = {}
    for record in records:
        assert record.blob is not None
        if record.grows:
            continue
        blob = blob_tensor(record.blob).to(record.parameter.device)
        for module in record.places.values():
            handler = handler_of(module)
            assert handler is not None
            made: Compressed = handler.empty_like(module)
            made.set_blob(blob)
            made.precision = record.settings.precision
            if record.settings.execution != "auto":
                made.execution = record.settings.execution
            made.relative_error = record.relative_error
            take_over(made, module, made.attributes, without=(made.weight_name,))
            swaps[module] = made
    if biases is not None:
        names = {module: name for record in records for name, module in record.places.items()}
        _quantize_biases(model, swaps, biases, names)
    return dict(swaps)


def _quantize_biases(
    model: nn.Module,
    swaps: Mapping[nn.Module, Compressed],
    settings: LayerConfig,
    names: Mapping[nn.Module, str],
) -> None:
    """Gives compressed layers biases of few values; those that other modules share stay."""
    elsewhere = {
        id(parameter)
        for module in model.modules()
        if module not in swaps
        for parameter in module._parameters.values()
    }
    quantized: dict[int, nn.Parameter] = {}
    for module, made in swaps.items():
        bias = made.bias
        if bias is None or id(bias) in elsewhere:
            continue
        if id(bias) not in quantized:
            quantized[id(bias)] = quantized_bias(bias, settings, joined(names[module], "bias"))
        made.bias = quantized[id(bias)]


@torch.no_grad()
def quantized_bias(bias: nn.Parameter, settings: LayerConfig, name: str) -> nn.Parameter:
    """A bias of few values, as a new parameter.

    Raises:
        ValueError: it holds NaN or infinity; the message has the name.
    """
    values = decompress_weight(compress_weight(as_float32(bias, name), settings, name))
    with torch.inference_mode(False):
        return nn.Parameter(torch.from_numpy(values).to(bias), bias.requires_grad)


def swap_(model: nn.Module, swaps: Swaps) -> nn.Module:
    """Puts modules in the places of others; where that is the model itself, returns the new one."""
    return swap_modules(model, lambda module, _: swaps.get(module))


@contextmanager
def swapped(model: nn.Module, swaps: Swaps) -> Iterator[nn.Module]:
    """The model with other modules, for as long as the block lasts."""
    changed = swap_(model, swaps)
    try:
        yield changed
    finally:
        swap_(changed, {new: old for old, new in swaps.items()})
