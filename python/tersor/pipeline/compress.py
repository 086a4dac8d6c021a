"""A model through all stages, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from tersor.calibration.inputs import read_batches
from tersor.codec.blob import BlobInfo
from tersor.config import Config
from tersor.io.checkpoint import file_content
from tersor.nn.base import Compressed
from tersor.nn.compression import Compression, compression_of, freeze, remember
from tersor.nn.registry import swap_modules
from tersor.pipeline.calibrate import calibrate_
from tersor.pipeline.encode import encode, leave_what_would_grow
from tersor.pipeline.prune import spread_density
from tersor.pipeline.quantize import quantize, share_one_codebook_
from tersor.pipeline.records import Selection
from tersor.pipeline.search import Evaluate, accuracy, search, with_settings
from tersor.pipeline.select import FilterFunction, give_up_plain_, select, swap_plain_, tensor_bytes
from tersor.pipeline.swap import Swaps, compressed_modules, swap_, swapped

Progress = Callable[[str], None]


def compress_(
    model: nn.Module,
    config: Config | None = None,
    filter_fn: FilterFunction | None = None,
    importance: Mapping[str, Any] | None = None,
    *,
    data: Iterable[Any] | None = None,
    evaluate: Evaluate | None = None,
    progress: Progress | None = None,
    trainable: bool = False,
) -> nn.Module:
    """Compresses a model in place: each supported layer becomes a module that runs compressed.

    :func:`tersor.report` then tells what was done to each layer, and why others stayed dense.

    Args:
        model: a module; where it is a layer itself, a new module is returned.
        config: settings; by default nothing is pruned beyond existing zeros.
        filter_fn: ``(module, name) -> bool``: whether to compress a layer.
        importance: by the name of a weight, how much errors of its entries count, for example
            :func:`tersor.calibration.sensitivity.hessian_diagonal`; weights without one count
            alike.
        data: inputs of the model, batch by batch, some 128 in all (1,000 for a target) and without
            labels: layers are pruned and quantized one after another, and errors compensated
            (:mod:`tersor.calibration.compensation`). A batch is a tensor, a tuple of arguments or a
            dict of keyword arguments.
        evaluate: of a model: its accuracy, or whatever is better the higher it is; for
            ``max_drop``.
        progress: called with a line for each step.
        trainable: keep asking for gradients of biases and other parameters. By default all
            parameters are frozen, so that the model takes its fast path also without
            ``torch.inference_mode``.

    Returns:
        The model.

    Raises:
        ValueError: a weight holds NaN or infinity, a name or a pattern matches nothing, or nothing
            meets the target. The message names the layer, and the model is as it was.
    """
    config = config or Config()
    batches = _checked(config, data, evaluate)
    dense_bytes = tensor_bytes(model)
    selection = select(model, config, filter_fn, importance)
    records = list(selection.records)
    model = swap_plain_(model, selection)
    least = 0.0
    try:
        if config.max_drop is not None:
            assert evaluate is not None
            least = accuracy(model, evaluate) - config.max_drop
        _run_stages(model, selection, config, batches, evaluate, progress)
        swaps = compressed_modules(selection.records, config.biases)
        if config.max_drop is not None:
            assert evaluate is not None
            _check_accuracy(model, swaps, evaluate, least, config.max_drop)
        made = give_up_plain_(swap_(model, swaps), selection, swaps)
    except BaseException:
        for record in records:
            record.restore()
        swap_plain_(model, selection, back=True)
        raise
    frozen = () if trainable else freeze(made)
    left = dict(selection.left)
    remember(made, Compression(config.to_json(), left, dense_bytes, frozen))
    return made


def _checked(
    config: Config, data: Iterable[Any] | None, evaluate: Evaluate | None
) -> list[Any] | None:
    """The calibration batches, read once: an iterator would be empty the second time.

    Raises:
        ValueError: arguments and configuration do not fit together, or the data is not batches.
    """
    if (config.max_drop is None) != (evaluate is None):
        raise ValueError("max_drop and evaluate belong together")
    if data is None:
        return None
    if config.joint_codebook is not None:
        raise ValueError("joint_codebook cannot be combined with calibration data")
    return read_batches(data)


def _run_stages(
    model: nn.Module,
    selection: Selection,
    config: Config,
    data: list[Any] | None,
    evaluate: Evaluate | None,
    progress: Progress | None,
) -> None:
    """From selected weights to blobs in their records."""
    say = progress or (lambda _: None)
    records = selection.records
    if config.density is not None:
        spread_density(records, config.density)
    if config.searches:
        search(model, selection, config, evaluate, data, lambda step: say(str(step)))
    if data is not None:
        calibrate_(model, records, data, progress)
    if config.joint_codebook is not None:
        share_one_codebook_(records, config.joint_codebook)
    for number, record in enumerate(records, 1):
        quantize(record)
        encode(record)
        assert record.blob is not None
        say(
            f"{number}/{len(records)} {record.label}: "
            f"{record.dense_bytes:,} -> {len(record.blob):,} bytes"
        )
    leave_what_would_grow(selection)


def _check_accuracy(
    model: nn.Module, swaps: Swaps, evaluate: Evaluate, least: float, max_drop: float
) -> None:
    """Evaluates the final model.

    Raises:
        ValueError: it is worse than the least that is allowed.
    """
    with swapped(model, swaps) as compressed:
        found = accuracy(compressed, evaluate)
    if not found >= least:
        raise ValueError(
            f"the compressed model evaluates to {found:g}, and max_drop={max_drop:g} allows no "
            f"less than {least:g}"
        )


def decompress_(model: nn.Module) -> nn.Module:
    """Gives the dense modules back, with the weights that the compressed ones stand for.

    Layers that shared a weight share it again, and parameters that :func:`compress_` froze ask for
    gradients again.
    """
    weights: dict[int, nn.Parameter] = {}

    def dense(module: nn.Module, _: str) -> nn.Module | None:
        if not isinstance(module, Compressed):
            return None
        made = module.to_dense()
        layer: Any = made if module.activation == "none" else made.get_submodule("0")
        layer.weight = weights.setdefault(id(module.weight_blob), layer.weight)
        return made

    compression = compression_of(model)
    # By their names now: those of layers with a fused activation change.
    parameters = dict(model.named_parameters())
    made = swap_modules(model, dense)
    if compression is not None:
        for name in compression.frozen:
            if name in parameters:
                parameters[name].requires_grad_(True)
        remember(made, None)
    return made


@dataclass(frozen=True)
class Estimate:
    """Sizes in bytes, from blobs that were really encoded.

    Attributes:
        layers: by name, what each compressed weight would take.
        left: by name of a layer, why it would stay dense.
        dense_bytes: all parameters and buffers as they are now.
        compressed_bytes: of all tensors of the saved file, without its header.
    """

    layers: dict[str, BlobInfo]
    left: dict[str, str]
    dense_bytes: int
    compressed_bytes: int

    def __str__(self) -> str:
        lines = [f"{name}: {info.total_bytes:,} bytes" for name, info in self.layers.items()]
        lines += [f"{name}: dense, {why}" for name, why in self.left.items()]
        ratio = self.dense_bytes / max(1, self.compressed_bytes)
        total = f"{self.dense_bytes:,} -> {self.compressed_bytes:,} bytes ({ratio:.1f}x)"
        return "\n".join([*lines, total])


def estimate(
    model: nn.Module,
    config: Config | None = None,
    filter_fn: FilterFunction | None = None,
    importance: Mapping[str, Any] | None = None,
    *,
    data: Iterable[Any] | None = None,
    evaluate: Evaluate | None = None,
    progress: Progress | None = None,
) -> Estimate:
    """What :func:`compress_` would make of a model, which stays as it is; arguments as there."""
    config = config or Config()
    batches = _checked(config, data, evaluate)
    selection = select(model, config, filter_fn, importance)
    records = list(selection.records)
    plain = swap_plain_(model, selection)
    try:
        _run_stages(plain, selection, config, batches, evaluate, progress)
        with swapped(plain, compressed_modules(selection.records, config.biases)) as made:
            tensors, _ = file_content(made)
        layers = {r.layer: r.info for r in selection.records if r.info is not None}
        size = sum(tensor.nbytes for tensor in tensors.values())
        return Estimate(layers, dict(selection.left), tensor_bytes(plain), size)
    finally:
        for record in records:
            record.restore()
        swap_plain_(plain, selection, back=True)


def fit(
    model: nn.Module,
    config: Config,
    filter_fn: FilterFunction | None = None,
    importance: Mapping[str, Any] | None = None,
    *,
    data: Iterable[Any] | None = None,
    evaluate: Evaluate | None = None,
    progress: Progress | None = None,
) -> Config:
    """The configuration with each layer's settings in the place of its target.

    :func:`compress_` does this itself; use it to look at what is chosen. Arguments as there; the
    model stays as it is.

    Raises:
        ValueError: as :func:`compress_`.
    """
    batches = _checked(config, data, evaluate)
    say = progress or (lambda _: None)
    selection = select(model, config, filter_fn, importance)
    plain = swap_plain_(model, selection)
    try:
        if config.density is not None:
            spread_density(selection.records, config.density)
        if config.searches:
            search(plain, selection, config, evaluate, batches, lambda step: say(str(step)))
        return with_settings(config, selection.records)
    finally:
        swap_plain_(plain, selection, back=True)
