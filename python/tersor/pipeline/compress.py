"""Swapping the layers of a model for compressed ones, and back."""

from __future__ import annotations

import copy
import dataclasses
import glob
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tersor._validation import as_float32
from tersor.calibration import compensation
from tersor.codec.blob import BlobInfo, decode_blob, encode_blob, inspect_blob
from tersor.codec.encode import compress_weight, decompress_weight
from tersor.config import Config, LayerConfig
from tersor.io.state_dict import state_bytes
from tersor.nn import Compressed, CompressedConv2d, CompressedLinear
from tersor.nn.base import BLOB
from tersor.nn.registry import HANDLERS, swap_modules
from tersor.pruning.magnitude import kept_by
from tersor.pruning.masks import density_masks
from tersor.quantizers.choose import quantize_by
from tersor.search import rate_distortion

FilterFunction = Callable[[nn.Module, str], bool]
Taken = tuple[str, nn.Module, LayerConfig, Any]


def _taken(
    model: nn.Module,
    config: Config,
    filter_fn: FilterFunction | None,
    importance: Mapping[str, Any] | None,
) -> Iterator[Taken]:
    """The layers that a configuration compresses, each once, and what matters in their weights."""
    for name, module in model.named_modules():
        if type(module) not in HANDLERS or (filter_fn is not None and not filter_fn(module, name)):
            continue
        weight: Any = module.weight
        settings = config.for_layer(name, weight.dim())
        if settings is not None:
            matters = (importance or {}).get(f"{name}.weight".removeprefix("."))
            yield name, module, settings, matters


def tensor_bytes(model: nn.Module) -> int:
    """Bytes of all parameters and buffers as they are."""
    return sum(t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers()])


@torch.no_grad()
def _share_bias(bias: torch.Tensor, settings: LayerConfig, name: str) -> torch.Tensor:
    """A bias of shared values."""
    shared = decompress_weight(compress_weight(bias, settings, f"{name}.bias".removeprefix(".")))
    return torch.from_numpy(shared).to(bias)


def _with_settings(config: Config, settings: Mapping[str, LayerConfig]) -> Config:
    """The configuration with settings for single layers, by name, that come before all others."""
    exact = {glob.escape(name): chosen for name, chosen in settings.items()}
    others = {n: chosen for n, chosen in config.overrides.items() if n not in exact}
    return dataclasses.replace(config, overrides={**exact, **others})


def _spread(model: nn.Module, config: Config, filter_fn: FilterFunction | None) -> Config:
    """The configuration with the density of all layers, if there is one, in each one's settings."""
    if config.density is None:
        return config
    free: dict[str, LayerConfig] = {}
    sizes: dict[str, torch.Tensor] = {}
    for name, module, settings, _ in _taken(model, config, filter_fn, None):
        if settings.density is None and settings.threshold is None:
            weight: Any = module.weight
            free[name], sizes[name] = settings, weight.detach().float().abs().cpu()
    masks = density_masks(sizes, config.density) if sizes else {}
    own = {
        name: dataclasses.replace(
            settings, density=int(masks[name].sum()) / max(1, masks[name].numel())
        )
        for name, settings in free.items()
    }
    return dataclasses.replace(_with_settings(config, own), density=None)


def _exactly(settings: LayerConfig) -> LayerConfig:
    """Settings that keep the values which a weight has already."""
    return LayerConfig(
        codebook_size=255,
        kind=settings.kind,
        index_bits=settings.index_bits,
        flat=settings.flat,
        precision=settings.precision,
    )


Saved = list[tuple[torch.Tensor, torch.Tensor]]


def _saved(modules: Iterable[nn.Module]) -> Saved:
    """The parameters of modules, each with its values."""
    return [(p, p.detach().clone()) for module in modules for p in module.parameters()]


@torch.no_grad()
def _restore(saved: Saved) -> None:
    for parameter, values in saved:
        parameter.copy_(values)


class _Trial:
    """What a model would be with other weights: its file's bytes, or its accuracy."""

    def __init__(self, model: nn.Module, config: Config, layers: dict[nn.Module, str]) -> None:
        self.model, self.config = model, config
        # Layers that share a weight go by the name of the first of them.
        self.first: dict[torch.Tensor, str] = {}
        self.modules: dict[nn.Module, str] = {}
        for module, name in layers.items():
            weight: Any = module.weight
            self.modules[module] = self.first.setdefault(weight, name)

    def file_bytes(self, blobs: rate_distortion.Blobs) -> float:
        """Bytes of the file with these weights."""
        state = dict(self.model.state_dict())
        for name, module in self.model.named_modules(remove_duplicate=False):
            if module not in self.modules:
                continue
            prefix = f"{name}.".removeprefix(".")
            del state[f"{prefix}weight"]
            state[prefix + BLOB] = torch.from_numpy(blobs[self.modules[module]])
            bias = state.get(f"{prefix}bias")
            if self.config.biases is not None and bias is not None:
                state[f"{prefix}bias"] = _share_bias(bias, self.config.biases, name)
        return state_bytes(state)

    @torch.no_grad()
    def accuracy(self, blobs: rate_distortion.Blobs) -> float:
        """What the configuration evaluates with these weights; the model keeps its own."""
        assert self.config.evaluate is not None
        saved = [(weight, weight.detach().clone()) for weight in self.first]
        try:
            for weight, name in self.first.items():
                weight.copy_(torch.from_numpy(decompress_weight(decode_blob(blobs[name]))))
            return float(self.config.evaluate(self.model))
        finally:
            _restore(saved)

    def measure(self, blobs: rate_distortion.Blobs) -> float:
        """What the target is about."""
        if self.config.max_drop is not None:
            return self.accuracy(blobs)
        return self.file_bytes(blobs)

    def limit(self) -> float:
        """What may be measured at most, or at least."""
        if self.config.max_drop is not None:
            assert self.config.evaluate is not None
            return float(self.config.evaluate(self.model)) - self.config.max_drop
        if self.config.target_ratio is not None:
            return tensor_bytes(self.model) // self.config.target_ratio
        return float(self.config.target_bytes or 0)


def fit(
    model: nn.Module,
    config: Config,
    filter_fn: FilterFunction | None = None,
    importance: Mapping[str, Any] | None = None,
    progress: Callable[[rate_distortion.Step], None] | None = None,
) -> Config:
    """The configuration with each layer's settings in the place of its target.

    :func:`compress_` calls this; use it to look at what is chosen, or to show progress. Arguments
    as there; the model is as it was when this returns.

    Raises:
        ValueError: no choice meets the target; or importance is given for some layers alone, or
            beside calibration inputs; or a layer is reached by none of these.
    """
    config = _spread(model, config, filter_fn)
    taken = list(_taken(model, config, filter_fn, importance))
    trial = _Trial(model, config, {module: name for name, module, _, _ in taken})
    given: dict[str, Any] = {"size": config.max_drop is None, "progress": progress}
    if config.calibration is not None:
        if importance is not None:
            raise ValueError("give either importance or calibration inputs")
        chosen = _search_compensated(trial, taken, config.calibration, **given)
    else:
        items: dict[str, rate_distortion.Item] = {}
        for name, module, settings, matters in taken:
            if importance is not None and matters is None:
                raise ValueError(f"{name}: no importance is given, and layers are weighed by it")
            if trial.modules[module] == name:
                matters = None if matters is None else as_float32(matters, f"{name}: importance")
                items[name] = rate_distortion.Item(
                    as_float32(module.weight, name), settings, matters
                )
        found = rate_distortion.fit(items, trial.measure, trial.limit(), **given)
        chosen = {name: found[trial.modules[module]] for name, module, _, _ in taken}
    return dataclasses.replace(
        _with_settings(config, chosen),
        target_bytes=None,
        target_ratio=None,
        max_drop=None,
        evaluate=None,
    )


def _search_compensated(
    trial: _Trial, taken: Sequence[Taken], batches: Sequence[Any], **given: Any
) -> dict[str, LayerConfig]:
    """Settings by name where errors are compensated, which each step of the search does."""
    layers: dict[str, Any] = {name: module for name, module, _, _ in taken}
    for name, layer in layers.items():
        as_float32(layer.weight, name)  # finite
    errors = compensation.whole_errors(trial.model, layers, batches)
    if missed := layers.keys() - errors.keys():
        raise ValueError(f"{min(missed)}: no calibration input reaches it")
    choices = [
        rate_distortion.Compensated(name, layers[name].weight.numel(), settings, errors[name])
        for name, _, settings, _ in taken
    ]

    def measure(chosen: Mapping[str, LayerConfig]) -> float:
        saved = _saved(layers.values())
        try:
            named = {layer: (name, chosen[name]) for name, layer in layers.items()}
            compensation.compensate_(trial.model, batches, named)
            blobs = {
                name: encode_blob(compress_weight(weight, _exactly(chosen[name]), name))
                for weight, name in trial.first.items()
            }
            return trial.measure(blobs)
        finally:
            _restore(saved)

    return rate_distortion.search(choices, measure, trial.limit(), **given)


def _settled(
    model: nn.Module,
    config: Config | None,
    filter_fn: FilterFunction | None,
    importance: Mapping[str, Any] | None,
) -> Config:
    """The configuration, its target met."""
    config = config or Config()
    if config.searches:
        return fit(model, config, filter_fn, importance)
    return _spread(model, config, filter_fn)


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
            :func:`tersor.calibration.sensitivity.hessian_diagonal`; weights without one
            matter alike.

    Returns:
        The model.

    Raises:
        ValueError: a weight holds NaN or infinity, or a layer has an option that is not supported;
            the message names the layer, and the model is as it was. Or no choice meets the target.
    """
    config = _settled(model, config, filter_fn, importance)
    if config.calibration is None and config.joint_codebook is None:
        return _swap_(model, config, filter_fn, importance)
    taken = [module for _, module, _, _ in _taken(model, config, filter_fn, importance)]
    before = _saved(taken)
    try:
        config = _settle_(model, config, filter_fn, importance)
        return _swap_(model, config, filter_fn, importance)
    except BaseException:
        _restore(before)
        raise


def _settle_(
    model: nn.Module,
    config: Config,
    filter_fn: FilterFunction | None,
    importance: Mapping[str, Any] | None,
) -> Config:
    """Prunes and shares the weights in place, where that is no matter of single layers.

    Returns the configuration that keeps exactly the values which the layers then have.
    """
    taken = list(_taken(model, config, filter_fn, importance))
    if config.calibration is not None:
        named = {module: (name, settings) for name, module, settings, _ in taken}
        reached = compensation.compensate_(model, config.calibration, named)
        exact = {name: _exactly(own) for name, module, own, _ in taken if module in reached}
        return _with_settings(config, exact)
    assert config.joint_codebook is not None
    weights, kept, matters = {}, {}, {}
    for name, module, settings, own in taken:
        weights[name] = as_float32(module.weight, name)
        kept[name] = kept_by(weights[name], settings)
        if own is not None:
            matters[name] = as_float32(own, f"{name}: importance")
    limit = config.joint_codebook.codebook_size or 255
    shared = quantize_by(
        weights, kept, config.joint_codebook, limit, matters if importance else None, together=True
    )
    for name, module, _, _ in taken:
        weight: Any = module.weight
        with torch.no_grad():
            weight.copy_(torch.from_numpy(shared[name].dense()))
    return _with_settings(config, {name: _exactly(own) for name, _, own, _ in taken})


def _swap_(
    model: nn.Module,
    config: Config,
    filter_fn: FilterFunction | None,
    importance: Mapping[str, Any] | None,
) -> nn.Module:
    """Compresses each layer by its settings and puts it in the place of the dense one."""
    compressed: dict[nn.Module, Compressed] = {}
    blobs: dict[tuple[object, ...], Compressed] = {}
    for name, module, settings, matters in _taken(model, config, filter_fn, importance):
        made = HANDLERS[type(module)](module, settings, name or type(module).__name__, matters)
        if config.biases is not None and made.bias is not None:
            with torch.no_grad():
                made.bias.copy_(_share_bias(made.bias, config.biases, name))
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

    layers: dict[str, BlobInfo]
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
    layers: dict[str, BlobInfo] = {}
    saved = 0
    config = _settled(model, config, filter_fn, importance)
    if config.calibration is not None or config.joint_codebook is not None:
        model = copy.deepcopy(model)
        config = _settle_(model, config, filter_fn, importance)
    for name, module, settings, matters in _taken(model, config, filter_fn, importance):
        weight: Any = module.weight
        blob = encode_blob(compress_weight(weight, settings, name, matters))
        layers[name] = inspect_blob(blob)
        saved += weight.numel() * weight.element_size() - len(blob)
    dense = tensor_bytes(model)
    return Estimate(layers, dense, dense - saved)
