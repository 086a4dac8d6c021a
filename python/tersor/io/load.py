"""Loading files: into a model, or alone."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import overload

import torch
from torch import nn

from tersor.codec.blob import CompressedTensor, decode_blob
from tersor.config import PRECISIONS, Precision
from tersor.io.content import read_content
from tersor.io.plan import Plan
from tersor.nn.compression import Compression, freeze, remember


@dataclass(frozen=True)
class Checkpoint:
    """A file without a model: compressed weights by their name, other tensors.

    What the saved model held under several names stands under each of them.
    """

    layers: dict[str, CompressedTensor]
    tensors: dict[str, torch.Tensor]


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
    layers = {name: decode_blob(blob.numpy()) for name, blob in content.blobs.items()}
    return Checkpoint(layers, content.tensors)


def load_model(
    path: str | os.PathLike[str],
    model: nn.Module,
    *,
    precision: Precision | None = None,
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
    if precision is not None and precision not in PRECISIONS:
        raise ValueError(f"precision '{precision}' is none of {', '.join(PRECISIONS)}")
    plan = Plan(read_content(path, max_bytes), model)
    if problems := plan.misfits(strict):
        raise ValueError(f"{path} does not fit the model: {'; '.join(problems)}")
    made = plan.carry_out(precision)
    frozen = () if trainable else freeze(made)
    remember(made, Compression(plan.content.config, plan.left, None, frozen))
    return made


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
    trainable: bool = False,
    strict: bool = True,
    max_bytes: int | None = None,
) -> nn.Module: ...


def load(
    path: str | os.PathLike[str],
    model: nn.Module | None = None,
    *,
    precision: Precision | None = None,
    trainable: bool = False,
    strict: bool = True,
    max_bytes: int | None = None,
) -> nn.Module | Checkpoint:
    """:func:`load_model` where a model is given, else :func:`load_file`."""
    if model is None:
        return load_file(path, max_bytes=max_bytes)
    return load_model(
        path, model, precision=precision, trainable=trainable, strict=strict, max_bytes=max_bytes
    )
