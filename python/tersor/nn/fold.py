"""BatchNorm folded into the convolution or linear layer before it.

In evaluation mode a norm is ``g * (y - m) / sqrt(v + eps) + b`` per channel, which the layer's
weight and bias can do themselves (Krishnamoorthi, arXiv 1806.08342, section 3.2.2). Which norm
follows which layer is read from a graph (``torch.fx``); where the model cannot be traced, from the
tensors that go from layer to norm while it runs on inputs. In the second case, what was found is
checked: with the norms folded the model must compute the same.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from tersor.nn.hooks import is_observed
from tersor.nn.recomputed import computed_names
from tersor.nn.references import referenced

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
LAYERS = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
# Relative to the largest output: what the order of rounding explains, with room.
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Pair:
    """A layer, and the norm that alone reads its output."""

    layer: nn.Module
    norm: nn.Module


def find_pairs(
    model: nn.Module, run: Callable[[nn.Module], Any] | None = None
) -> tuple[list[Pair], str]:
    """The norms that can be folded.

    Args:
        model: is not changed.
        run: runs it on inputs in evaluation mode and returns its output; for models that
            ``torch.fx`` cannot trace.

    Returns:
        The pairs, and how they were found: ``traced``, ``recorded``, or why they were not.
    """
    try:
        graph = fx.Tracer(autowrap_functions=()).trace(model)
    except Exception as error:  # whatever code of the model does with proxies
        if run is None:
            reason = str(error).strip().splitlines()[0] if str(error) else type(error).__name__
            return [], f"torch.fx cannot trace the model ({reason}): give data"
        return _recorded_pairs(model, run), "recorded"
    return _traced_pairs(model, graph), "traced"


def _traced_pairs(model: nn.Module, graph: fx.Graph) -> list[Pair]:
    modules = dict(model.named_modules(remove_duplicate=False))
    calls: dict[nn.Module, int] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            module = modules[str(node.target)]
            calls[module] = calls.get(module, 0) + 1
    pairs = []
    for node in graph.nodes:
        before = node.args[0] if node.op == "call_module" and len(node.args) == 1 else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or node.kwargs:
            continue
        pair = Pair(modules[str(before.target)], modules[str(node.target)])
        alone = len(before.users) == 1 and calls[pair.layer] == calls[pair.norm] == 1
        if alone:
            pairs.append(pair)
    return _foldable(model, pairs)


def _foldable(model: nn.Module, pairs: Iterable[Pair]) -> list[Pair]:
    """Those of which layer and norm are of known types, plain, and used nowhere else."""
    held = referenced(model)
    parameters: dict[int, int] = {}
    for module in model.modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                parameters[id(parameter)] = parameters.get(id(parameter), 0) + 1

    def plain(module: nn.Module, kinds: tuple[type[nn.Module], ...]) -> bool:
        return (
            type(module) in kinds
            and not is_observed(module)
            and not computed_names(module)
            and module not in held
            and all(p is None or parameters[id(p)] == 1 for p in module._parameters.values())
        )

    return [
        pair
        for pair in pairs
        if plain(pair.layer, LAYERS)
        and plain(pair.norm, NORMS)
        and pair.norm.running_var is not None  # else the batch itself is the norm's statistics
        and pair.norm.num_features == _outputs(pair.layer)
        and not any(t.is_meta for t in (*pair.layer.parameters(), *pair.norm.buffers()))
    ]


def _outputs(layer: Any) -> int:
    return int(layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)


def _recorded_pairs(model: nn.Module, run: Callable[[nn.Module], Any]) -> list[Pair]:
    """Norms whose input is the very tensor that a layer gave, in each call; checked by running."""
    made_by: dict[int, tuple[weakref.ref[torch.Tensor], nn.Module]] = {}
    sources: dict[nn.Module, set[nn.Module | None]] = {}
    calls: dict[nn.Module, int] = {}

    def after(module: nn.Module, _: Any, output: Any) -> None:
        calls[module] = calls.get(module, 0) + 1
        if isinstance(output, torch.Tensor):
            made_by[id(output)] = (weakref.ref(output), module)

    def before(module: nn.Module, args: tuple[Any, ...]) -> None:
        found = made_by.get(id(args[0])) if args else None
        known = found is not None and found[0]() is args[0]
        sources.setdefault(module, set()).add(found[1] if known and found is not None else None)

    handles = []
    for module in model.modules():
        if isinstance(module, LAYERS):
            handles.append(module.register_forward_hook(after))
        elif isinstance(module, NORMS):
            handles.append(module.register_forward_pre_hook(before))
    try:
        expected = float_tensors(run(model))
    finally:
        for handle in handles:
            handle.remove()
    found = [
        Pair(layer, norm)
        for norm, layers in sources.items()
        for layer in layers
        if len(layers) == 1 and layer is not None and calls.get(layer) == 1
    ]
    # Whether something else reads what the layer gave is only seen by what comes of folding: pair
    # by pair, as one wrong pair is not to spoil the others.
    return [pair for pair in _foldable(model, found) if _computes(model, [pair], run, expected)]


def _computes(
    model: nn.Module,
    pairs: list[Pair],
    run: Callable[[nn.Module], Any],
    expected: list[torch.Tensor],
) -> bool:
    """Whether the model with these norms folded still computes what it did."""
    with folded(pairs):
        found = float_tensors(run(model))
    return len(found) == len(expected) and all(
        a.shape == b.shape
        and bool(((a - b).abs() <= _TOLERANCE * b.abs().max().clamp(min=1e-6)).all())
        for a, b in zip(found, expected, strict=True)
    )


def float_tensors(output: Any) -> list[torch.Tensor]:
    """The float tensors in what a model gives, as float64 copies."""
    if isinstance(output, torch.Tensor):
        return [output.detach().double().clone()] if output.is_floating_point() else []
    values = output.values() if isinstance(output, Mapping) else output
    if isinstance(values, (str, bytes)) or not hasattr(values, "__iter__"):
        return []
    return [tensor for value in values for tensor in float_tensors(value)]


@contextmanager
def folded(pairs: Iterable[Pair]) -> Iterator[None]:
    """Norms folded for as long as the block lasts."""
    undo = [(pair, fold(pair)) for pair in pairs]
    try:
        yield
    finally:
        for pair, restore in undo:
            restore(pair)


@torch.no_grad()
def fold(pair: Pair) -> Callable[[Pair], None]:
    """Makes a layer do what the norm behind it does; the norm is left doing nothing.

    The norm stays in its place, so that what calls it and what stands behind it need not change;
    :func:`replace_norms` puts an ``nn.Identity`` there.

    Returns:
        What undoes it.
    """
    layer: Any = pair.layer
    norm: Any = pair.norm
    before = (layer.weight, layer.bias)
    mean, variance = norm.running_mean.double(), norm.running_var.double()
    scale = (variance + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    offset = -mean * scale
    if norm.bias is not None:
        offset = offset + norm.bias.double()
    if layer.bias is not None:
        offset = offset + layer.bias.double() * scale
    weight = _scaled(layer, scale)
    wanted = before[0].requires_grad
    with torch.inference_mode(False):
        layer.weight = nn.Parameter(weight.to(before[0]).clone(), wanted)
        layer.bias = nn.Parameter(offset.to(before[0]).clone(), wanted)
    norm.forward = _identity

    def restore(pair: Pair) -> None:
        own: Any = pair.layer
        own.weight, own.bias = before
        del pair.norm.__dict__["forward"]

    return restore


def _identity(input: torch.Tensor) -> torch.Tensor:
    return input


def _scaled(layer: Any, scale: torch.Tensor) -> torch.Tensor:
    """The weight with each output multiplied, in float64."""
    weight: torch.Tensor = layer.weight.double()
    if not getattr(layer, "transposed", False):
        return weight * scale.view(-1, *[1] * (weight.dim() - 1))
    # [in, out / groups, ...]: the outputs of a group are those of its inputs.
    grouped = weight.unflatten(0, (layer.groups, -1))
    factors = scale.view(layer.groups, 1, -1, *[1] * (weight.dim() - 2))
    scaled: torch.Tensor = (grouped * factors).flatten(0, 1)
    return scaled


def replace_norms(pairs: Iterable[Pair]) -> dict[nn.Module, nn.Module]:
    """For each folded norm, the ``nn.Identity`` that is to take its place."""
    return {pair.norm: nn.Identity().train(pair.norm.training) for pair in pairs}
