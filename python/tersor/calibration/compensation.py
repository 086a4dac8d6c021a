"""Post-training pruning and quantization with error compensation, without labels or retraining.

A network is gone through block by block (:mod:`tersor.calibration.blocks`), each layer with the
statistics of its inputs as the layers before it, compressed already, give them;
:mod:`tersor.calibration.sweeps` has what is done to a weight. Layers with the same input, such as
the queries, keys and values of attention, share the statistics and their factorization.

Half of what the layers before it changed in a layer's output is corrected with its own weights,
which are quantized to W + 1/2 W E[(d - x) x^T] E[x x^T]^-1, d being the input in the dense network:
all of it would follow the few calibration inputs too closely. A bias absorbs the mean error. One
that several layers share absorbs none: it would have to be right for all of them. Layers that share
a weight are processed as one, with the statistics of all their inputs.

Source of the correction: GPTAQ (arXiv 2504.02692), section 4, who correct all of it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from tersor._validation import as_float32
from tersor.calibration.blocks import BlockRun, Inputs, Refine
from tersor.calibration.inputs import Batch, ForwardFunction, read_batches
from tersor.calibration.quantize import compensate
from tersor.calibration.rates import Scaled
from tersor.calibration.resume import Results
from tersor.calibration.statistics import (
    InputStatistics,
    blocks_of,
    pooled,
    supported,
)
from tersor.calibration.sweeps import Piece, inverse_root
from tersor.calibration.trace import Block, Group
from tersor.config import LayerConfig
from tersor.io.state_dict import storage_key
from tersor.pruning.magnitude import kept_by
from tersor.quantizers.choose import with_method

_DRIFT = 0.5  # share of the earlier layers' errors that a weight corrects


def pieces_of(statistics: InputStatistics, name: str = "layer", *, centre: bool) -> list[Piece]:
    """The pieces of the weights that are multiplied with these inputs.

    Args:
        statistics: of the inputs.
        name: of the layer, for messages.
        centre: whether second moments are about the mean, as where a bias absorbs the mean error.

    Raises:
        ValueError: second moments are not positive definite; the message has the name.
    """
    pieces = []
    mean = statistics.mean
    for block, second in zip(blocks_of(mean.shape[1]), statistics.second, strict=True):
        power: torch.Tensor | float = 0.0
        if centre:
            power = second.diagonal(dim1=1, dim2=2).sum(1)
            part = mean[:, block]
            second = second - part[:, :, None] * part[:, None, :]
        try:
            pieces.append(Piece(block, inverse_root(second, power)))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
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


def taps_of(weight: torch.Tensor, groups: int) -> int | None:
    """How many columns of a weight have one factor; None = columns have none."""
    return math.prod(weight.shape[2:]) if groups == 1 else None


def corrected(
    weight: torch.Tensor, statistics: InputStatistics, pieces: list[Piece], *, centre: bool
) -> torch.Tensor:
    """The weight that makes up for half of what the layers before it changed; zeros stay zero.

    Args:
        weight: float32 ``[groups, rows, inputs]``.
        statistics: of the inputs.
        pieces: of the weight.
        centre: as for :func:`pieces_of`.
    """
    if statistics.drift is None:
        return weight
    made = weight.clone()
    for piece, drift in zip(pieces, statistics.drift, strict=True):
        if centre:
            mean = statistics.mean[:, piece.inputs]
            moved = statistics.dense_mean[:, piece.inputs] - mean
            drift = drift - moved[:, :, None] * mean[:, None, :]
        change = piece.of(weight) @ drift @ piece.root.transpose(1, 2) @ piece.root
        piece.of(made).add_(change, alpha=_DRIFT)
    return made * (weight != 0)


@dataclass(eq=False)
class _Layer:
    """A layer that is quantized, with what others have to do with it."""

    name: str
    settings: LayerConfig
    weight: nn.Parameter
    bias: Any  # None where it has none that is its own
    rows: torch.Tensor | None = None  # how much an error counts in each, positive


class Compensation:
    """Quantizes the layers of a model as their inputs become known.

    Args:
        model: contains the layers.
        settings: as of :func:`compensate_`, as is ``progress``.
        rows: by layer, how much a squared error counts in each row of its weight.
        results: of an earlier run, or None.

    Attributes:
        made: what became of the weights of layers that are done.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: Mapping[nn.Module, tuple[str, LayerConfig]],
        progress: Callable[[str], None] | None = None,
        rows: Mapping[nn.Module, torch.Tensor] | None = None,
        results: Results | None = None,
    ) -> None:
        holders = _holders(model)
        self.layers = {}
        for layer, (name, own) in settings.items():
            weight = weight_of(layer, name)
            bias = getattr(layer, "bias", None)
            if bias is not None and holders.get(storage_key(bias), 1) > 1:
                bias = None
            self.layers[layer] = _Layer(name, own, weight, bias, (rows or {}).get(layer))
        self.progress, self.results = progress, results
        self.made: dict[nn.Module, Scaled] = {}

    def ties(self) -> dict[nn.Module, list[nn.Module]]:
        """By layer, all layers that share its weight."""
        by_weight: dict[Any, list[nn.Module]] = {}
        for module, layer in self.layers.items():
            by_weight.setdefault(storage_key(layer.weight), []).append(module)
        return {module: tied for tied in by_weight.values() for module in tied}

    def quantize(self, group: Group, found: Mapping[nn.Module, InputStatistics]) -> None:
        """Quantizes the layers of a group in place; their biases absorb the mean errors.

        Args:
            group: some of its layers may stay as they are.
            found: statistics of the layers that inputs reach; those of a direct group are one.

        Raises:
            ValueError: second moments are not positive definite, or a weight is not finite. The
                message names the layer.
        """
        if not found:  # a layer before it now leads elsewhere
            return
        if not group.direct:
            made = self._quantize_tied(found)
            self.made.update((module, made) for module in group.layers if module in self.layers)
            return
        pieces: dict[bool, list[Piece]] = {}
        for module, own in found.items():
            layer = self.layers[module]
            centre = layer.bias is not None
            if centre not in pieces:
                pieces[centre] = pieces_of(own, layer.name, centre=centre)
            self.made[module] = self._quantize(layer, pieces[centre], centre, {module: own})

    def _quantize_tied(self, found: Mapping[nn.Module, InputStatistics]) -> Scaled:
        """Quantizes the weight of several layers, or of several calls."""
        layers = [self.layers[module] for module in found]
        statistics = pooled(list(found.values()))
        centre = all(layer.bias is not None for layer in layers)
        pieces = pieces_of(statistics, layers[0].name, centre=centre)
        return self._quantize(layers[0], pieces, centre, found)

    def _quantize(
        self,
        layer: _Layer,
        pieces: list[Piece],
        centre: bool,
        places: Mapping[nn.Module, InputStatistics],
    ) -> Scaled:
        as_float32(layer.weight, layer.name)  # finite
        share = kept_by(layer.weight.detach().float().cpu().numpy(), layer.settings).mean()
        settings = with_method(layer.settings, layer.weight.dim(), float(share))
        statistics = next(iter(places.values()))
        groups = len(statistics.mean)
        dense = layer.weight.detach().float().flatten(1).unflatten(0, (groups, -1))
        made = self._known(layer, settings, dense)
        if made is None:
            wanted = corrected(dense, statistics, pieces, centre=centre)
            rows = None if layer.rows is None else layer.rows.to(dense).view(groups, -1)
            taps = taps_of(layer.weight, groups)
            made = compensate(wanted, pieces, settings, layer.name, rows, taps)
            if self.results is not None:
                self.results.save(made.tensors())
        quantized = made.dense()
        for module, own in places.items():
            bias = self.layers[module].bias
            if bias is not None:
                parts = (len(own.mean), -1, own.mean.shape[1])
                target, now = dense.reshape(parts), quantized.reshape(parts)
                error = target @ own.dense_mean[:, :, None] - now @ own.mean[:, :, None]
                bias += error.flatten().to(bias)
        layer.weight.copy_(quantized.reshape_as(layer.weight))
        if self.progress is not None:
            self.progress(layer.name)
        return made

    def _known(self, layer: _Layer, settings: LayerConfig, dense: torch.Tensor) -> Scaled | None:
        """What an earlier run made of a layer."""
        if self.results is None:
            return None
        self.results.next_is(layer.name, settings, layer.rows, dense)
        found = self.results.load()
        return None if found is None else Scaled.of(found, dense.device)


@torch.no_grad()
def compensate_layer_(
    layer: nn.Module, statistics: InputStatistics, settings: LayerConfig, name: str = "layer"
) -> None:
    """Prunes and quantizes a layer's weight in place; its bias absorbs the mean error.

    Raises:
        ValueError: as :meth:`Compensation.quantize` and :func:`weight_of`.
    """
    Compensation(layer, {layer: (name, settings)}).quantize(Group([layer]), {layer: statistics})


@torch.no_grad()
def compensate_(
    model: nn.Module,
    batches: Iterable[Batch],
    settings: Mapping[nn.Module, tuple[str, LayerConfig]],
    progress: Callable[[str], None] | None = None,
    forward_fn: ForwardFunction | None = None,
    rows: Mapping[nn.Module, torch.Tensor] | None = None,
    dense: Mapping[nn.Parameter, torch.Tensor] | None = None,
    checkpoint_dir: Path | None = None,
    plan: list[Block | Group] | None = None,
    refine: Refine | None = None,
) -> dict[nn.Module, Scaled]:
    """Quantizes the layers of a model one after another, in the order in which they run.

    The inputs of each layer are those that the already quantized layers before it produce.

    Args:
        model: is run in evaluation mode.
        batches: unlabelled inputs, about 128 samples in all: each batch a tensor, a tuple of
            arguments or a dict of keyword arguments.
        settings: name and settings of each layer to be quantized; of those that share a weight, the
            settings of the first that is called count.
        progress: called with the name of each finished layer.
        forward_fn: ``(model, batch)``: how the model is run, if not as above.
        rows: by layer, how much a squared error counts in each row of its weight.
        dense: what the dense network has in the place of weights that are quantized already.
        checkpoint_dir: where results are kept for another run, and found from one before.
        plan: of an earlier run of the same model and inputs.
        refine: what is done to a block whose layers are quantized, as of :class:`BlockRun`.

    Returns:
        The layers that the inputs reach, with their weights; the others are unchanged.

    Raises:
        ValueError: there are no batches, or one is not what the model takes; a layer is not
            supported, its weight is computed before each forward, or its weight or inputs are not
            finite. The message names the layer. Those before it are quantized already.
    """
    inputs = Inputs(read_batches(batches, any_kind=forward_fn is not None), forward_fn)
    results = None if checkpoint_dir is None else Results(checkpoint_dir, inputs.batches)
    work = Compensation(model, settings, progress, rows, results)
    names = {module: layer.name for module, layer in work.layers.items()}
    blocks = BlockRun(model, inputs, names, work.ties(), dense, plan, refine=refine)
    blocks.each_group(work.quantize)
    return work.made


def _holders(model: nn.Module) -> Counter[tuple[object, ...]]:
    """How many layers of a model hold a parameter themselves, by its memory."""
    return Counter(
        storage_key(parameter)
        for module in model.modules()
        for parameter in module._parameters.values()
        if parameter is not None and not is_lazy(parameter)
    )
