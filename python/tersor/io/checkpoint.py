"""Saving models to files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from tersor._names import joined
from tersor.config import Config
from tersor.io import container
from tersor.io.container import Tensor
from tersor.io.content import CONFIG
from tersor.io.folded import write_folded
from tersor.io.layer_records import LayerRecord, write_records
from tersor.io.state_dict import DTYPES, file_tensors
from tersor.nn.compression import compression_of
from tersor.nn.matrices import matrices_of
from tersor.nn.wrappers import plain_name, wrapper_prefix


def save(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    metadata: Mapping[str, str] | None = None,
    config: bool = True,
    plain: bool = False,
) -> None:
    """Writes a model's state to one ``.safetensors`` file, in one step.

    A tensor that the state holds under several names is written once. What is left dense is coded
    without loss where that is smaller: loading gives the same bits. What ``torch.compile``,
    ``DataParallel`` and DDP put before names is left out.

    Args:
        metadata: texts for the header of the file, for example ``{"format": "pt"}``.
        config: also store the settings that the model was compressed by, some 50 bytes.
        plain: leave what is dense as other safetensors readers expect it: larger, and without
            checksums.

    Raises:
        OSError: the system refuses; an old file stays as it was.
        ValueError: a tensor has a type that cannot be saved.
    """
    compression = compression_of(model)
    settings = compression.config if config and compression is not None else None
    tensors, own = file_content(model, settings, plain=plain)
    container.write_file(path, tensors, {**(metadata or {}), **own}, plain=plain)


def file_content(
    model: nn.Module, settings: Config | None = None, *, plain: bool = False
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a model's file.

    Args:
        model: any module.
        settings: that the model was compressed by.
        plain: leave what is dense as it is.
    """
    tensors, aliases = file_tensors(_state_of(model), plain=plain)
    metadata = {**(aliases or {}), **model_metadata(model)}
    if settings is not None:
        metadata[CONFIG] = json.dumps(settings.to_json(), separators=(",", ":"))
    return tensors, metadata


def model_metadata(model: nn.Module) -> dict[str, str]:
    """What a file says of a model's layers beside their tensors."""
    prefix = wrapper_prefix(model)
    records = {
        joined(plain_name(name, prefix), leaf): LayerRecord(
            DTYPES[weight.dtype], weight.precision, weight.activation
        )
        for name, module in model.named_modules(remove_duplicate=False)
        for leaf, weight in matrices_of(module).items()
    }
    compression = compression_of(model)
    folded = {} if compression is None else compression.folded
    return {**write_records(records), **write_folded(folded)}


def _state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """A model's state by plain names."""
    prefix = wrapper_prefix(model)
    return {plain_name(name, prefix): value for name, value in model.state_dict().items()}


def stored_bytes(model: nn.Module) -> int:
    """Bytes of all tensors of the file that :func:`save` writes, without its header.

    Tensors that are not initialized yet, which cannot be saved, count as none.
    """
    state = {name: value for name, value in _state_of(model).items() if not is_lazy(value)}
    tensors, _ = file_tensors(state)
    return sum(tensor.nbytes for tensor in tensors.values())


def file_bytes(model: nn.Module, config: Config) -> int:
    """Bytes of the file that :func:`save` would write of a model compressed by these settings."""
    return container.file_bytes(*file_content(model, config))
