"""What a blob holds, with a codebook that was trained since."""

from __future__ import annotations

from dataclasses import replace

import torch

from tersor.codec.blob import CompressedTensor, decode_blob
from tersor.ops.packed import stored


def content_of(blob: torch.Tensor, values: torch.Tensor | None = None) -> CompressedTensor:
    """The decoded content of a blob.

    Args:
        blob: uint8 ``[n]``.
        values: ``[k]``, in place of the blob's codebook entries.

    Raises:
        FormatError: the blob is malformed.
        RuntimeError: there is none yet, or it is on the meta device.
    """
    content = decode_blob(stored(blob))
    if values is None:
        return content
    return replace(content, values=values.detach().cpu().float().numpy().copy())
