"""Tensors stored as what differs from another checkpoint's, the base: as fine-tunes need.

A difference is the exclusive-or of the bytes of two tensors of the same name, type and shape. It is
a tensor of that type and shape too, under a name that no loader asks for, and the metadata has a
hash of each tensor of the base that is needed to give the tensor back.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tersor._core import FormatError

if TYPE_CHECKING:
    from tersor.io.container import TensorView

Raw = npt.NDArray[np.uint8]

KEY = "tersor.base"
"""The key of a file's metadata: a JSON object of hashes, by the names of tensors."""

SUFFIX = "_difference"
"""The difference of tensor ``fc.weight`` is stored under ``fc.weight_difference``."""


@dataclass(frozen=True)
class Base:
    """A checkpoint that others are stored as differences from.

    Attributes:
        path: for messages.
        tensors: of the checkpoint.
    """

    path: object
    tensors: Mapping[str, TensorView]

    def of(self, name: str, dtype: str, shape: tuple[int, ...]) -> Raw | None:
        """The bytes of the tensor of that name, if it has this type and shape."""
        view = self.tensors.get(name)
        if view is None or view.compressed or (view.dtype, view.shape) != (dtype, shape):
            return None
        return view.bytes()

    def give_back(self, name: str, view: TensorView, digest: str) -> Raw:
        """The bytes of a tensor from its difference, uint8 ``[n]``.

        Raises:
            FormatError: the base has not the tensor that the difference was taken from.
        """
        if not self.has(name, view, digest):
            raise FormatError(
                f"{self.path}: '{name}' is not the tensor that the difference was taken from"
            )
        return np.bitwise_xor(view.bytes(), self.tensors[name].bytes())

    def has(self, name: str, view: TensorView, digest: str) -> bool:
        """Whether the tensor that a difference was taken from is this checkpoint's."""
        raw = self.of(name, view.dtype, view.shape)
        return raw is not None and digest_of(raw) == digest


def own_name(stored: str, differences: Container[str]) -> str:
    """The name of the tensor that is stored under a name, of a file with these differences."""
    name = stored.removesuffix(SUFFIX)
    return name if name in differences else stored


def own_names(tensors: Iterable[str], differences: Container[str]) -> list[str]:
    """The names of the tensors that a file holds."""
    return [own_name(name, differences) for name in tensors]


def digest_of(raw: Raw) -> str:
    """BLAKE2b of a tensor's bytes, in 16 hexadecimal digits."""
    return hashlib.blake2b(np.ascontiguousarray(raw).data, digest_size=8).hexdigest()


def write_digests(digests: Mapping[str, str]) -> dict[str, str]:
    """The entry of a file's metadata; empty where nothing is a difference."""
    if not digests:
        return {}
    return {KEY: json.dumps(dict(sorted(digests.items())), separators=(",", ":"))}


def read_digests(
    metadata: Mapping[str, str], tensors: Container[str], path: object
) -> dict[str, str]:
    """The hashes of a file, by the names of tensors that are stored as differences.

    Args:
        metadata: of the file.
        tensors: names that the file holds.
        path: for messages.

    Raises:
        FormatError: the entry is malformed, or names a tensor that is not there.
    """
    try:
        digests: Any = json.loads(metadata.get(KEY, "{}"))
        if not isinstance(digests, dict):
            raise ValueError("not an object")
        for name, digest in digests.items():
            if not isinstance(digest, str) or name + SUFFIX not in tensors:
                raise ValueError(f"'{name}' has no difference")
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: metadata '{KEY}': {error}") from None
    return dict(digests)
