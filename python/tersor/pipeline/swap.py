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
from tersor.nn.matrices import CompressedGroup, matrices_of, move_to
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
    swaps: dict[nn.Module, Compressed | CompressedGroup] = {}
    for record in records:
        assert record.blob is not None
        if record.grows and len(record.handler.shapes(record.module)) == 1:
            continue
        blob = blob_tensor(record.blob).to(record.parameter.device)
        for module in record.places.values():
            if module not in swaps:
                handler = handler_of(module)
                assert handler is not None
                swaps[module] = made = handler.empty_like(module)
                move_to(made, module)
            weight = matrices_of(swaps[module])[record.weight_name]
            weight.set_blob(blob)
            weight.precision = record.settings.precision
            if record.settings.execution != "auto":
                weight.execution = record.settings.execution
            weight.relative_error = record.relative_error
    if biases is not None:
        names = {module: name for record in records for name, module in record.places.items()}
        _quantize_biases(model, swaps, biases, names)
    return dict(swaps)


def _quantize_biases(
    model: nn.Module,
    swaps: Mapping[nn.Module, Compressed | CompressedGroup],
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
        for leaf, bias in list(made._parameters.items()):
            if bias is None or leaf == "values" or id(bias) in elsewhere:
                continue
            if id(bias) not in quantized:
                quantized[id(bias)] = quantized_bias(bias, settings, joined(names[module], leaf))
            made._parameters[leaf] = quantized[id(bias)]


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
