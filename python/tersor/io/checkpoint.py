"""Saving models to files and loading them back."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from tersor._core import FormatError
from tersor.codec.blob import SUFFIX, CompressedTensor, decode_blob, inspect_blob
from tersor.codec.encode import decompress_weight
from tersor.config import LayerConfig
from tersor.io import container
from tersor.io.state_dict import ALIASES, file_tensors, to_torch
from tersor.nn import Compressed
from tersor.nn.base import BLOB
from tersor.nn.registry import HANDLERS, swap_modules


@dataclass(frozen=True)
class Checkpoint:
    """A file without a model: compressed layers by the name of their tensor, other tensors.

    What the saved model held under several names stands under each of them.
    """

    layers: dict[str, CompressedTensor]
    tensors: dict[str, torch.Tensor]


def save(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Writes a model's state to one ``.safetensors`` file, in one step.

    A tensor that the state holds under several names is written once. A vector of few distinct
    values (a bias whose values are shared) is coded, without loss, where that is smaller.

    Raises:
        OSError: the system refuses; an old file stays as it was.
        ValueError: a tensor has a type that cannot be saved.
    """
    tensors, metadata = file_tensors(model.state_dict())
    container.write_file(path, tensors, metadata)


def _aliases(file: container.File, state: Mapping[str, object]) -> dict[str, str]:
    try:
        aliases = json.loads(file.metadata.get(ALIASES, "{}"))
    except json.JSONDecodeError as error:
        raise FormatError(f"{file.path}: metadata '{ALIASES}': {error}") from None
    if not isinstance(aliases, dict):
        raise FormatError(f"{file.path}: metadata '{ALIASES}' is not an object")
    for name, target in aliases.items():
        if not isinstance(target, str) or target not in state or name in state:
            raise FormatError(f"{file.path}: '{name}' stands for {target!r}, which is not there")
    return dict(aliases)


def _misfits(model: nn.Module, state: dict[str, torch.Tensor], blobs: set[str]) -> Iterator[str]:
    """What stands against loading a state into a model, in words; nothing is changed."""
    # The names that the model's state will have when its layers are swapped, with dense shapes.
    shapes: dict[str, tuple[int, ...]] = {}
    layers = dict(model.named_modules(remove_duplicate=False))
    for name, value in model.state_dict(keep_vars=True).items():
        owner, _, leaf = name.rpartition(".")
        module = layers.get(owner)
        key = name + SUFFIX
        if leaf == BLOB and isinstance(module, Compressed):
            shapes[name] = module.shape
        elif leaf == "weight" and key in blobs:
            shapes[key] = tuple(value.shape)
            if type(module) not in HANDLERS:
                yield f"{key}: a {type(module).__name__} cannot be compressed"
        elif isinstance(value, torch.Tensor):
            shapes[name] = tuple(value.shape)
    if missing := sorted(shapes.keys() - state.keys()):
        yield f"missing {missing}"
    if unexpected := sorted(state.keys() - shapes.keys()):
        yield f"unexpected {unexpected}"
    for name in sorted(shapes.keys() & state.keys()):
        value = state[name]
        compressed = name in blobs
        shape = inspect_blob(value.numpy()).shape if compressed else tuple(value.shape)
        if shape != shapes[name]:
            yield f"{name}: has shape {shape}, the model {shapes[name]}"


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


def load(
    path: str | os.PathLike[str],
    model: nn.Module | None = None,
    *,
    max_bytes: int | None = None,
) -> nn.Module | Checkpoint:
    """Loads a file, checking every hash.

    Args:
        path: a file that :func:`save`, or the command line, wrote.
        model: a module of the same architecture, dense or compressed: its layers are swapped for
            compressed ones where the file holds blobs, and its state is loaded.
        max_bytes: refuse, before anything is decoded, a file whose tensors take more together: the
            stored bytes of each, and what decoding and packing each layer may hold.

    Returns:
        The model, or without one a :class:`Checkpoint`.

    Raises:
        FormatError: the file is malformed, was altered, or takes more than ``max_bytes``.
        ValueError: the file and the model do not fit; the message lists the names, and the model
            is as it was.
    """
    with container.open(path, max_bytes=max_bytes) as file:
        if max_bytes is not None:
            _check_size(file, max_bytes)
        file.verify()
        state: dict[str, torch.Tensor] = {}
        blobs: set[str] = set()
        for name, view in file.tensors.items():
            if view.compressed and inspect_blob(view.bytes()).is_vector:
                vector = decompress_weight(decode_blob(view.bytes()))
                state[name.removesuffix(SUFFIX)] = torch.from_numpy(vector)
                continue
            state[name] = to_torch(view)
            if view.compressed:
                blobs.add(name)
        aliases = _aliases(file, state)
    for name, target in aliases.items():
        state[name] = state[target]
        if target in blobs:
            blobs.add(name)
    if model is None:
        return Checkpoint(
            {name.removesuffix(SUFFIX): decode_blob(state[name].numpy()) for name in blobs},
            {name: tensor for name, tensor in state.items() if name not in blobs},
        )
    if misfits := list(_misfits(model, state, blobs)):
        raise ValueError(f"{path} does not fit the model: {'; '.join(misfits)}")

    def compressed(module: nn.Module, name: str) -> nn.Module | None:
        key = f"{name}.{BLOB}".removeprefix(".")
        if key not in blobs or isinstance(module, Compressed):
            return None
        # An empty layer of the right geometry; its blob comes with the state.
        return HANDLERS[type(module)](module, LayerConfig(density=0.0), name, None)

    model = swap_modules(model, compressed)
    model.load_state_dict(state)
    return model
