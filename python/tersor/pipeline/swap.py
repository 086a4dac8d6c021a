"""Stage 5, swap: compressed modules in the places of the dense ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from tersor._validation import as_float32
from tersor.codec.encode import compress_weight, decompress_weight
from tersor.config import LayerConfig
from tersor.nn.base import Compressed, blob_tensor
from tersor.nn.hooks import take_over
from tersor.nn.registry import swap_modules
from tersor.pipeline.records import WeightRecord

Swaps = dict[nn.Module, nn.Module]


def compressed_modules(records: Sequence[WeightRecord], biases: LayerConfig | None = None) -> Swaps:
    """The compressed module of each layer of the records, by the dense one.

    Layers that share a weight share its blob; biases stay the same parameters, unless they are to
    be quantized.
    """
    swaps: Swaps = {}
    shared: dict[int, nn.Parameter] = {}
    for record in records:
        assert record.blob is not None
        blob = blob_tensor(record.blob).to(record.parameter.device)
        for name, module in record.places.items():
            made: Compressed = record.handler.empty_like(module)
            made._buffers["weight_blob"] = blob
            made.precision = record.settings.precision
            made.relative_error = record.relative_error
            if biases is not None and made.bias is not None:
                made.bias = shared.setdefault(
                    id(made.bias), quantized_bias(made.bias, biases, f"{name}.bias")
                )
            take_over(made, module, made.attributes)
            swaps[module] = made
    return swaps


@torch.no_grad()
def quantized_bias(bias: nn.Parameter, settings: LayerConfig, name: str) -> nn.Parameter:
    """A bias of few values, as a new parameter.

    Raises:
        ValueError: it holds NaN or infinity; the message has the name.
    """
    name = name.removeprefix(".")
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
