"""A model's state as the tensors of a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.parameter import is_lazy

from tersor.codec.blob import SUFFIX, encode_blob, inspect_blob, is_blob
from tersor.codec.encode import compress_weight, decompress_weight
from tersor.codec.lossless import is_lossless
from tersor.config import Entropy, Kind, LayerConfig
from tersor.io import aliases, container
from tersor.io.container import Tensor

DTYPES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.uint16: "U16",
    torch.int16: "I16",
    torch.uint32: "U32",
    torch.int32: "I32",
    torch.uint64: "U64",
    torch.int64: "I64",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.complex64: "C64",
}
if hasattr(torch, "float8_e8m0fnu"):  # from torch 2.7 on
    DTYPES[torch.float8_e8m0fnu] = "F8_E8M0"
TORCH_DTYPES = {name: dtype for dtype, name in DTYPES.items()}


def check_storable(value: object, name: str) -> None:
    """Refuses what a file of tensors cannot hold.

    Raises:
        ValueError: the message has the name, and what to do.
    """
    if not isinstance(value, torch.Tensor):
        raise ValueError(
            f"{name}: a {type(value).__name__} is not a tensor and cannot be saved; let "
            "get_extra_state() return a tensor, for example of the uint8 bytes of its JSON"
        )
    if is_lazy(value):
        raise ValueError(f"{name}: cannot be saved: it is not initialized; run the model once")
    if value.layout != torch.strided or value.dtype not in DTYPES:
        raise ValueError(
            f"{name}: a tensor of {value.dtype} in {value.layout} cannot be saved: safetensors "
            "has no such type"
        )
    if value.is_meta:
        raise ValueError(f"{name}: cannot be saved: it is on the meta device, which holds no data")


def to_file_tensor(tensor: torch.Tensor, name: str) -> Tensor:
    """A torch tensor as the container writes it, in its own type; copied only where it must be.

    Raises:
        ValueError: it is no tensor, safetensors has no name for its type, its layout is not
            strided, or it holds no data (the meta device, a wrapper subclass).
    """
    check_storable(tensor, name)
    try:
        plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
        # What has one element or none may have any stride, and a view as bytes needs 1.
        raw = plain.as_strided((plain.numel(),), (1,)).view(torch.uint8).numpy()
    except (NotImplementedError, RuntimeError, TypeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{name}: a {type(tensor).__name__} cannot be saved: {reason}") from error
    return Tensor(DTYPES[tensor.dtype], tuple(tensor.shape), raw)


def to_torch(view: container.TensorView) -> torch.Tensor:
    """A tensor of a file, copied; one that is stored without loss is decoded.

    Raises:
        FormatError: it is malformed.
        ValueError: torch has no such type.
    """
    if view.dtype not in TORCH_DTYPES:
        raise ValueError(f"{view.name}: torch has no type for {view.dtype}")
    raw = view.bytes() if view.lossless else np.array(view.bytes())
    return from_raw(raw, view.dtype, view.shape)


def from_raw(raw: npt.NDArray[np.uint8], dtype: str, shape: Sequence[int]) -> torch.Tensor:
    """The tensor whose memory these bytes, uint8 ``[n]``, are."""
    if not raw.size:  # no bytes can be viewed as another type
        return torch.empty(tuple(shape), dtype=TORCH_DTYPES[dtype])
    return torch.from_numpy(raw).view(TORCH_DTYPES[dtype]).reshape(tuple(shape))


def storage_key(tensor: torch.Tensor) -> tuple[object, ...]:
    """What two tensors have in common that are one: the same elements of the same storage.

    The storage itself is compared and not the address of its data, which is 0 for every tensor
    that has none of its own (wrapper subclasses).
    """
    storage = tensor.untyped_storage()._cdata
    place = (tensor.storage_offset(), tuple(tensor.shape), tensor.stride())
    return (storage, tensor.dtype, *place, tensor.is_conj(), tensor.is_neg())


def _coded(value: torch.Tensor, entropy: Entropy) -> Tensor | None:
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
    kind: Kind = "shared_fp16" if half else "shared_fp32"
    settings = LayerConfig(codebook_size=255, kind=kind, entropy=entropy)
    layer = compress_weight(dense, settings)
    blob = encode_blob(layer)
    # Zeros lose their sign in a blob: such a vector stays as it is.
    lossless = decompress_weight(layer).tobytes() == dense.tobytes()
    return Tensor("U8", blob.shape, blob) if lossless and blob.size < dense.nbytes else None


def _smallest(value: torch.Tensor, name: str, entropy: Entropy) -> Tensor:
    """A tensor without loss, in the fewest bytes."""
    stored = to_file_tensor(value, name)
    forms = (stored.coded(threads=torch.get_num_threads()), _coded(value, entropy))
    return min((form for form in forms if form is not None), key=lambda form: form.nbytes)


def _entropy_of(state: Mapping[str, torch.Tensor]) -> Entropy:
    """The coder of the vectors beside layers: what was asked for one of these."""
    for name, value in state.items():
        if name.endswith(SUFFIX) and isinstance(value, torch.Tensor) and value.dtype == torch.uint8:
            blob = value.detach().cpu().numpy()
            if is_blob(blob) and not is_lossless(blob) and inspect_blob(blob).entropy == "smallest":
                return "smallest"
    return "huffman"


def file_tensors(
    state: Mapping[str, torch.Tensor], *, plain: bool = False
) -> tuple[dict[str, Tensor], dict[str, str] | None]:
    """The tensors and the metadata that a model's ``state_dict`` makes in a file.

    A tensor that the state holds under several names is written once, and coded, without loss,
    where that is smaller.

    Args:
        state: tensors by name.
        plain: leave all as they are, for readers other than this library.

    Raises:
        ValueError: the state holds what is no tensor (extra state), or a tensor of a type that
            cannot be saved; the message has its name.
    """
    entropy = _entropy_of(state)
    tensors: dict[str, Tensor] = {}
    aliased: dict[str, str] = {}
    first: dict[tuple[object, ...], str] = {}
    for name, value in sorted(state.items()):
        check_storable(value, name)
        same = first.setdefault(storage_key(value), name) if value.numel() else name
        if same != name:
            aliased[name] = same
            continue
        # A blob's name that something else in the state has cannot be given away.
        as_it_is = plain or name + SUFFIX in state or name.endswith(SUFFIX)
        stored = to_file_tensor(value, name) if as_it_is else _smallest(value, name, entropy)
        coded = not as_it_is and stored.is_blob(name + SUFFIX)
        tensors[name + SUFFIX if coded else name] = stored
    return tensors, aliases.write_aliases(aliased) or None
