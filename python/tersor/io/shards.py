"""Writing checkpoints of several files, shard by shard, as large ones come."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Condition
from typing import Protocol, TypeVar

from tersor._core import FormatError
from tersor.io import container
from tersor.io.container import INDEX, File, Sharded, Tensor, TensorView


class Sized(Protocol):
    """A tensor that is read when it is needed."""

    @property
    def nbytes(self) -> int:
        """What it takes while it is worked on, but for a factor."""

    def release(self) -> None:
        """Releases the memory of what was read."""


_Item = TypeVar("_Item", bound=Sized)
Encoded = Mapping[str, Tensor]
Encode = Callable[[TensorView], Encoded]


class _Room:
    """Bytes that may be worked on at once: threads wait until others have left theirs."""

    def __init__(self, size: int) -> None:
        self._free = size
        self._changed = Condition()

    @contextmanager
    def take(self, size: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: self._free >= size)
            self._free -= size
        try:
            yield
        finally:
            with self._changed:
                self._free += size
                self._changed.notify_all()


def encode_tensors(
    tensors: Collection[_Item],
    encode: Callable[[_Item], Encoded],
    *,
    threads: int = 1,
    progress: Callable[[_Item], None] = lambda tensor: None,
) -> dict[str, Tensor]:
    """Encodes tensors on several threads; what is worked on at once is no more than the largest.

    Args:
        tensors: to encode, each released when it is done.
        encode: the tensors to write for one, by name.
        threads: how many are encoded at once.
        progress: called with each one when it is done, from any thread.
    """
    room = _Room(max((tensor.nbytes for tensor in tensors), default=0))

    def task(tensor: _Item) -> Encoded:
        with room.take(tensor.nbytes):
            encoded = encode(tensor)
            tensor.release()
        progress(tensor)
        return encoded

    with ThreadPoolExecutor(threads) as pool:
        return {name: t for made in pool.map(task, tensors) for name, t in made.items()}


def _name(shard: File, settings: str) -> str:
    """The name of what a shard becomes: it follows from its content and the settings."""
    digest = hashlib.blake2b(settings.encode(), digest_size=8)
    digest.update(json.dumps(shard.metadata, sort_keys=True).encode())
    for view in shard.tensors.values():
        digest.update(f"\n{view.name}\n{view.dtype} {view.shape}\n".encode())
        digest.update(view.bytes().data)
        view.release()
    return f"model-{digest.hexdigest()}.safetensors"


def _is_whole(path: Path) -> bool:
    try:
        container.open(path).verify()
    except (FileNotFoundError, FormatError):
        return False
    return True


def _replace(path: Path, text: str) -> None:
    """Writes a small file in one step."""
    new = path.with_name(path.name + ".new")
    with new.open("w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    new.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_shards(
    source: File,
    folder: Path,
    encode: Encode,
    settings: str,
    *,
    metadata: Callable[[File], Mapping[str, str]] = lambda shard: shard.metadata,
    plain: bool = False,
    threads: int = 1,
    progress: Callable[[TensorView], None] = lambda view: None,
) -> Path:
    """Writes a checkpoint anew, a shard for each of its own.

    A shard's name follows from what goes into it, and the index is renamed into place when all
    shards stand: whoever stops at any moment leaves the old checkpoint or the new one, and a rerun
    resumes with the first shard that is not there. Shards that the old index named alone are
    removed at the end.

    At once in work are no more bytes than the largest tensor has; to them comes the output of one
    shard.

    Args:
        source: an open checkpoint, or a single file.
        folder: where to, made if missing; not that of the source.
        encode: the tensors to write for one of the source, by name.
        settings: text that tells two different ``encode``, ``metadata`` and ``plain`` apart.
        metadata: of the shard that is written for one of the source.
        plain: as of :func:`tersor.io.container.write_file`.
        threads: how many tensors are encoded at once.
        progress: called with each tensor when it is done, from any thread.

    Returns:
        The path of the index.

    Raises:
        OSError: the system refuses.
    """
    shards = source.shards.values() if isinstance(source, Sharded) else [source]
    folder.mkdir(parents=True, exist_ok=True)
    index = folder / INDEX
    old = set(container.read_index(index).values()) if index.is_file() else set()
    names: dict[str, str] = {}
    total = 0
    for shard in shards:
        path = folder / _name(shard, settings)
        views = shard.tensors.values()
        if _is_whole(path):
            for view in views:
                progress(view)
        else:
            tensors = encode_tensors(views, encode, threads=threads, progress=progress)
            container.write_file(path, tensors, metadata(shard), plain=plain)
        with container.open(path) as written:
            names.update(dict.fromkeys(written.tensors, path.name))
            total += sum(view.nbytes for view in written.tensors.values())
    text = json.dumps(
        {"metadata": {"total_size": total}, "weight_map": dict(sorted(names.items()))}
    )
    _replace(index, text)
    for name in old - set(names.values()):
        (folder / name).unlink(missing_ok=True)
    return index
