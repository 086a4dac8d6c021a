"""``tersor decompress``: back to ordinary safetensors, in the types that the model had."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tersor.cli.errors import InputError, naming_file
from tersor.cli.output import Output, copy_companions, plan_output
from tersor.cli.progress import default_threads, progress_bar
from tersor.cli.read_model import users_metadata
from tersor.codec.blob import SUFFIX, decode_blob
from tersor.io import aliases, container, layer_records, shards
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
    """

    dtype: str | None = None
    force: bool = False
    threads: int | None = None


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
    for line in copy_companions(plan, force=options.force):
        print(line)
    return count


def _write(file: container.File, plan: Output, options: DecompressOptions) -> int:
    from tersor import __version__

    file.verify()
    encode = _decoder(file, options.dtype)
    threads = options.threads or default_threads()
    total = sum(view.nbytes for view in file.tensors.values())
    with progress_bar("decompress", total) as advance:
        if isinstance(file, container.Sharded):
            index = shards.write_shards(
                file,
                plan.file.parent,
                encode,
                f"decompress {__version__} {options.dtype}",
                metadata=lambda shard: _plain_metadata(shard.metadata),
                plain=True,
                threads=threads,
                progress=lambda view: advance(view.nbytes),
            )
            return len(container.read_index(index))
        tensors = shards.encode_tensors(
            file.tensors.values(),
            encode,
            threads=threads,
            progress=lambda view: advance(view.nbytes),
        )
    plan.file.parent.mkdir(parents=True, exist_ok=True)
    container.write_file(plan.file, tensors, _plain_metadata(file.metadata), plain=True)
    return len(tensors)


def _plain_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    return {"format": "pt", **users_metadata(metadata)}


def _decoder(file: container.File, dtype: str | None) -> shards.Encode:
    """What makes the dense tensors, under all their names, of one in the file."""
    records = layer_records.read_records(file.metadata, file.path)
    compressed = {name: view.compressed for name, view in file.tensors.items()}
    names: dict[str, list[str]] = {}
    for alias, target in aliases.read_aliases(file.metadata, compressed, file.path).items():
        names.setdefault(target, []).append(alias)

    def encode(view: container.TensorView) -> dict[str, container.Tensor]:
        name = view.name.removesuffix(SUFFIX) if view.compressed else view.name
        tensor = _dense(view, name, records.of(name).dtype, dtype)
        return dict.fromkeys([name, *names.get(name, ())], tensor)

    return encode


def _dense(
    view: container.TensorView, name: str, recorded: str, dtype: str | None
) -> container.Tensor:
    """A tensor of the file as dense bytes of the type that is asked for, or that it had."""
    from tersor.codec.encode import decompress_weight

    if not view.compressed:
        raw = view.bytes()
        if dtype is None or dtype == view.dtype or view.dtype not in FLOAT_READERS:
            return container.Tensor(view.dtype, view.shape, raw)
        raw = to_stored(FLOAT_READERS[view.dtype](raw), dtype, name)
        return container.Tensor(dtype, view.shape, raw)
    layer = decode_blob(view.bytes())
    # A coded vector stands for 32-bit floats, bit by bit, and has no record.
    wanted = dtype or ("F32" if len(layer.shape) == 1 else recorded)
    if wanted not in FLOAT_READERS:
        raise InputError(f"{name}: was {wanted}, which is not written: choose a --dtype")
    return container.Tensor(wanted, layer.shape, to_stored(decompress_weight(layer), wanted, name))
