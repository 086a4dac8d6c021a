"""The file: a valid ``.safetensors`` file in which compressed tensors are uint8 blobs.

docs/format.md has the bytes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tersor import _core


@dataclass(frozen=True)
class Tensor:
    """A tensor to write: the dtype as safetensors names it (``F32``), shape, bytes in row order."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes | memoryview | npt.NDArray[Any]


@dataclass(frozen=True)
class TensorView:
    """A tensor of an open file; nothing is decoded until :meth:`bytes` is read."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    compressed: bool
    _file: _core.File = field(repr=False, compare=False)

    def bytes(self) -> npt.NDArray[np.uint8]:
        """The stored bytes, uint8 ``[nbytes]``: a read-only view into the file."""
        return self._file.bytes(self.name)


class File:
    """An open file: what it holds, without decoding it.

    Attributes:
        tensors: by name, in the order of their names.
        metadata: the ``__metadata__`` of the file.
        file_bytes: its size.
        is_tersor: whether tersor wrote it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"{self.path}: no such file")
        self._file = _core.File.open(str(self.path))
        self.tensors = {
            entry["name"]: TensorView(**entry, _file=self._file) for entry in self._file.tensors()
        }
        self.metadata: dict[str, str] = self._file.metadata()
        self.file_bytes: int = self._file.file_bytes
        self.is_tersor: bool = self._file.is_tersor

    def verify(self) -> None:
        """Checks every hash that opening has not checked.

        Together they cover every byte of a file that tersor wrote; of others, the blobs alone.

        Raises:
            FormatError: a tensor's bytes are not those that were written.
        """
        self._file.verify()

    def __enter__(self) -> File:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to do: the mapping is released with the last view into it."""


def open(path: str | os.PathLike[str]) -> File:
    """Opens a file and checks its structure.

    Raises:
        FileNotFoundError: there is none.
        FormatError: it is malformed; the message names the byte.
    """
    return File(path)


def write_file(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    *,
    plain: bool = False,
) -> None:
    """Writes a file in one step: beside the target, synced to disk, renamed over it.

    The same input gives the same bytes.

    Args:
        tensors: by name.
        metadata: texts for the header's ``__metadata__``.
        plain: a file as the stock library writes it: an entry of the header for every tensor, and
            no hashes. Otherwise hashes cover the whole file, and tensors of less than 4096 bytes
            stand together in one, which only this library reads.

    Raises:
        OSError: the system refuses; nothing is left behind and an old file stays as it was.
        ValueError: what a reader would refuse: an unknown dtype, a shape that does not fit the
            bytes, a name or key of the format's own, text that has no UTF-8, more
            than 100 MB of names and metadata.
    """
    extra = dict(metadata or {})
    for text in (*tensors, *extra, *extra.values()):
        text.encode()  # a lone surrogate has no UTF-8, and no string of the compiled core
    listed = []
    for name, tensor in tensors.items():
        if isinstance(tensor.data, np.ndarray):
            raw = np.ascontiguousarray(tensor.data).reshape(-1).view(np.uint8)
        else:
            raw = np.frombuffer(tensor.data, np.uint8)
        listed.append((name, tensor.dtype, list(tensor.shape), raw))
    _core.write_file(str(path), listed, list(extra.items()), plain)
