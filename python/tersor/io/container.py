"""The file: a valid ``.safetensors`` file in which compressed tensors are uint8 blobs.

docs/format.md has the bytes.
"""

from __future__ import annotations

import errno
import fnmatch
import json
import os
import re
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tersor import _core
from tersor._core import FormatError
from tersor.codec import lossless
from tersor.codec.blob import (
    SUFFIX,
    CompressedTensor,
    decode_blob,
    decode_rows,
    inspect_blob,
    is_blob,
)
from tersor.io.differences import own_names, read_digests
from tersor.io.file_size import StoredSize, stored_bytes

INDEX = "model.safetensors.index.json"
"""The usual name of the index of a checkpoint of several files."""

_MAX_INDEX_BYTES = 100_000_000  # as a file's header
_LIST_ALLOWED = 1 << 20  # for the list of tensors, whatever the caller's limit
_MAX_DIMENSIONS = 8  # of a blob
_SHARD = re.compile(r"\w[\w.-]*\.safetensors", re.ASCII)


def _list_limit(max_bytes: int | None) -> int:
    """What listing the tensors of a file may take."""
    return sys.maxsize if max_bytes is None else max(max_bytes, _LIST_ALLOWED)


@dataclass(frozen=True)
class Tensor:
    """A tensor to write: the dtype as safetensors names it (``F32``), shape, bytes in row order."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes | memoryview | npt.NDArray[Any]

    @property
    def nbytes(self) -> int:
        """Bytes of the data."""
        return len(self.data) if isinstance(self.data, bytes) else self.data.nbytes

    def raw(self) -> npt.NDArray[np.uint8]:
        """The bytes, uint8 ``[n]``: a view where they are contiguous."""
        if isinstance(self.data, np.ndarray):
            return np.ascontiguousarray(self.data).reshape(-1).view(np.uint8)
        return np.frombuffer(self.data, np.uint8)

    def coded(self, *, threads: int = 1) -> Tensor:
        """The tensor as a blob that decodes to the same bits; itself where that is not smaller."""
        if len(self.shape) > _MAX_DIMENSIONS or not self.nbytes:
            return self
        blob = lossless.encode(self.raw(), self.dtype, self.shape, threads=threads)
        return Tensor("U8", blob.shape, blob) if blob.nbytes < self.nbytes else self

    def is_blob(self, name: str) -> bool:
        """Whether a reader takes this for a compressed tensor, under such a name."""
        named = name.endswith(SUFFIX) and self.dtype == "U8" and len(self.shape) == 1
        return named and is_blob(self.raw()[:16])

    def is_lossless(self, name: str) -> bool:
        """Whether a reader takes this for a tensor that is stored without loss."""
        return self.is_blob(name) and lossless.is_lossless(self.raw()[:16])


@dataclass(frozen=True)
class TensorView:
    """A tensor of an open file; nothing is decoded until it is asked for.

    One that is stored without loss has the name, the type and the shape of the tensor.

    Attributes:
        nbytes: its bytes in the file, of which the first is byte ``offset``.
        compressed: whether it is the blob of a layer or a coded vector.
        lossless: whether it is stored as a blob that :meth:`bytes` decodes.
        dense_bytes: what :meth:`bytes` gives.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    offset: int
    compressed: bool
    _file: _core.File = field(repr=False, compare=False)
    _max_bytes: int | None = field(default=None, repr=False, compare=False)
    lossless: bool = False
    dense_bytes: int = 0

    @property
    def stored_name(self) -> str:
        """The tensor's name in the file."""
        return self.name + SUFFIX if self.lossless else self.name

    def stored(self) -> npt.NDArray[np.uint8]:
        """The stored bytes, uint8 ``[nbytes]``: a read-only view into the file."""
        return self._file.bytes(self.stored_name)

    def bytes(self, *, threads: int = 1) -> npt.NDArray[np.uint8]:
        """The tensor's bytes, uint8 ``[dense_bytes]``: a read-only view into the file, or decoded.

        Raises:
            FormatError: it is stored without loss, and malformed or larger than ``max_bytes``.
        """
        stored = self.stored()
        if not self.lossless:
            return stored
        return lossless.decode(stored, max_bytes=self._max_bytes, threads=threads)

    def row_bytes(self, first: int, count: int, *, threads: int = 1) -> npt.NDArray[np.uint8]:
        """The bytes of some rows: of what is stored without loss, their blocks alone are decoded.

        Raises:
            ValueError: the rows are out of range.
        """
        if self.lossless:
            limit = self._max_bytes
            stored = self.stored()
            return lossless.decode_rows(stored, first, count, max_bytes=limit, threads=threads)
        rows = self.shape[0] if self.shape else 1
        if first < 0 or count < 0 or first + count > rows:
            raise ValueError(f"{self.name}: no rows {first} to {first + count}, but {rows}")
        width = self.nbytes // rows if rows else 0
        return self.stored()[first * width : (first + count) * width]

    def layer(self, *, threads: int = 1) -> CompressedTensor:
        """Decodes a compressed tensor, within the ``max_bytes`` of :func:`open`.

        Raises:
            FormatError: the blob is malformed, or needs more; the message names the byte.
        """
        return decode_blob(self.bytes(), max_bytes=self._max_bytes, threads=threads)

    def rows(
        self, first: int, count: int, *, verify: bool = True, threads: int = 1
    ) -> CompressedTensor:
        """Decodes a range of rows alone: :func:`tersor.codec.blob.decode_rows`."""
        return decode_rows(
            self.bytes(), first, count, verify=verify, max_bytes=self._max_bytes, threads=threads
        )

    def needed_bytes(self) -> int:
        """What a copy of the stored bytes takes; of a compressed tensor, decoding it besides, and
        of a layer's weight packing it, at most, for the instruction set in use."""
        if self.lossless:
            return self.nbytes + self.dense_bytes
        if not self.compressed:
            return self.nbytes
        info = inspect_blob(self.bytes(), verify=False)
        packing = 0 if info.is_vector else info.packing_bytes
        return self.nbytes + info.decoded_bytes + packing

    def release(self) -> None:
        """Lets the system take back the memory of the mapped bytes, until they are read again."""
        self._file.release(self.stored_name)


class File:
    """An open file: what it holds, without decoding it.

    Attributes:
        paths: of what was opened.
        tensors: by name, in the order of their names.
        metadata: the ``__metadata__`` of the file.
        differences: hashes by the names of tensors stored so (:mod:`tersor.io.differences`).
        file_bytes: its size.
        is_tersor: whether tersor wrote it.
    """

    def __init__(self, path: str | os.PathLike[str], max_bytes: int | None = None) -> None:
        self.path = Path(path)
        self.paths: tuple[Path, ...] = (self.path,)
        check_readable(self.path)
        self._file = _core.File.open(str(self.path), _list_limit(max_bytes))
        views = [self._view(entry, max_bytes) for entry in self._file.tensors()]
        self.tensors = {view.name: view for view in sorted(views, key=lambda view: view.name)}
        if len(self.tensors) < len(views):
            raise FormatError(f"{self.path}: a tensor is stored twice, as it is and as a blob")
        self.metadata: dict[str, str] = self._file.metadata()
        self.differences = read_digests(self.metadata, self.tensors, self.path)
        self.file_bytes: int = self._file.file_bytes
        self.is_tersor: bool = self._file.is_tersor

    def _view(self, entry: dict[str, Any], max_bytes: int | None) -> TensorView:
        """A tensor as the core lists it; of one that is stored without loss, the tensor."""
        if entry["lossless"]:
            name = entry["name"].removesuffix(SUFFIX)
            try:
                info = lossless.inspect(self._file.bytes(entry["name"]))
            except FormatError as error:
                raise FormatError(f"{self.path}: {entry['name']}: {error}") from None
            entry |= {"name": name, "dtype": info.dtype, "shape": info.shape, "compressed": False}
            entry["dense_bytes"] = info.nbytes
        else:
            entry["dense_bytes"] = entry["nbytes"]
        return TensorView(**entry, _file=self._file, _max_bytes=max_bytes)

    def verify(self) -> None:
        """Checks all checksums that opening has not checked.

        Together they cover every byte of a file that tersor wrote; of others, the blobs alone.

        Raises:
            FormatError: a tensor's bytes are not those that were written.
        """
        self._file.verify()

    def __enter__(self) -> File:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to do: the mapping is released with the last view into it."""


def check_readable(path: Path) -> None:
    """Opens a file for reading and closes it, so that what the system refuses is told as such.

    Raises:
        OSError: there is no such file, it is not a regular one, or the system refuses.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        code = errno.EISDIR if path.is_dir() else errno.EINVAL
        raise OSError(code, os.strerror(code), str(path))
    with path.open("rb"):
        pass


def read_index(path: Path, max_bytes: int | None = None) -> dict[str, str]:
    """The shard of each tensor, by the names of tensors, as a checkpoint's index has them.

    Raises:
        FormatError: it is malformed, or names a file that does not stand beside it.
    """
    most = min(_list_limit(max_bytes), _MAX_INDEX_BYTES)
    if path.stat().st_size > most:
        raise FormatError(f"{path}: an index of more than {most} bytes, at byte {most}")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) < len(pairs):
            raise FormatError(f"{path}: a name occurs twice")
        return members

    try:
        content = json.loads(path.read_bytes(), object_pairs_hook=unique)
    except FormatError:
        raise
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: {error}") from None
    names = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(names, dict):
        raise FormatError(f"{path}: not an index: it has no weight_map")
    for shard in names.values():
        if not isinstance(shard, str) or not _SHARD.fullmatch(shard):
            raise FormatError(f"{path}: {shard!r} is not the name of a file beside it")
    return names


class Sharded(File):
    """An open checkpoint of several files, used as one :class:`File`.

    Attributes:
        paths: of the index and the shards.
        shards: the files by their names.
        metadata: of the first shard.
    """

    def __init__(self, path: Path, max_bytes: int | None = None) -> None:
        self.path = path
        check_readable(path)
        shard_of = read_index(path, max_bytes)
        self.shards = {
            name: File(path.parent / name, max_bytes) for name in sorted(set(shard_of.values()))
        }
        self.paths = (path, *(file.path for file in self.shards.values()))
        files = self.shards.values()
        found = {name: view for file in files for name, view in file.tensors.items()}
        own = {shard: own_names(f.tensors, f.differences) for shard, f in self.shards.items()}
        held = sorted((name, shard) for shard, names in own.items() for name in names)
        if held != sorted(shard_of.items()):
            raise FormatError(f"{path}: the tensors of the shards are not those of the index")
        self.tensors = dict(sorted(found.items()))
        self.differences = {n: h for file in files for n, h in file.differences.items()}
        self.metadata = next((file.metadata for file in files), {})
        self.file_bytes = path.stat().st_size + sum(file.file_bytes for file in files)
        self.is_tersor = all(file.is_tersor for file in files)

    def verify(self) -> None:
        """Checks all checksums of all shards that opening has not checked."""
        for file in self.shards.values():
            file.verify()


def find_model(path: Path) -> Path:
    """The file to open: the path itself, or of a folder the model in it.

    That is its index, or else ``model.safetensors``, or else its only ``.safetensors`` file.

    Raises:
        FileNotFoundError: the folder holds no model, or several.
        OSError: the system refuses to list it.
    """
    if not path.is_dir():
        return path
    files = sorted(os.listdir(path))
    for pattern in (INDEX, "*.safetensors.index.json", "model.safetensors", "*.safetensors"):
        found = fnmatch.filter(files, pattern)
        if len(found) == 1:
            return path / found[0]
        if found:
            names = ", ".join(found[:4])
            raise FileNotFoundError(
                f"{path}: holds {len(found)} models ({names}): name one of them"
            )
    raise FileNotFoundError(f"{path}: the folder holds no .safetensors file")


def open(path: str | os.PathLike[str], *, max_bytes: int | None = None) -> File:
    """Opens a file, or a checkpoint of several, and checks its structure; nothing is decoded.

    Args:
        path: a ``.safetensors`` file, the ``.json`` index of a checkpoint, or a folder that holds
            one model (:func:`find_model`).
        max_bytes: what each of these may allocate: the list of tensors while a file is opened, but
            for the first megabyte, and decoding a layer for its content
            (:func:`tersor.codec.blob.decode_blob`). None = no bound for the list, and for a
            layer 1 GiB and 256 bytes for each byte of its blob.

    Raises:
        FileNotFoundError: there is none.
        OSError: the system refuses to open it.
        FormatError: it is malformed; the message names the byte.
    """
    path = find_model(Path(path))
    return Sharded(path, max_bytes) if path.suffix == ".json" else File(path, max_bytes)


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
            no checksums. Otherwise these cover every byte of the file, and tensors of less than
            4096 bytes stand together in one, which only this library reads.

    Raises:
        OSError: the system refuses; nothing is left behind and an old file stays as it was.
        ValueError: what a reader would refuse: an unknown dtype, a shape that does not fit the
            bytes, a name or key of the format's own, text that has no UTF-8, more
            than 100 MB of names and metadata.
    """
    extra = dict(metadata or {})
    for text in (*tensors, *extra, *extra.values()):
        text.encode()  # a lone surrogate has no UTF-8, and no string of the compiled core
    listed = [(name, t.dtype, list(t.shape), t.raw()) for name, t in tensors.items()]
    _core.write_file(str(path), listed, list(extra.items()), plain)


def file_bytes(
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    *,
    plain: bool = False,
) -> int:
    """Bytes of the file that :func:`write_file` makes of the same arguments; nothing is written."""
    sizes = [
        StoredSize(name, t.dtype, t.shape, t.nbytes, t.is_blob(name)) for name, t in tensors.items()
    ]
    return stored_bytes(sizes, metadata or {}, plain=plain)
