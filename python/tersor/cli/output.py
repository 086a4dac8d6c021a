"""Where the commands write: never over what they read, and over other files only when told to."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tersor.cli.errors import InputError
from tersor.io.container import INDEX

_MODEL = "model.safetensors"
_WEIGHTS = (
    ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".gguf", ".ot",
    ".npz", ".tflite", ".tar", ".zip", ".index.json",
)  # fmt: skip
_COMPANION_BYTES = 100_000_000  # tokenizers take up to tens of megabytes


@dataclass(frozen=True)
class Output:
    """What is written.

    Attributes:
        file: the model, or the index of its shards.
        companions: small files of the source's folder that go beside it.
    """

    file: Path
    companions: tuple[Path, ...] = ()


def plan_output(
    source: Path, files: Sequence[Path], output: Path, *, sharded: bool, force: bool
) -> Output:
    """Decides where a model is written, and refuses before anything is computed.

    A source that is a folder, or has several files, becomes a folder (unless the output is named
    ``*.safetensors``), with the small files that belong to a model: its configuration, tokenizer
    and the like.

    Args:
        source: as the user gave it.
        files: what is read.
        output: as the user gave it.
        sharded: whether several files are written.
        force: whether existing files may be overwritten; never one that is read.

    Raises:
        InputError: the output is one of the files that are read, or exists.
        OSError: its folder is missing, or is none.
    """
    folder = source if source.is_dir() else source.parent
    as_folder = sharded or (source.is_dir() and output.suffix != ".safetensors")
    if not as_folder:
        if output.is_dir():
            raise IsADirectoryError(errno.EISDIR, "is a folder: name a file", str(output))
        _check_file(output, files, force)
        if not output.parent.is_dir():
            raise FileNotFoundError(errno.ENOENT, "no such folder", str(output.parent))
        return Output(output)
    if output.exists() and not output.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "is not a folder", str(output))
    if output.is_dir() and output.samefile(folder):
        raise InputError(f"{output}: is the folder of the input: choose another -o/--output")
    name = files[0].name if files[0].suffix == ".safetensors" else _MODEL
    file = output / (INDEX if sharded else name)
    _check_file(file, files, force)
    other = output / (_MODEL if sharded else INDEX)
    if other.exists():
        raise InputError(f"{other}: is another model in this folder: choose another -o/--output")
    return Output(file, tuple(_companions(folder)))


def _check_file(path: Path, files: Iterable[Path], force: bool) -> None:
    if not os.path.lexists(path):
        return
    same = (file for file in files if path.exists() and path.samefile(file))
    if (read := next(same, None)) is not None:
        raise InputError(f"{path}: is the input {read}: choose another -o/--output")
    if not force:
        raise InputError(f"{path}: exists already (--force overwrites it)")


def _companions(folder: Path) -> Iterable[Path]:
    for path in sorted(folder.iterdir()):
        hidden = path.name.startswith(".")
        if path.name.endswith(_WEIGHTS) or hidden or not path.is_file():
            continue
        if path.stat().st_size <= _COMPANION_BYTES:
            yield path


def copy_companions(
    output: Output, *, force: bool, content: Callable[[Path], bytes] = Path.read_bytes
) -> list[str]:
    """Copies the small files, and returns lines that say so.

    One that exists and differs is overwritten only with ``force``.

    Args:
        output: has them.
        force: overwrite others.
        content: what is written of each.
    """
    lines = []
    for path in output.companions:
        to = output.file.parent / path.name
        new = content(path)
        if to.exists() and not force and to.read_bytes() != new:
            lines.append(f"kept     {to.name}  (exists already; --force overwrites it)")
            continue
        to.write_bytes(new)
        lines.append(f"copied   {to.name}")
    return lines
