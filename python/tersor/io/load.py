"""Loading files: into a model, or alone."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, overload

import torch
from torch import nn

from tersor._names import listed
from tersor.codec.blob import CompressedTensor, decode_blob
from tersor.config import EXECUTIONS, PRECISIONS, Config, Execution, Precision
from tersor.io.content import Content, read_content
from tersor.io.fill import fill_
from tersor.io.folded import fold_names
from tersor.io.plan import Plan, plan_loading
from tersor.nn.base import Compressed
from tersor.nn.compression import remember
from tersor.nn.hooks import hand_over
from tersor.nn.matrices import CompressedGroup, matrices_of, move_to
from tersor.nn.recomputed import plain_copy
from tersor.nn.registry import handler_of, swap_modules


@dataclass(frozen=True)
class Checkpoint:
    """A file without a model.

    Attributes:
        layers: compressed weights by their (dense) name; what the saved model held under several
            names stands under each of them.
        tensors: all others.
        config: the settings that the model was compressed by; None where the file has none.
    """

    layers: dict[str, CompressedTensor]
    tensors: dict[str, torch.Tensor]
    config: Config | None = None


def load_file(path: str | os.PathLike[str], *, max_bytes: int | None = None) -> Checkpoint:
    """Loads a file without a model, checking every hash.

    Args:
        path: a file that :func:`save`, or the command line, wrote.
        max_bytes: refuse, before anything is decoded, a file whose tensors take more together: the
            stored bytes of each, and what decoding and packing each layer may hold.

    Raises:
        FormatError: the file is malformed, was altered, or takes more than ``max_bytes``.
    """
    content = read_content(path, max_bytes)
    decoded = {id(blob): decode_blob(blob.numpy()) for blob in content.blobs.values()}
    layers = {name: decoded[id(blob)] for name, blob in content.blobs.items()}
    return Checkpoint(layers, content.tensors, content.config)


def load_model(
    path: str | os.PathLike[str],
    model: nn.Module,
    *,
    precision: Precision | None = None,
    execution: Execution | None = None,
    trainable: bool = False,
    strict: bool = True,
    max_bytes: int | None = None,
) -> nn.Module:
    """Loads a file into a model, checking every hash.

    The layers that the file holds blobs of are swapped for compressed ones; a weight whose layer
    cannot run compressed is decoded, with a warning that says why. No dense weight is read, so
    that the model may be on the meta device or uninitialized.

    Args:
        path: a file that :func:`save`, or the command line, wrote.
        model: a module of the same architecture, dense or compressed; where it is a layer itself, a
            new module is returned.
        precision: class of arithmetic of all layers; None = as they were saved.
        execution: of all layers: ``auto``, ``compressed`` (least memory) or ``dense``; None = as
            those of the model are, ``auto`` by default (:class:`tersor.LayerConfig`).
        trainable: let parameters go on asking for gradients. By default all are frozen, so that the
            model takes its fast path also without ``torch.inference_mode``.
        strict: refuse names that are missing or unexpected.
        max_bytes: as for :func:`load_file`.

    Returns:
        The model.

    Raises:
        FormatError: the file is malformed, was altered, or takes more than ``max_bytes``.
        ValueError: the file and the model do not fit; the message lists the names, and the model
            is as it was.
    """
    return _load_model(path, model, precision, execution, trainable, strict, max_bytes)


def _load_model(
    path: str | os.PathLike[str],
    model: nn.Module,
    precision: Precision | None,
    execution: Execution | None,
    trainable: bool,
    strict: bool,
    max_bytes: int | None,
) -> nn.Module:
    """As :func:`load_model`; warnings are of the line that called the caller."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, not {type(model).__name__}")
    if precision is not None and precision not in PRECISIONS:
        raise ValueError(f"precision '{precision}' is none of {', '.join(PRECISIONS)}")
    if execution is not None and execution not in EXECUTIONS:
        raise ValueError(f"execution '{execution}' is none of {', '.join(EXECUTIONS)}")
    content = read_content(path, max_bytes)
    plan, _ = _planned(content, model, strict)
    made = _swap_layers(model, plan, content, precision, execution)
    without_data = fill_(made, content.tensors)
    for name, reason in plan.left.items():
        warnings.warn(f"{name}: stored compressed, runs dense ({reason})", stacklevel=3)
    if plan.unused:
        warnings.warn(
            f"{listed(plan.unused)}: in the file, and the model has no such weight", stacklevel=3
        )
    if without_data:
        warnings.warn(
            f"{listed(without_data)}: not in the file, and still on the meta device; give them "
            "values before the model is used",
            stacklevel=3,
        )
    left = {name: f"stored compressed, runs dense ({why})" for name, why in plan.left.items()}
    remember(made, content.config, left, freeze=not trainable, folded=content.folded)
    return made


def _planned(content: Content, model: nn.Module, strict: bool) -> tuple[Plan, Callable[[], None]]:
    """How the content goes into a model whose norms are folded as the file's; and what undoes that.

    Raises:
        ValueError: they do not fit; the model is as it was.
    """
    undo = fold_names(model, content.folded, content.tensors)
    try:
        plan = plan_loading(content, model, strict)
        if plan.problems:
            problems = "; ".join(plan.problems)
            raise ValueError(f"{content.path} does not fit the model: {problems}")
    except BaseException:
        undo()
        raise
    return plan, undo


def run_from_blobs(model: nn.Module, content: Content) -> dict[str, str]:
    """Puts compressed layers into a model whose other tensors somebody else fills in.

    Args:
        model: dense; its weights may be on the meta device.
        content: whose blobs alone are used, by the names that the weights have in the model.

    Returns:
        By name of a layer whose blob it cannot run from, why; the model is then as it was.

    Raises:
        ValueError: the blobs do not fit the model; the message lists the names.
    """
    plan, undo = _planned(content, model, strict=False)
    if plan.left:
        undo()
    else:
        _swap_layers(model, plan, content, None, None)
    return plan.left


@torch.no_grad()
def _swap_layers(
    model: nn.Module,
    plan: Plan,
    content: Content,
    precision: Precision | None,
    execution: Execution | None,
) -> nn.Module:
    """Puts compressed layers with the blobs of the file into the model."""
    made: dict[nn.Module, Compressed | CompressedGroup] = {}
    for module in plan.layers:
        if isinstance(module, (Compressed, CompressedGroup)):
            made[module] = module
            continue
        plain = plain_copy(module) or module
        handler = handler_of(plain)
        assert handler is not None
        made[module] = handler.empty_like(plain)
        move_to(made[module], plain)
    owners: dict[nn.Parameter, torch.Tensor] = {}
    for module, names in plan.layers.items():
        layer = made[module]
        if layer is not module:
            hand_over(layer, module)
        for leaf, name in names.items():
            weight = matrices_of(layer)[leaf]
            _give_blob(weight, content.blobs[name].to(_device_of(module, leaf)), owners)
            weight.precision = precision or content.records.of(name).precision
            if execution is not None:
                weight.execution = execution
            weight.relative_error = None
        if module in plan.fused:
            plan.fused[module].fuse_into(layer)  # type: ignore[arg-type]
    return swap_modules(model, lambda module, _: made.get(module))


def _give_blob(
    layer: Compressed, blob: torch.Tensor, owners: dict[nn.Parameter, torch.Tensor]
) -> None:
    """Makes a layer run from a blob; a codebook that trains takes the new values.

    Layers that were tied may no longer be: the parameter goes with the first blob, its owner.
    """
    values = layer.values
    layer.set_blob(blob)
    if values is None or layer.values is not None:
        return
    trained = layer.train_values()
    # Optimizers know the old parameter.
    if trained.shape == values.shape and owners.setdefault(values, blob) is blob:
        layer.values = values
        values.copy_(trained)


def _device_of(module: nn.Module, leaf: str) -> torch.device:
    """Where the blob of a weight goes: to the weight, or to the CPU where that has no data."""
    own = matrices_of(module)
    weight: Any = own[leaf].weight_blob if own else getattr(module, leaf)
    return torch.device("cpu") if weight.is_meta else weight.device


@overload
def load(
    path: str | os.PathLike[str], model: None = None, *, max_bytes: int | None = None
) -> Checkpoint: ...


@overload
def load(
    path: str | os.PathLike[str],
    model: nn.Module,
    *,
    precision: Precision | None = None,
    execution: Execution | None = None,
    trainable: bool = False,
    strict: bool = True,
    max_bytes: int | None = None,
) -> nn.Module: ...


def load(
    path: str | os.PathLike[str],
    model: nn.Module | None = None,
    *,
    precision: Precision | None = None,
    execution: Execution | None = None,
    trainable: bool = False,
    strict: bool = True,
    max_bytes: int | None = None,
) -> nn.Module | Checkpoint:
    """:func:`load_model` where a model is given, else :func:`load_file`."""
    if model is None:
        if precision is not None or execution is not None or trainable or not strict:
            raise TypeError(
                "precision, execution, trainable and strict are those of loading into a model"
            )
        return load_file(path, max_bytes=max_bytes)
    return _load_model(path, model, precision, execution, trainable, strict, max_bytes)
