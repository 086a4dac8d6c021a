"""A model's state as the tensors of a file."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from tersor.codec.blob import SUFFIX, encode_blob
from tersor.codec.encode import compress_weight, decompress_weight
from tersor.config import LayerConfig
from tersor.io import container
from tersor.io.container import Tensor

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


def _coded(value: torch.Tensor) -> Tensor | None:
    """A vector of few distinct values as a blob that decodes to the same bits; None: not smaller.

    Biases whose values are shared, and the buffers of untouched norms, are such vectors.
    """
    if value.dtype != torch.float32 or value.dim() != 1 or not value.numel():
        return None
    dense = value.detach().cpu().contiguous().numpy()
    if not np.isfinite(dense).all() or len(np.unique(dense)) > 255:
        return None
    with np.errstate(over="ignore"):  # a value too large for fp16 is one that it cannot hold
        half = bool((dense.astype(np.float16).astype(np.float32) == dense).all())
    settings = LayerConfig(codebook_size=255, kind="shared_fp16" if half else "shared_fp32")
    layer = compress_weight(dense, settings)
    blob = encode_blob(layer)
    # Zeros lose their sign in a blob: such a vector stays as it is.
    lossless = decompress_weight(layer).tobytes() == dense.tobytes()
    return Tensor("U8", blob.shape, blob) if lossless and blob.size < dense.nbytes else None


def file_tensors(
    state: Mapping[str, torch.Tensor],
) -> tuple[dict[str, Tensor], dict[str, str] | None]:
    """The tensors and the metadata that a model's ``state_dict`` makes in a file.

    A tensor that the state holds under several names is written once. A vector of few distinct
    values (a bias whose values are shared) is coded, without loss, where that is smaller.

    Raises:
        ValueError: a tensor has a type that cannot be saved.
    """
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[tuple[object, ...], str] = {}
    for name, value in sorted(state.items()):
        key = (value.data_ptr(), value.dtype, tuple(value.shape), value.stride())
        if value.numel() and key in first:
            aliases[name] = first[key]
            continue
        first[key] = name
        coded = _coded(value)
        if coded is None:
            tensors[name] = to_file_tensor(value, name)
        else:
            tensors[name + SUFFIX] = coded
    return tensors, {ALIASES: json.dumps(aliases, sort_keys=True)} if aliases else None


def state_bytes(state: Mapping[str, torch.Tensor]) -> int:
    """Bytes of the file that a state makes, which is really written, and thrown away."""
    with tempfile.TemporaryDirectory(prefix="tersor-") as folder:
        path = Path(folder) / "state.safetensors"
        container.write_file(path, *file_tensors(state))
        return path.stat().st_size
