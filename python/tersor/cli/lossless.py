"""``tersor compress --lossless``: every tensor of a checkpoint, and its files back byte by byte.

Shards keep their names and the index stays as it is, so that several processes may each take a part
of the shards, and a rerun leaves those that stand.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tersor._core import FormatError
from tersor.cli.errors import InputError, naming_file
from tersor.cli.output import Output, copy_companions, plan_output
from tersor.cli.progress import default_threads, progress_bar, say
from tersor.cli.read_model import (
    SourceModel,
    SourceTensor,
    is_safetensors,
    read_model,
    users_metadata,
)
from tersor.codec.blob import SUFFIX
from tersor.io import aliases, container, differences, shards, stream
from tersor.io.differences import Base, digest_of, own_name, write_digests


@dataclass(frozen=True)
class Part:
    """Which shards a process takes: every ``of``-th from the ``number``-th on, from 1."""

    number: int = 1
    of: int = 1

    @staticmethod
    def parse(text: str | None) -> Part:
        """From ``k/n``; None: what ``torchrun`` says in ``RANK`` and ``WORLD_SIZE``, else all.

        Raises:
            InputError: it is no such part.
        """
        try:
            if text is None:
                rank, size = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
                return Part(int(rank) + 1, int(size))
            number, of = (int(side) for side in text.split("/"))
        except ValueError:
            raise InputError(f"--part {text}: write k/n, such as 1/4") from None
        if not 1 <= number <= of:
            raise InputError(f"--part {text}: the part must be one of 1 to {of}")
        return Part(number, of)

    def take(self, items: Sequence[str]) -> list[str]:
        """The items of this part."""
        return list(items[self.number - 1 :: self.of])


@dataclass(frozen=True)
class LosslessReport:
    """Bytes before and after: of the files of this process."""

    source_bytes: int
    stored_bytes: int
    files: int
    kept: int

    def __str__(self) -> str:
        share = self.stored_bytes / max(1, self.source_bytes)
        kept = f", {self.kept} of them stood already" if self.kept else ""
        return (
            f"{self.source_bytes:,} -> {self.stored_bytes:,} bytes, {share:.1%}  "
            f"({self.files} file{'s' if self.files != 1 else ''}{kept})"
        )


def compress_lossless(
    source: Path,
    output: Path,
    *,
    base: Path | None = None,
    part: Part = Part(),
    force: bool = False,
    threads: int | None = None,
) -> LosslessReport:
    """Encodes a checkpoint without loss, file by file.

    Args:
        source: a safetensors file, a torch checkpoint, a folder or an index.
        output: file, or folder for a folder or several files.
        base: another checkpoint: tensors of the same name, type and shape are stored as what
            differs from its, where that is smaller.
        part: which shards this process takes; the first part also writes what stands beside them.
        force: overwrite an existing file. Shards that stand are left where they are whole and no
            older than their source.
        threads: how many tensors are encoded at once; None: as many as there are CPUs.

    Raises:
        InputError, OSError: the message names what is wrong with which file.
    """
    threads = threads or default_threads()
    with naming_file(source):
        model = read_model(source)
        for note in model.notes:
            say(note)
        coder = _Coder(_open_base(base), model.tensors)
        if model.shards is not None:
            return _compress_shards(source, model.shards, output, part, force, threads, coder)
        if part.number > 1:
            return LosslessReport(0, 0, 0, 0)
        plan = plan_output(source, model.files, output, sharded=False, force=force)
        path = model.files[0]
        with progress_bar("compress", model.dense_bytes) as advance:
            tensors = shards.encode_tensors(
                model.tensors.values(),
                coder.encode,
                threads=threads,
                progress=lambda tensor: advance(tensor.nbytes),
            )
        plan.file.parent.mkdir(parents=True, exist_ok=True)
        metadata = {**_metadata(model, path), **coder.take_digests()}
        container.write_file(plan.file, tensors, metadata)
    _print_lines(copy_companions(plan, force=force))
    return LosslessReport(path.stat().st_size, plan.file.stat().st_size, 1, 0)


def _print_lines(lines: Sequence[str]) -> None:
    for line in lines:
        say(line)


def _metadata(model: SourceModel, path: Path) -> dict[str, str]:
    """Of the file that is written for a single one; of safetensors with what gives it back."""
    names = aliases.write_aliases(model.aliases)
    if model.notes or model.aliases or not is_safetensors(path):
        return {**model.metadata, **names}
    entries = [stream.Entry(t.name, t.dtype, t.shape) for t in model.tensors.values()]
    return {**model.metadata, stream.SOURCE: stream.source_entry(path, entries, model.metadata)}


@dataclass(frozen=True)
class _Coder:
    """How the tensors of a file are stored, and of which a base is needed."""

    base: Base | None
    names: Collection[str]  # of all tensors: none of them is taken for a difference
    digests: dict[str, str] = field(default_factory=dict)

    def encode(self, tensor: SourceTensor) -> dict[str, container.Tensor]:
        """What is stored for a tensor."""
        stored = tensor.stored()
        if tensor.stored_name != tensor.name:
            return {tensor.stored_name: stored}  # coded already
        return self.coded(tensor.name, stored)

    def coded(self, name: str, stored: container.Tensor) -> dict[str, container.Tensor]:
        """The smallest of the tensor, the same coded, and its difference from the base's."""
        coded = stored.coded()
        raw = None
        if self.base is not None and name + differences.SUFFIX not in self.names:
            raw = self.base.of(name, stored.dtype, stored.shape)
        if raw is not None:
            difference = dataclasses.replace(stored, data=np.bitwise_xor(stored.raw(), raw)).coded()
            if difference.nbytes < coded.nbytes:
                self.digests[name] = digest_of(raw)
                return {name + differences.SUFFIX + SUFFIX: difference}
        return {name: stored} if coded is stored else {name + SUFFIX: coded}

    def take_digests(self) -> dict[str, str]:
        """The entry of a file's metadata for the tensors since the last time."""
        entry = write_digests(self.digests)
        self.digests.clear()
        return entry


def _compress_shards(
    source: Path,
    checkpoint: container.Sharded,
    output: Path,
    part: Part,
    force: bool,
    threads: int,
    coder: _Coder,
) -> LosslessReport:
    plan = plan_output(source, checkpoint.paths, output, sharded=True, force=True)
    folder = plan.file.parent
    folder.mkdir(parents=True, exist_ok=True)
    mine = {name: checkpoint.shards[name] for name in part.take(list(checkpoint.shards))}
    before = after = kept = 0
    with progress_bar("compress", sum(file.file_bytes for file in mine.values())) as advance:
        for name, shard in mine.items():
            to = folder / name
            if not force and _stands(to, shard, coder.base):
                kept += 1
                advance(shard.file_bytes)
            else:
                _compress_shard(shard, to, threads, advance, coder)
            before += shard.file_bytes
            after += to.stat().st_size
    if part.number == 1:
        shutil.copyfile(checkpoint.path, folder / checkpoint.path.name)
        _print_lines(copy_companions(plan, force=force))
    return LosslessReport(before, after, len(mine), kept)


def _compress_shard(
    shard: container.File, to: Path, threads: int, advance: Callable[[int], None], coder: _Coder
) -> None:
    tensors = shards.encode_tensors(
        shard.tensors.values(),
        lambda view: coder.coded(view.name, container.Tensor(view.dtype, view.shape, view.bytes())),
        threads=threads,
        progress=lambda view: advance(view.nbytes),
    )
    metadata = users_metadata(shard.metadata)
    entries = entries_of(shard)
    kept = stream.source_entry(shard.path, entries, metadata)
    container.write_file(to, tensors, {**metadata, **coder.take_digests(), stream.SOURCE: kept})


def entries_of(file: container.File) -> list[stream.Entry]:
    """The tensors of a file as those that a file to write has."""
    stored = _stored_names(file)
    views = [(name, file.tensors[of]) for name, of in stored.items()]
    return [stream.Entry(name, view.dtype, view.shape) for name, view in sorted(views)]


def _stored_names(file: container.File) -> dict[str, str]:
    """By name of a tensor, that of what is stored for it: another one where it is a difference."""
    return {own_name(name, file.differences): name for name in file.tensors}


def _open_base(path: Path | None) -> Base | None:
    return None if path is None else Base(path, container.open(path).tensors)


def _stands(path: Path, shard: container.File, base: Base | None) -> bool:
    """Whether a shard was encoded before: whole, of these tensors, from this base, no older."""
    if not path.is_file() or path.stat().st_mtime < shard.path.stat().st_mtime:
        return False
    try:
        with container.open(path) as file:
            file.verify()
            for name, digest in file.differences.items():
                view = file.tensors[name + differences.SUFFIX]
                if base is None or not base.has(name, view, digest):
                    return False
            return stream.SOURCE in file.metadata and entries_of(file) == entries_of(shard)
    except FormatError:
        return False


def restore(file: container.File, plan: Output, threads: int, base: Path | None) -> int | None:
    """Writes the files that a checkpoint was encoded from without loss; the number of tensors.

    Args:
        file: that was encoded.
        plan: where to.
        threads: how many tensors are decoded at once.
        base: the checkpoint that it holds the differences from.

    Returns:
        None where it was encoded in another way.

    Raises:
        FormatError: a file is malformed, or the base is another.
    """
    files = list(file.shards.values()) if isinstance(file, container.Sharded) else [file]
    given = _open_base(base)
    if not all(stream.SOURCE in one.metadata for one in files):
        return None
    folder = plan.file.parent
    folder.mkdir(parents=True, exist_ok=True)
    total = sum(one.file_bytes for one in files)
    with progress_bar("decompress", total) as advance:
        for one in files:
            header = stream.header_for(entries_of(one), one.metadata, one.path)
            to = folder / one.path.name if isinstance(file, container.Sharded) else plan.file

            names = _stored_names(one)

            def read(
                name: str, one: container.File = one, names: dict[str, str] = names
            ) -> stream.Raw:
                view = one.tensors[names[name]]
                digest = one.differences.get(name)
                if digest is None or given is None:
                    raw = view.bytes()
                else:
                    raw = given.give_back(name, view, digest)
                advance(view.nbytes)
                return raw

            stream.write_stream(to, header, read, threads=threads)
    if isinstance(file, container.Sharded):
        shutil.copyfile(file.path, folder / file.path.name)
    return len(file.tensors)
