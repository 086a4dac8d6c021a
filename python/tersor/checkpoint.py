"""Saving models to files and loading them back."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from tersor import container
from tersor.compress import HANDLERS, swap_modules
from tersor.config import LayerConfig
from tersor.container import Tensor
from tersor.layer import SUFFIX, Layer, decode_layer, inspect_layer
from tersor.nn import Compressed

ALIASES = "tersor.aliases"

DTYPES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
}
_TORCH = {name: dtype for dtype, name in DTYPES.items()}


@dataclass(frozen=True)
class Checkpoint:
    """A file without a model: compressed layers by the name of their tensor, other tensors."""

    layers: dict[str, Layer]
    tensors: dict[str, torch.Tensor]


def to_file_tensor(tensor: torch.Tensor, name: str) -> Tensor:
    """A torch tensor as the container writes it, in its own type.

    Raises:
        ValueError: safetensors has no name for the type, or the layout is not strided.
    """
    if tensor.dtype not in DTYPES or tensor.layout != torch.strided:
        raise ValueError(f"{name}: {tensor.dtype} in {tensor.layout} cannot be saved")
    raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return Tensor(DTYPES[tensor.dtype], tuple(tensor.shape), raw)


def to_torch(view: container.TensorView) -> torch.Tensor:
    """A tensor of a file, copied.

    Raises:
        ValueError: torch has no such type.
    """
    if view.dtype not in _TORCH:
        raise ValueError(f"{view.name}: torch has no type for {view.dtype}")
    raw = torch.from_numpy(np.array(view.bytes()))
    return raw.view(_TORCH[view.dtype]).reshape(view.shape)


def save(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Writes a model's state to one ``.safetensors`` file, in one step.

    A tensor that the state holds under several names is written once.

    Raises:
        OSError: the system refuses; an old file stays as it was.
        ValueError: a tensor has a type that cannot be saved.
    """
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[tuple[object, ...], str] = {}
    for name, value in sorted(model.state_dict().items()):
        key = (value.data_ptr(), value.dtype, tuple(value.shape), value.stride())
        if value.numel() and key in first:
            aliases[name] = first[key]
            continue
        first[key] = name
        tensors[name] = to_file_tensor(value, name)
    metadata = {ALIASES: json.dumps(aliases, sort_keys=True)} if aliases else None
    container.write_file(path, tensors, metadata)


def _aliases(file: container.File) -> dict[str, str]:
    aliases = json.loads(file.metadata.get(ALIASES, "{}"))
    for name, target in aliases.items():
        if target not in file.tensors or name in file.tensors:
            raise ValueError(f"{file.path}: '{name}' stands for '{target}', which is not there")
    return dict(aliases)


def load(path: str | os.PathLike[str], model: nn.Module | None = None) -> nn.Module | Checkpoint:
    """Loads a file, checking every hash.

    Args:
        path: a file that :func:`save`, or the command line, wrote.
        model: a module of the same architecture, dense or compressed: its layers are swapped for
            compressed ones where the file holds blobs, and its state is loaded.

    Returns:
        The model, or without one a :class:`Checkpoint`.

    Raises:
        FormatError: the file is malformed or was altered.
        ValueError: the file and the model do not fit; the message lists the names.
    """
    with container.open(path) as file:
        file.verify()
        aliases = _aliases(file)
        state = {name: to_torch(view) for name, view in file.tensors.items()}
        blobs = {name for name, view in file.tensors.items() if view.compressed}
    if model is None:
        return Checkpoint(
            {name.removesuffix(SUFFIX): decode_layer(state[name].numpy()) for name in blobs},
            {name: tensor for name, tensor in state.items() if name not in blobs},
        )
    for name, target in aliases.items():
        state[name] = state[target]
        if target in blobs:
            blobs.add(name)

    def compressed(module: nn.Module, name: str) -> nn.Module | None:
        key = f"{name}.weight{SUFFIX}".removeprefix(".")
        if key not in blobs or isinstance(module, Compressed):
            return None
        if type(module) not in HANDLERS:
            raise ValueError(f"{key}: a {type(module).__name__} cannot be compressed")
        shape = inspect_layer(state[key].numpy()).shape
        weight = module.weight
        assert isinstance(weight, torch.Tensor)
        if shape != tuple(weight.shape):
            raise ValueError(f"{key}: has shape {shape}, the model {tuple(weight.shape)}")
        # An empty layer of the right geometry; its blob comes with the state.
        return HANDLERS[type(module)](module, LayerConfig(density=0.0), name)

    model = swap_modules(model, compressed)
    missing, unexpected = model.load_state_dict(state, strict=False)
    if missing or unexpected:
        raise ValueError(
            f"{path} does not fit the model: missing {sorted(missing)}, "
            f"unexpected {sorted(unexpected)}"
        )
    return model
