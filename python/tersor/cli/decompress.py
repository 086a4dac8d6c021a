"""``tersor decompress``: back to ordinary safetensors, in the types that the model had."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tersor.cli.errors import InputError, naming_file
from tersor.cli.lossless import restore
from tersor.cli.output import Output, copy_companions, plan_output
from tersor.cli.pretrained import for_dense
from tersor.cli.progress import default_threads, progress_bar, say
from tersor.cli.read_model import users_metadata
from tersor.codec.blob import SUFFIX, decode_blob, inspect_blob
from tersor.io import aliases, container, layer_records, shards, stream
from tersor.io.floats import FLOAT_READERS, to_stored


@dataclass(frozen=True)
class DecompressOptions:
    """Settings of ``tersor decompress``.

    Attributes:
        dtype: type of all float tensors (``F16``, ``BF16``, ``F32``, ``F64``); None: of each what
            it was before it was compressed.
        force: overwrite an existing output.
        threads: how many tensors are decoded at once; None: as many as there are CPUs for this
            process.
        base: the checkpoint that the file holds the differences from.
    """

    dtype: str | None = None
    force: bool = False
    threads: int | None = None
    base: Path | None = None


def decompress(source: Path, output: Path, options: DecompressOptions) -> int:
    """Writes the dense tensors of a compressed file as ordinary safetensors; their number.

    A tensor with several names is written under each of them, and the metadata says ``format: pt``
    as that of every file that torch programs read.

    Raises:
        InputError, OSError: the message names what is wrong with which file; a number may be too
            large for the type that is asked for.
    """
    with naming_file(source), container.open(source) as file:
        sharded = isinstance(file, container.Sharded)
        plan = plan_output(source, file.paths, output, sharded=sharded, force=options.force)
        count = _write(file, plan, options)
    for line in copy_companions(plan, force=options.force, content=for_dense):
        say(line)
    return count


def _write(file: container.File, plan: Output, options: DecompressOptions) -> int:
    from tersor import __version__

    file.verify()
    threads = options.threads or default_threads()
    if file.differences:
        if options.base is None:
            raise InputError(f"{file.path}: holds differences from another checkpoint: --base")
        if options.dtype is not None:
            raise InputError("--dtype cannot be combined with --base: decompress without it first")
    if options.dtype is None:
        count = restore(file, plan, threads, options.base)
        if count is not None:
            return count
    targets = _targets(file, options.dtype)
    total = sum(view.nbytes for view in file.tensors.values())
    with progress_bar("decompress", total) as advance:
        if not isinstance(file, container.Sharded):
            _write_file(plan.file, targets, _plain_metadata(file.metadata), threads, advance)
            return len(targets)
        names: dict[str, list[str]] = {}
        for name, target in targets.items():
            names.setdefault(target.view.name, []).append(name)
        index = shards.write_shards(
            file,
            plan.file.parent,
            lambda view: dict.fromkeys(names[view.name], targets[names[view.name][0]].dense()),
            f"decompress {__version__} {options.dtype}",
            metadata=lambda shard: _plain_metadata(shard.metadata),
            plain=True,
            threads=threads,
            progress=lambda view: advance(view.nbytes),
        )
        return len(container.read_index(index))


def _write_file(
    path: Path,
    targets: Mapping[str, _Target],
    metadata: Mapping[str, str],
    threads: int,
    advance: Callable[[int], None],
) -> None:
    """Writes one file, of which no more tensors are in memory than there are threads."""

    def read(name: str) -> stream.Raw:
        raw = targets[name].dense().raw()
        advance(targets[name].view.nbytes)
        return raw

    entries = [stream.Entry(n, t.dtype, t.shape) for n, t in targets.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    stream.write_stream(path, stream.plain_header(entries, metadata), read, threads=threads)


def _plain_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    return {"format": "pt", **users_metadata(metadata)}


@dataclass(frozen=True)
class _Target:
    """A dense tensor to write: one of the file, in a type."""

    view: container.TensorView
    name: str
    dtype: str
    shape: tuple[int, ...]

    def dense(self) -> container.Tensor:
        """The tensor as dense bytes of its type."""
        from tersor.codec.encode import decompress_weight

        if self.view.compressed:
            values = decompress_weight(decode_blob(self.view.bytes()))
            return container.Tensor(
                self.dtype, self.shape, to_stored(values, self.dtype, self.name)
            )
        raw = self.view.bytes()
        if self.dtype != self.view.dtype:
            raw = to_stored(FLOAT_READERS[self.view.dtype](raw), self.dtype, self.name)
        return container.Tensor(self.dtype, self.shape, raw)


def _targets(file: container.File, dtype: str | None) -> dict[str, _Target]:
    """What is written under each name, in the type that is asked for or that it had."""
    records = layer_records.read_records(file.metadata, file.path)
    compressed = {name: view.compressed for name, view in file.tensors.items()}
    names: dict[str, list[str]] = {}
    for alias, target in aliases.read_aliases(file.metadata, compressed, file.path).items():
        names.setdefault(target, []).append(alias)
    targets: dict[str, _Target] = {}
    for view in file.tensors.values():
        name = view.name.removesuffix(SUFFIX) if view.compressed else view.name
        made = _Target(view, name, *_type_and_shape(view, name, records.of(name).dtype, dtype))
        targets.update(dict.fromkeys([name, *names.get(name, ())], made))
    return targets


def _type_and_shape(
    view: container.TensorView, name: str, recorded: str, dtype: str | None
) -> tuple[str, tuple[int, ...]]:
    if not view.compressed:
        return (dtype if dtype and view.dtype in FLOAT_READERS else view.dtype), view.shape
    shape = inspect_blob(view.bytes()).shape
    # A coded vector stands for 32-bit floats, bit by bit, and has no record.
    wanted = dtype or ("F32" if len(shape) == 1 else recorded)
    if wanted not in FLOAT_READERS:
        raise InputError(f"{name}: was {wanted}, which is not written: choose a --dtype")
    return wanted, shape
