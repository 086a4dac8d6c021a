"""What a blob holds, with a codebook that was trained since, and the blob of that."""

from __future__ import annotations

import weakref
from dataclasses import replace

import torch

from tersor.codec.blob import CompressedTensor, decode_blob, encode_blob
from tersor.ops.packed import stored

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
