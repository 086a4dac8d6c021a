"""What a blob holds, with a codebook that was trained since, and the blob of that."""

from __future__ import annotations

import weakref
from dataclasses import replace

import torch

from tersor.codec.blob import CompressedTensor, decode_blob, encode_blob
from tersor.ops.packed import stored
from tersor.ops.torch_internals import version_of

# By the tensor of a blob: that tensor, what the codebook was, the blob with it, and the versions of
# both tensors.
_Entry = tuple["weakref.ref[torch.Tensor]", bytes, "weakref.ref[torch.Tensor]", tuple[int, int]]
_ENCODED: dict[int, _Entry] = {}


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

    The same tensor as long as somebody holds it and nothing has changed, so that layers that share
    a blob share it in a state dictionary too. Arguments and errors as of :func:`content_of`.
    """
    key, current = id(blob), values.detach().cpu().float().numpy().tobytes()
    if (entry := _ENCODED.get(key)) is not None and entry[0]() is blob and entry[1] == current:
        made = entry[2]()
        if made is not None and entry[3] == (version_of(blob), version_of(made)):
            return made
    with torch.inference_mode(False):
        made = torch.from_numpy(encode_blob(content_of(blob, values)))
    source = weakref.ref(blob, lambda _: _ENCODED.pop(key, None))
    versions = (version_of(blob), version_of(made))
    _ENCODED[key] = (source, current, weakref.ref(made), versions)
    return made
