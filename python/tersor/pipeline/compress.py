"""A model through all stages, and back."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from tersor._progress import Progress, shown
from tersor.calibration.blocks import Inputs
from tersor.calibration.inputs import ForwardFunction, read_batches
from tersor.codec.blob import BlobInfo
from tersor.config import Config
from tersor.io.checkpoint import stored_bytes
from tersor.nn.base import Compressed
from tersor.nn.compression import compression_of, forget, remember
from tersor.nn.matrices import matrices_of
from tersor.nn.registry import swap_modules
from tersor.pipeline.calibrate import Calibration
from tersor.pipeline.encode import leave_what_grows, quantize_and_encode
from tersor.pipeline.fit_size import fit_size_
from tersor.pipeline.fold import folded_norms
from tersor.pipeline.prune import spread_density
from tersor.pipeline.quantize import share_one_codebook_
from tersor.pipeline.records import Selection
from tersor.pipeline.search import Evaluate, Target, search, target_of, with_settings
from tersor.pipeline.select import (
    FilterFunction,
    give_up_plain_,
    select,
    swap_plain_,
    swap_plain_back_,
    tensor_bytes,
)
from tersor.pipeline.swap import compressed_modules, swap_, swapped


def compress_(
    model: nn.Module,
    config: Config | None = None,
    filter_fn: FilterFunction | None = None,
    importance: Mapping[str, Any] | None = None,
    *,
    data: Iterable[Any] | None = None,
    forward_fn: ForwardFunction | None = None,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    refine_steps: int = 0,
    evaluate: Evaluate | None = None,
    progress: Progress = "auto",
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
        data: inputs of the model, batch by batch, some 128 in all and without labels: layers are
            pruned and quantized one after another, and errors compensated
            (:mod:`tersor.calibration.compensation`). A batch is a tensor, a tuple of arguments or a
            dict of keyword arguments. Where ``torch.distributed`` is initialized, each rank gives
            some of the batches, and all get the same model.
        forward_fn: ``(model, batch)``: how the model is run on a batch, which may then be anything
            that a ``DataLoader`` yields; what it returns is what the model's output is.
        checkpoint_dir: a folder for the weights that are calibrated already: an interrupted call
            that is repeated with the same model, settings and data continues from them.
        refine_steps: of distillation for each block after its weights are quantized, in which its
            norms and biases are tuned to the outputs of the dense one.
        evaluate: of a model: its accuracy, or whatever is better the higher it is; for
            ``max_drop``.
        progress: called with a line for each step; ``"auto"`` shows them where standard output is
            a terminal and rich is installed; None shows nothing.
        trainable: keep asking for gradients of biases and other parameters. By default all
            parameters are frozen, so that the model takes its fast path also without
            ``torch.inference_mode``.

    Returns:
        The model.

    Raises:
        ValueError: a weight holds NaN or infinity, a name or a pattern matches nothing, nothing
            meets the target, or the final model does not. The message names the layer, and the
            model is as it was.
    """
    config = config or Config()
    inputs = _checked(config, data, evaluate, forward_fn, checkpoint_dir, refine_steps)
    with folded_norms(model, config, inputs) as folding:
        selection = select(model, config, filter_fn, importance)
        compressed_before = any(isinstance(module, Compressed) for module in model.modules())
        model = swap_plain_(model, selection)
        with _undone_on_error(model, selection):
            with shown(progress) as say:
                target = _run_stages(model, selection, config, inputs, evaluate, say)
            swaps = compressed_modules(model, selection.records, config.biases)
            if target is not None:
                with swapped(model, swaps) as compressed:
                    target.check(compressed)
            model = give_up_plain_(swap_(model, swaps), selection, swaps)
        model = folding.keep(model)
    left = {n: why for n, why in selection.left.items() if n not in folding.names.values()}
    settings = _settings_of_all(model, config, bool(swaps)) if compressed_before else config
    remember(model, settings, left, freeze=not trainable, folded=folding.names)
    return model


def _settings_of_all(model: nn.Module, config: Config, compressed: bool) -> Config | None:
    """The settings of a model that had compressed layers already; None = they are not all alike.

    Args:
        model: compressed.
        config: the settings of this time.
        compressed: whether any layer was compressed by them.
    """
    before = compression_of(model)
    known = None if before is None else before.config
    return known if not compressed or known == config else None


@contextmanager
def _undone_on_error(model: nn.Module, selection: Selection) -> Iterator[None]:
    """Gives the model back what stages changed, where the block raises."""
    records = list(selection.records)
    try:
        yield
    except BaseException:
        for record in reversed(records):
            record.restore()
        swap_plain_back_(model, selection)
        raise


def _checked(
    config: Config,
    data: Iterable[Any] | None,
    evaluate: Evaluate | None,
    forward_fn: ForwardFunction | None,
    checkpoint_dir: str | os.PathLike[str] | None,
    refine_steps: int,
) -> Inputs | None:
    """The calibration batches, read once: an iterator would be empty the second time.

    Raises:
        ValueError: arguments and configuration do not fit together, or the data is not batches.
    """
    if (config.max_drop is None) != (evaluate is None):
        raise ValueError("max_drop and evaluate belong together")
    if data is None:
        options = {
            "forward_fn": forward_fn,
            "checkpoint_dir": checkpoint_dir,
            "refine_steps": refine_steps or None,
        }
        for name, given in options.items():
            if given is not None:
                raise ValueError(f"{name} is for calibration: give inputs as data")
        return None
    if config.joint_codebook is not None:
        raise ValueError("joint_codebook cannot be combined with calibration data")
    folder = None if checkpoint_dir is None else Path(checkpoint_dir)
    batches = read_batches(data, any_kind=forward_fn is not None)
    return Inputs(batches, forward_fn, folder, refine_steps)


def _run_stages(
    model: nn.Module,
    selection: Selection,
    config: Config,
    data: Inputs | None,
    evaluate: Evaluate | None,
    say: Callable[[str], None],
) -> Target | None:
    """From selected weights to blobs in their records; returns what is to be met."""
    records = selection.records
    calibration = None if data is None else Calibration(model, records, data)
    target = _choose_settings(model, selection, config, calibration, evaluate, say)
    if calibration is not None and target is not None and target.evaluate is None:
        leave_what_grows(selection)  # encoded already
        return target
    if calibration is not None:
        calibration.apply_(say)
    if config.joint_codebook is not None:
        share_one_codebook_([r for r in records if not r.is_table], config.joint_codebook)
    quantize_and_encode(records, say)
    leave_what_grows(selection)
    return target


def _choose_settings(
    model: nn.Module,
    selection: Selection,
    config: Config,
    calibration: Calibration | None,
    evaluate: Evaluate | None,
    say: Callable[[str], None],
) -> Target | None:
    """Gives each record the settings that a density or a target of the whole model asks for."""
    if config.density is not None:
        spread_density(selection.records, config.density)
    target = target_of(model, config, evaluate)
    if target is not None and target.evaluate is None and calibration is not None:
        fit_size_(model, calibration, target, say)
    elif target is not None:
        search(model, selection.records, target, calibration, lambda step: say(str(step)))
    return target


def decompress_(model: nn.Module) -> nn.Module:
    """Gives the dense modules back, with the weights that the compressed ones stand for.

    Layers that shared a weight share it again, and parameters that :func:`compress_` froze ask for
    gradients again.
    """
    forget(model)
    weights: dict[int, nn.Parameter] = {}

    def dense(module: nn.Module, _: str) -> nn.Module | None:
        matrices = matrices_of(module)
        if not matrices:
            return None
        made: nn.Module = module.to_dense()  # type: ignore[operator]
        fused = getattr(module, "activation", "none") != "none"
        layer: Any = made.get_submodule("0") if fused else made
        for name, matrix in matrices.items():
            weight = weights.setdefault(id(matrix.weight_blob), getattr(layer, name))
            if weight is not getattr(layer, name):
                setattr(layer, name, weight)
        return made

    return swap_modules(model, dense)


@dataclass(frozen=True)
class Estimate:
    """Sizes in bytes, from blobs that were really encoded.

    Attributes:
        layers: by name, what each compressed weight would take.
        left: by name of a layer, why it would stay dense.
        dense_bytes: of all parameters and buffers of the dense model; of a weight that is computed
            before each forward, its own.
        compressed_bytes: of all tensors of the saved file, without its header; those that are not
            initialized yet count as none.
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
    forward_fn: ForwardFunction | None = None,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    refine_steps: int = 0,
    evaluate: Evaluate | None = None,
    progress: Progress = "auto",
) -> Estimate:
    """What :func:`compress_` would make of a model, which stays as it is; arguments as there."""
    config = config or Config()
    batches = _checked(config, data, evaluate, forward_fn, checkpoint_dir, refine_steps)
    with (
        folded_norms(model, config, batches),
        _selected(model, config, filter_fn, importance) as (plain, selection),
    ):
        dense_bytes = tensor_bytes(plain)
        with shown(progress) as say:
            _run_stages(plain, selection, config, batches, evaluate, say)
        swaps = compressed_modules(plain, selection.records, config.biases)
        with swapped(plain, swaps) as made:
            size = stored_bytes(made)
        layers = {r.layer: r.info for r in selection.records if r.info is not None}
        return Estimate(layers, dict(selection.left), dense_bytes, size)


@contextmanager
def _selected(
    model: nn.Module,
    config: Config,
    filter_fn: FilterFunction | None,
    importance: Mapping[str, Any] | None,
) -> Iterator[tuple[nn.Module, Selection]]:
    """The model with plain layers and what is selected of it; afterwards it is as it was."""
    selection = select(model, config, filter_fn, importance)
    records = list(selection.records)
    plain = swap_plain_(model, selection)
    try:
        yield plain, selection
    finally:
        for record in reversed(records):
            record.restore()
        swap_plain_back_(plain, selection)


def fit(
    model: nn.Module,
    config: Config,
    filter_fn: FilterFunction | None = None,
    importance: Mapping[str, Any] | None = None,
    *,
    data: Iterable[Any] | None = None,
    forward_fn: ForwardFunction | None = None,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    refine_steps: int = 0,
    evaluate: Evaluate | None = None,
    progress: Progress = "auto",
) -> Config:
    """The configuration with each layer's settings in the place of its target.

    :func:`compress_` does this itself; use it to look at what is chosen. Arguments as there; the
    model stays as it is.

    Raises:
        ValueError: as :func:`compress_`.
    """
    batches = _checked(config, data, evaluate, forward_fn, checkpoint_dir, refine_steps)
    with (
        folded_norms(model, config, batches),
        _selected(model, config, filter_fn, importance) as (plain, selection),
        shown(progress) as say,
    ):
        calibration = None if batches is None else Calibration(plain, selection.records, batches)
        _choose_settings(plain, selection, config, calibration, evaluate, say)
        return with_settings(config, selection.records)
