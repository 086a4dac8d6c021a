"""Saving models to files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from torch import nn

from tersor.config import Config
from tersor.io import container
from tersor.io.container import Tensor
from tersor.io.content import CONFIG
from tersor.io.layer_records import LayerRecord, write_records
from tersor.io.state_dict import DTYPES, file_tensors
from tersor.nn.base import Compressed
from tersor.nn.compression import compression_of
from tersor.nn.wrappers import plain_name, wrapper_prefix


def save(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    metadata: Mapping[str, str] | None = None,
    config: bool = True,
) -> None:
    """Writes a model's state to one ``.safetensors`` file, in one step.

    A tensor that the state holds under several names is written once. A vector of few distinct
    values (a bias that is quantized) is coded, without loss, where that is smaller. What
    ``torch.compile``, ``DataParallel`` and DDP put before names is left out.

    Args:
        metadata: texts for the header of the file, for example ``{"format": "pt"}``.
        config: also store the settings that the model was compressed by, some 50 bytes.

    Raises:
        OSError: the system refuses; an old file stays as it was.
        ValueError: a tensor has a type that cannot be saved.
    """
    compression = compression_of(model)
    settings = compression.config if config and compression is not None else {}
    tensors, own = file_content(model, settings)
    container.write_file(path, tensors, {**(metadata or {}), **own})


def file_content(
    model: nn.Module, settings: Mapping[str, Any] | None = None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a model's file.

    Args:
        settings: that the model was compressed by, as JSON has them.
    """
    prefix = wrapper_prefix(model)
    state = {plain_name(name, prefix): value for name, value in model.state_dict().items()}
    tensors, aliases = file_tensors(state)
    records = {
        f"{plain_name(name, prefix)}.weight".removeprefix("."): LayerRecord(
            DTYPES[module.dtype], module.precision, module.activation
        )
        for name, module in model.named_modules()
        if isinstance(module, Compressed)
    }
    metadata = {**(aliases or {}), **write_records(records)}
    if settings:
        metadata[CONFIG] = json.dumps(settings, separators=(",", ":"))
    return tensors, metadata


def file_bytes(model: nn.Module, config: Config) -> int:
    """Bytes of the file that :func:`save` would write of a model compressed by these settings."""
    return container.file_bytes(*file_content(model, config.to_json()))
