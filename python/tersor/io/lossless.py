"""Torch tensors without loss: encoded from their own memory, decoded into that of new ones."""

from __future__ import annotations

import torch

from tersor.codec import lossless
from tersor.io.state_dict import TORCH_DTYPES, from_raw, to_file_tensor


def encode_tensor(tensor: torch.Tensor, *, threads: int = 1) -> torch.Tensor:
    """Encodes a tensor of any type that safetensors has as a blob, uint8 ``[n]``.

    A contiguous tensor on the CPU is not copied.

    Raises:
        ValueError: it cannot be stored (:func:`tersor.io.state_dict.check_storable`).
    """
    stored = to_file_tensor(tensor, "tensor")
    blob = lossless.encode(stored.raw(), stored.dtype, stored.shape, threads=threads)
    return torch.from_numpy(blob)


@torch.inference_mode(False)  # what is made in inference mode could never be trained
def decode_tensor(
    blob: torch.Tensor, *, max_bytes: int | None = None, threads: int = 1, verify: bool = True
) -> torch.Tensor:
    """The tensor that a blob, uint8 ``[n]``, stands for, bit by bit.

    Args:
        blob: on the CPU.
        max_bytes: refuse a larger tensor before it is allocated. None = 1 GiB and 256 bytes for
            each byte of the blob.
        threads: at most this many.
        verify: check the checksums.

    Raises:
        FormatError: the blob is malformed, or needs more; the message names the byte.
        ValueError: torch has no such type.
    """
    source = blob.numpy()
    info = lossless.inspect(source)
    if info.dtype not in TORCH_DTYPES:
        raise ValueError(f"torch has no type for {info.dtype}")
    raw = lossless.decode(source, max_bytes=max_bytes, threads=threads, verify=verify)
    return from_raw(raw, info.dtype, info.shape)
