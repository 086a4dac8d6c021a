"""What a blob holds, with a codebook that was trained since, and the blob of that."""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import Any

import torch

from tersor.codec.blob import CompressedTensor, decode_blob, encode_blob
from tersor.codec.encode import decompress_weight
from tersor.ops.packed import MATRICES, ROWS, TRANSPOSED, PackedForms, stored
from tersor.ops.torch_internals import version_of

# By the tensor of a blob: that tensor, and the blob that was last encoded with another codebook.
_ENCODED: dict[int, tuple[weakref.ref[torch.Tensor], weakref.ref[torch.Tensor]]] = {}


def content_of(blob: torch.Tensor, values: torch.Tensor | None = None) -> CompressedTensor:
    """The decoded content of a blob.

    Args:
        blob: uint8 ``[n]``.
        values: ``[k]``, in place of the blob's codebook entries.

    Raises:
        FormatError: the blob is malformed.
        RuntimeError: it is empty, or on the meta device.
    """
    content = decode_blob(stored(blob))
    if values is None:
        return content
    return replace(content, values=values.detach().cpu().float().numpy().copy())


def encoded(blob: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """A blob with other codebook entries, uint8 ``[n]``, which outlives inference mode.

    The same tensor while somebody holds it and its content is right, so that layers that share a
    blob share it in a state dictionary too. Arguments and errors as of :func:`content_of`.
    """
    with torch.inference_mode(False):
        made = torch.from_numpy(encode_blob(content_of(blob, values)))
    key = id(blob)
    entry = _ENCODED.get(key)
    last = entry[1]() if entry is not None and entry[0]() is blob else None
    if last is not None and last.is_cpu and torch.equal(last, made):
        return last
    source = weakref.ref(blob, lambda _: _ENCODED.pop(key, None))
    _ENCODED[key] = (source, weakref.ref(made))
    return made


# By the tensor of a blob: that tensor, its version and its memory, and what it decodes to.
_DENSE: dict[int, tuple[weakref.ref[torch.Tensor], int, torch.Tensor, torch.Tensor]] = {}


def dense_of(blob: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The dense weight of a blob, decoded when it is first asked for and kept as long as the blob.

    Args:
        blob: uint8 ``[n]``.
        dtype: of the weight.
    """
    key = id(blob)
    entry = _DENSE.get(key)
    if (
        entry is not None
        and entry[0]() is blob
        and entry[1] == version_of(blob)
        and entry[2].data_ptr() == blob.data_ptr()
        and entry[3].dtype == dtype
    ):
        return entry[3]
    with torch.inference_mode(False):
        dense = torch.from_numpy(decompress_weight(content_of(blob))).to(dtype)
    reference = weakref.ref(blob, lambda _: _DENSE.pop(key, None))
    _DENSE[key] = (reference, version_of(blob), blob.detach(), dense)
    return dense


def forget_dense(blob: torch.Tensor) -> None:
    """Gives the memory of :func:`dense_of` back."""
    _DENSE.pop(id(blob), None)


def is_decoded(blob: torch.Tensor) -> bool:
    """Whether :func:`dense_of` holds the dense weight of a blob."""
    return id(blob) in _DENSE


def held_bytes(blob: torch.Tensor) -> int:
    """Bytes of all that is kept for a blob beside it: packed forms, and a decoded weight."""
    forms: tuple[PackedForms[Any], ...] = (MATRICES, ROWS, TRANSPOSED)
    entries = [form.by_blob.get(id(blob)) for form in forms]
    packed = [entry[3] for entry in entries if entry is not None and entry[0]() is blob]
    dense = _DENSE[id(blob)][3].nbytes if is_decoded(blob) else 0
    return int(sum(form.nbytes for form in packed if form is not None)) + dense
