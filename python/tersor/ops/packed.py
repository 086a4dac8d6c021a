"""Packed matrices by blob, for as long as the blob lives."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import torch

from tersor import _core
from tersor.kernels.spmm import pack_blob
from tersor.ops.torch_internals import version_of

NO_DATA = (
    "this compressed layer is on the meta device and has no data: load the model from its file "
    "(tersor.load_model)"
)

# With the version of the blob, and its memory: assigning `.data`, and loading in inference mode,
# change the memory alone. It is kept, so that no other blob comes to lie at its address.
_PACKED: dict[int, tuple[weakref.ref[torch.Tensor], int, torch.Tensor, _core.PackedMatrix]] = {}
# The same with other values, by the tensor of the values. Compared by their bytes: there are few of
# them, and what is written by way of `.data`, or in inference mode, changes no version.
_REVALUED: dict[
    int, tuple[weakref.ref[torch.Tensor], bytes, _core.PackedMatrix, _core.PackedMatrix]
] = {}


def stored(blob: torch.Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The bytes of a blob.

    Raises:
        RuntimeError: there are none yet, or they are on the meta device.
    """
    if blob.is_meta:
        raise RuntimeError(NO_DATA)
    if not blob.numel():
        raise RuntimeError("this compressed layer has no weight yet: load one (tersor.load_model)")
    return blob.detach().cpu().numpy()


def packed_of(blob: torch.Tensor, values: torch.Tensor | None = None) -> _core.PackedMatrix:
    """The packed matrix of a blob, made when it is first asked for.

    Args:
        blob: uint8 ``[n]``.
        values: ``[k]``, in place of the blob's shared values.

    Raises:
        RuntimeError: the blob is empty, or a tensor is on the meta device.
        FormatError: it is malformed.
        ValueError: the values are not as many as the blob's, or not finite.
    """
    key = id(blob)
    entry = _PACKED.get(key)
    if (
        entry is not None
        and entry[0]() is blob
        and entry[1] == version_of(blob)
        and entry[2].data_ptr() == blob.data_ptr()
    ):
        packed = entry[3]
    else:
        packed = pack_blob(stored(blob), threads=torch.get_num_threads())
        reference = weakref.ref(blob, lambda _: _PACKED.pop(key, None))
        _PACKED[key] = (reference, version_of(blob), blob.detach(), packed)
    return packed if values is None else _revalued(packed, values)


def _revalued(packed: _core.PackedMatrix, values: torch.Tensor) -> _core.PackedMatrix:
    if values.is_meta:
        raise RuntimeError(NO_DATA)
    current = values.detach().cpu().float().numpy()
    content = current.tobytes()
    key = id(values)
    entry = _REVALUED.get(key)
    if entry is not None and entry[0]() is values and entry[1] == content and entry[2] is packed:
        return entry[3]
    codebook = np.zeros(len(current) + 1, np.float32)
    codebook[1:] = current
    revalued = packed.with_codebook(codebook)
    reference = weakref.ref(values, lambda _: _REVALUED.pop(key, None))
    _REVALUED[key] = (reference, content, packed, revalued)
    return revalued
