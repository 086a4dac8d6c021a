"""Packed forms by blob, for as long as the blob lives."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch

from tersor import _core
from tersor.codec.blob import decode_blob
from tersor.codec.encode import transposed
from tersor.kernels.rows import rows_of_blob
from tersor.kernels.spmm import pack_blob
from tersor.ops.torch_internals import version_of

NO_DATA = (
    "this compressed layer is on the meta device and has no data: load the model from its file "
    "(tersor.load_model)"
)


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


class _Packed(Protocol):
    """A packed form."""

    def with_codebook(self, arg0: Any) -> Any: ...


_Form = TypeVar("_Form", bound=_Packed)


class PackedForms(Generic[_Form]):
    """Packed forms of one type, by the tensor of the blob.

    Each stands with the version of the blob, and its memory: assigning ``.data``, and loading in
    inference mode, change the memory alone. It is kept, so that no other blob comes to lie at its
    address. Those with other values stand by the tensor of these, compared by their bytes: there
    are few of them, and what is written by way of ``.data``, or in inference mode, changes no
    version.
    """

    def __init__(self, pack: Callable[[np.ndarray[Any, np.dtype[np.uint8]]], _Form]) -> None:
        self._pack = pack
        self.by_blob: dict[int, tuple[weakref.ref[torch.Tensor], int, torch.Tensor, _Form]] = {}
        self.by_values: dict[int, tuple[weakref.ref[torch.Tensor], bytes, _Form, _Form]] = {}

    def of(self, blob: torch.Tensor, values: torch.Tensor | None = None) -> _Form:
        """The packed form of a blob, made when it is first asked for.

        Args:
            blob: uint8 ``[n]``.
            values: ``[k]``, in place of the blob's shared values.

        Raises:
            RuntimeError: the blob is empty, or a tensor is on the meta device.
            FormatError: it is malformed.
            ValueError: the values are not as many as the blob's, or not finite.
        """
        key = id(blob)
        entry = self.by_blob.get(key)
        if (
            entry is not None
            and entry[0]() is blob
            and entry[1] == version_of(blob)
            and entry[2].data_ptr() == blob.data_ptr()
        ):
            packed = entry[3]
        else:
            packed = self._pack(stored(blob))
            reference = weakref.ref(blob, lambda _: self.by_blob.pop(key, None))
            self.by_blob[key] = (reference, version_of(blob), blob.detach(), packed)
        return packed if values is None else self._revalued(packed, values)

    def _revalued(self, packed: _Form, values: torch.Tensor) -> _Form:
        if values.is_meta:
            raise RuntimeError(NO_DATA)
        current = values.detach().cpu().float().numpy()
        content = current.tobytes()
        key = id(values)
        entry = self.by_values.get(key)
        if (
            entry is not None
            and entry[0]() is values
            and entry[1] == content
            and entry[2] is packed
        ):
            return entry[3]
        codebook = np.zeros(len(current) + 1, np.float32)
        codebook[1:] = current
        revalued: _Form = packed.with_codebook(codebook)
        reference = weakref.ref(values, lambda _: self.by_values.pop(key, None))
        self.by_values[key] = (reference, content, packed, revalued)
        return revalued


MATRICES: PackedForms[_core.PackedMatrix] = PackedForms(
    lambda blob: pack_blob(blob, threads=torch.get_num_threads())
)
"""For products."""
ROWS: PackedForms[Any] = PackedForms(
    lambda blob: rows_of_blob(blob, threads=torch.get_num_threads())
)
"""For look-ups; None of a blob without a codebook."""

TRANSPOSED: PackedForms[_core.PackedMatrix] = PackedForms(
    lambda blob: pack_blob(transposed(decode_blob(blob)), threads=torch.get_num_threads())
)
"""For products with the transposed matrix."""

packed_of = MATRICES.of
transposed_of = TRANSPOSED.of
rows_of = ROWS.of
