"""Post-training pruning and quantization with error compensation, without labels or retraining.

The layers of a model are processed one after another, each with the statistics of its inputs as the
layers before it, compressed already, give them; :mod:`tersor.calibration.sweeps` has what is done
to a weight. A bias absorbs the mean error. One that several layers share absorbs none: it would
have to be right for all of them. Layers that share a weight are processed as one, with the
statistics of all their inputs.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from tersor._validation import as_float32
from tersor.calibration.inputs import Batch, read_batches
from tersor.calibration.statistics import (
    InputStatistics,
    blocks_of,
    call_order,
    input_statistics,
    pooled,
    supported,
)
from tersor.calibration.sweeps import Piece, compensate, importance_of, inverse_root
from tersor.config import LayerConfig
from tersor.io.state_dict import storage_key
from tersor.quantizers.choose import codebook_size_of


def pieces_of(
    layer: nn.Module, statistics: InputStatistics, name: str = "layer", *, centre: bool = True
) -> list[Piece]:
    """The pieces of a layer's weight by group and block.

    With a bias, second moments are centred unless ``centre`` is false.

    Raises:
        ValueError: as :func:`weight_of` and :func:`inverse_root`.
    """
    groups, inputs = statistics.mean.shape
    rows = len(weight_of(layer, name)) // groups
    centre = centre and getattr(layer, "bias", None) is not None
    pieces = []
    for g, mean in enumerate(statistics.mean):
        for block, second_of_block in zip(blocks_of(inputs), statistics.second, strict=True):
            second, power = second_of_block[g], 0.0
            if centre:
                power = float(second.trace())
                second = second - torch.outer(mean[block], mean[block])
            root = inverse_root(second, power, name)
            pieces.append(Piece(slice(g * rows, (g + 1) * rows), block, root))
    return pieces


def weight_of(layer: nn.Module, name: str = "layer") -> nn.Parameter:
    """The weight of a layer, which may be changed in place.

    Raises:
        ValueError: the layer has none, or derives it from other parameters before each forward.
    """
    (weight_name,) = supported(layer, name).shapes(layer)
    weight = layer._parameters.get(weight_name)
    if weight is None:
        raise ValueError(
            f"{name}: {weight_name} is computed before each forward, which would undo changes: "
            "make it a parameter first (torch.nn.utils.prune.remove, remove_weight_norm, "
            "parametrize.remove_parametrizations)"
        )
    return weight


@torch.no_grad()
def compensate_layer_(
    layer: nn.Module, statistics: InputStatistics, settings: LayerConfig, name: str = "layer"
) -> None:
    """Prunes and quantizes a layer's weight in place; its bias absorbs the mean error.

    Raises:
        ValueError: as :func:`pieces_of` and :func:`weight_of`, or the weight is not finite.
    """
    _compensate_places_({layer: statistics}, settings, name, Counter())


def _compensate_places_(
    places: Mapping[nn.Module, InputStatistics],
    settings: LayerConfig,
    name: str,
    holders: Mapping[tuple[object, ...], int],
) -> None:
    """As :func:`compensate_layer_`, for all layers of one weight, each with its own statistics.

    ``holders`` has how many layers hold a parameter.
    """
    layer = next(iter(places))
    biases: dict[nn.Module, Any] = {
        place: bias
        for place in places
        if (bias := getattr(place, "bias", None)) is not None
        and holders.get(storage_key(bias), 1) == 1
    }
    parameter = weight_of(layer, name)
    as_float32(parameter, name)  # finite
    weight = parameter.detach().float().flatten(1)
    settings = dataclasses.replace(
        settings, codebook_size=codebook_size_of(settings, parameter.dim())
    )
    statistics = pooled(list(places.values()))
    pieces = pieces_of(layer, statistics, name, centre=len(biases) == len(places))
    quantized = compensate(weight, pieces, settings, name)
    for place, bias in biases.items():
        mean = places[place].mean
        error = (weight - quantized).view(len(mean), -1, mean.shape[1])
        bias += torch.einsum("gri,gi->gr", error, mean).flatten().to(bias)
    parameter.copy_(quantized.view_as(parameter))


@torch.no_grad()
def compensate_(
    model: nn.Module,
    batches: Iterable[Batch],
    settings: Mapping[nn.Module, tuple[str, LayerConfig]],
    progress: Callable[[str], None] | None = None,
) -> set[nn.Module]:
    """Quantizes the layers of a model one after another, in the order in which they run.

    The inputs of each layer are those that the already quantized layers before it produce.

    Args:
        model: is run in evaluation mode.
        batches: unlabelled inputs, about 128 samples in all: each batch a tensor, a tuple of
            arguments or a dict of keyword arguments.
        settings: name and settings of each layer to be quantized; of those that share a weight, the
            settings of the first that is called count.
        progress: called with the name of each finished layer.

    Returns:
        The layers that the inputs reach; the others are unchanged.

    Raises:
        ValueError: there are no batches, or one is not what the model takes; a layer is not
            supported, its weight is computed before each forward, or its weight or inputs are not
            finite. The message names the layer. Those before it are quantized already.
    """
    batches = read_batches(batches)
    weights = {layer: storage_key(weight_of(layer, name)) for layer, (name, _) in settings.items()}
    holders = _holders(model)
    order = call_order(model, settings, batches)
    reached: set[nn.Module] = set()
    for layer in order:
        if layer in reached:  # with one that has the same weight
            continue
        tied = {place: settings[place][0] for place in order if weights[place] == weights[layer]}
        places = _reached(model, tied, batches)
        if places:  # not where a layer before it now leads elsewhere
            name, chosen = settings[layer]
            _compensate_places_(places, chosen, name, holders)
            reached.update(tied)
            if progress is not None:
                progress(name)
    return reached


def _reached(
    model: nn.Module, layers: Mapping[nn.Module, str], batches: Sequence[Batch]
) -> dict[nn.Module, InputStatistics]:
    """The statistics of each of the layers that inputs reach; layers with their names."""
    found = {layer: input_statistics(model, layer, batches, name) for layer, name in layers.items()}
    return {layer: statistics for layer, statistics in found.items() if statistics is not None}


def _holders(model: nn.Module) -> Counter[tuple[object, ...]]:
    """How many layers of a model hold a parameter themselves, by its memory."""
    return Counter(
        storage_key(parameter)
        for module in model.modules()
        for parameter in module._parameters.values()
        if parameter is not None and not is_lazy(parameter)
    )


@torch.no_grad()
def whole_errors(
    model: nn.Module, layers: Mapping[str, Sequence[nn.Module]], batches: Iterable[Batch]
) -> dict[str, float]:
    """The compensated error of pruning a weight completely, summed over its entries, by name.

    Weights are given by the layers that share them; those that no input reaches are left out.

    Raises:
        ValueError: as :func:`compensate_`.
    """
    batches = read_batches(batches)
    errors: dict[str, float] = {}
    for name, tied in layers.items():
        places = _reached(model, dict.fromkeys(tied, name), batches)
        if places:
            layer = next(iter(places))
            weight = weight_of(layer, name).detach().float().flatten(1)
            pieces = pieces_of(layer, pooled(list(places.values())), name)
            importance = importance_of(weight, pieces)
            errors[name] = float((importance * weight**2).sum())
    return errors
