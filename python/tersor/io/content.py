"""What a file holds, read as a whole."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from tersor._core import FormatError
from tersor.codec.blob import SUFFIX, decode_blob, inspect_blob
from tersor.codec.encode import decompress_weight
from tersor.config import Config
from tersor.io import container
from tersor.io.aliases import read_aliases
from tersor.io.folded import read_folded
from tersor.io.layer_records import RecordTable, read_records
from tersor.io.state_dict import to_torch

CONFIG = "tersor.config"
"""The key of the settings in the metadata of a file."""


@dataclass
class Content:
    """What a file holds; blobs go by the names of their dense tensors.

    Attributes:
        blobs: of weights, uint8; tensors that are shared stand under each of their names.
        tensors: all others; coded vectors are decoded.
        records: what is known of each compressed tensor beside its blob.
        config: the settings that the model was compressed by; None where the file has none.
        folded: by name of a layer, the norm that was folded into it.
    """

    path: str
    blobs: dict[str, torch.Tensor] = field(default_factory=dict)
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    records: RecordTable = field(default_factory=lambda: RecordTable({}))
    config: Config | None = None
    folded: dict[str, str] = field(default_factory=dict)


def _config(metadata: Mapping[str, str]) -> Config | None:
    """The settings that a file's metadata holds; none where a newer version wrote others."""
    try:
        return Config.from_json(json.loads(metadata[CONFIG]))
    except (KeyError, ValueError, RecursionError):
        return None


def _check_size(file: container.File, max_bytes: int) -> None:
    """Whether what is copied, decoded and packed fits; refuses the first tensor that does not."""
    total = 0
    for name, view in file.tensors.items():
        total += view.needed_bytes()
        if total > max_bytes:
            raise FormatError(
                f"{file.path}: with '{name}', at byte {view.offset}, "
                f"loading takes more than {max_bytes} bytes"
            )


# Tensors that are made in inference mode could never be trained.
@torch.inference_mode(False)
def read_content(path: str | os.PathLike[str], max_bytes: int | None) -> Content:
    """Everything of a file, each tensor copied once, all hashes checked.

    Raises:
        FormatError: the file is malformed, was altered, or takes more than ``max_bytes``.
        OSError: it cannot be read.
    """
    content = Content(str(path))
    with container.open(path, max_bytes=max_bytes) as file:
        if max_bytes is not None:
            _check_size(file, max_bytes)
        file.verify()
        for name, view in file.tensors.items():
            if not view.compressed:
                content.tensors[name] = to_torch(view)
                continue
            plain = name.removesuffix(SUFFIX)
            if inspect_blob(view.bytes()).is_vector:
                vector = decompress_weight(decode_blob(view.bytes()))
                content.tensors[plain] = torch.from_numpy(vector)
            else:
                content.blobs[plain] = to_torch(view)
        content.records = read_records(file.metadata, file.path)
        content.config = _config(file.metadata)
        content.folded = read_folded(file.metadata, file.path)
        stored = {name: view.compressed for name, view in file.tensors.items()}
        for alias, target in read_aliases(file.metadata, stored, file.path).items():
            table = content.blobs if target in content.blobs else content.tensors
            table[alias] = table[target]
    return content
