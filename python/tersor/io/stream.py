"""Writing ordinary safetensors, tensor by tensor as they are decoded: also those of a source.

A file that was encoded without loss keeps in its metadata what the header of its source was, where
that is not the one that follows from the tensors.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from tersor._core import FormatError
from tersor.io.element_types import ELEMENT_BYTES

SOURCE = "tersor.source"
"""The key of the source's header in the metadata; empty where it follows from the tensors."""

Raw = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Entry:
    """A tensor to write: its name, its type as safetensors names it, its shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return math.prod(self.shape) * ELEMENT_BYTES[self.dtype]


def plain_header(entries: Iterable[Entry], metadata: Mapping[str, str]) -> bytes:
    """The JSON header that the stock library writes: wide elements first, then by name."""
    members: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for entry in sorted(entries, key=lambda e: (-ELEMENT_BYTES[e.dtype], e.name)):
        end = offset + entry.nbytes
        shape, places = list(entry.shape), [offset, end]
        members[entry.name] = {"dtype": entry.dtype, "shape": shape, "data_offsets": places}
        offset = end
    text = json.dumps(members, separators=(",", ":"), ensure_ascii=False).encode()
    return text + b" " * (-len(text) % 8)


def read_header(path: Path) -> bytes:
    """The JSON header of a safetensors file, with its padding."""
    with path.open("rb") as file:
        return file.read(int.from_bytes(file.read(8), "little"))


def source_entry(path: Path, entries: Sequence[Entry], metadata: Mapping[str, str]) -> str:
    """What :data:`SOURCE` holds for a file, so that :func:`header_for` gives its header again."""
    header = read_header(path)
    return "" if header == plain_header(entries, metadata) else header.decode()


def header_for(entries: Sequence[Entry], metadata: Mapping[str, str], path: object) -> bytes:
    """The header of the source that a file was encoded from.

    Args:
        entries: the tensors of the file.
        metadata: of the file; with :data:`SOURCE`.
        path: for messages.

    Raises:
        FormatError: the header that was kept is not one of these tensors.
    """
    users = {key: text for key, text in metadata.items() if not key.startswith("tersor.")}
    kept = metadata[SOURCE].encode()
    header = kept or plain_header(entries, users)
    if sorted(_places(header, path)) != sorted((e.name, e.dtype, e.shape) for e in entries):
        raise FormatError(f"{path}: metadata '{SOURCE}' is not the header of these tensors")
    return header


def _places(header: bytes, path: object) -> list[tuple[str, str, tuple[int, ...]]]:
    """The tensors of a header in the order of their bytes, which have no gaps."""
    try:
        members = json.loads(header)
        members.pop("__metadata__", None)
        found = sorted(
            (tuple(m["data_offsets"]), name, m["dtype"], tuple(m["shape"]))
            for name, m in members.items()
        )
        offset = 0
        for (begin, end), name, dtype, shape in found:
            if begin != offset or end - begin != Entry(name, dtype, shape).nbytes:
                raise ValueError(f"'{name}' is not where the tensor before it ends")
            offset = end
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise FormatError(f"{path}: metadata '{SOURCE}': {error}") from None
    return [(name, dtype, shape) for _, name, dtype, shape in found]


def write_stream(
    path: Path,
    header: bytes,
    read: Callable[[str], Raw],
    *,
    threads: int = 1,
) -> None:
    """Writes a file in one step: beside the target, synced to disk, renamed over it.

    Args:
        path: of the file.
        header: JSON with its padding.
        read: the bytes of a tensor by its name; called in the order of the file, on several
            threads, and for no more tensors at once than there are threads.
        threads: at most this many.
    """
    with _replacing(path) as file, ThreadPoolExecutor(threads) as pool:
        file.write(len(header).to_bytes(8, "little") + header)
        waiting: deque[Future[Raw]] = deque()
        for name, _, _ in _places(header, path):
            if len(waiting) == threads:
                file.write(waiting.popleft().result().data)
            waiting.append(pool.submit(read, name))
        while waiting:
            file.write(waiting.popleft().result().data)


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """A new file that takes the place of a path when all went well."""
    path = path.resolve()
    new = path.with_name(f".{path.name}.tersor-{secrets.token_hex(8)}")
    try:
        with new.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if path.exists():
                os.chmod(file.fileno(), stat.S_IMODE(path.stat().st_mode))
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
