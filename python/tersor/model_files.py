"""What the command line does with model files: compress, decompress, inspect.

The torch side and rich are imported where they are needed: a table takes neither.
"""

from __future__ import annotations

import fnmatch
import math
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tersor import container
from tersor._core import FormatError

if TYPE_CHECKING:
    from tersor.config import LayerConfig
    from tersor.report import Report

# A tensor whose name has one of these words is an embedding or a norm, and is left as it is.
_LEFT = re.compile(
    r"(^|[._])(\w*emb|\w*embed(ding)?s?|wte|wpe|\w*norm\d*|bn\d*|ln(\d*|_\w+))[._]", re.IGNORECASE
)


class InputError(Exception):
    """The user's input is wrong; the message is the line to print."""


@contextmanager
def _about(path: Path) -> Iterator[None]:
    """Makes the message of malformed data name its file."""
    try:
        yield
    except FormatError as error:
        message = str(error)
        raise InputError(message if str(path) in message else f"{path}: {message}") from error


@dataclass(frozen=True)
class Choice:
    """Whether a tensor is compressed, and why."""

    name: str
    shape: tuple[int, ...]
    taken: bool
    reason: str

    def __str__(self) -> str:
        shape = "x".join(map(str, self.shape)) or "scalar"
        verb = "compress" if self.taken else "leave   "
        return f"{verb} {self.name}  {shape}  ({self.reason})"


def choose(
    name: str,
    dtype: str,
    shape: tuple[int, ...],
    *,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    min_size: int = 0,
) -> Choice:
    """Whether ``compress`` takes a tensor of a bare state_dict.

    By default matrices and filters named ``*.weight``, embeddings and norms left. ``only`` and
    ``skip`` are shell patterns on names; ``skip`` wins, and ``only`` overrules the names' defaults.
    ``min_size`` counts elements.
    """

    def choice(taken: bool, reason: str) -> Choice:
        return Choice(name, shape, taken, reason)

    def matches(patterns: Sequence[str]) -> str | None:
        return next((p for p in patterns if fnmatch.fnmatchcase(name, p)), None)

    if dtype not in _FLOAT_READERS:
        return choice(False, f"dtype {dtype}")
    if len(shape) < 2:
        return choice(False, "not a matrix or filter")
    if math.prod(shape) == 0:
        return choice(False, "empty")
    if math.prod(shape) < min_size:
        return choice(False, f"under {min_size} elements")
    if pattern := matches(skip):
        return choice(False, f"--skip {pattern}")
    if only:
        pattern = matches(only)
        return choice(pattern is not None, f"--only {pattern or 'names others'}")
    if name != "weight" and not name.endswith(".weight"):
        return choice(False, "not named *.weight")
    if _LEFT.search(name):
        return choice(False, "embedding or norm")
    return choice(True, "matrix" if len(shape) == 2 else "filter")


# ---- Reading models

Tensors = Mapping[str, container.Tensor]


def _bf16(raw: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)


_FLOAT_READERS = {
    "F16": lambda raw: raw.view("<f2").astype(np.float32),
    "F32": lambda raw: raw.view("<f4"),
    "F64": lambda raw: raw.view("<f8").astype(np.float32),
    "BF16": _bf16,
}


def _read_model(path: Path) -> tuple[Tensors, Mapping[str, str]]:
    """All tensors of a dense model file, and its metadata."""
    if not path.is_file():
        raise InputError(f"{path}: {'is not a file' if path.exists() else 'no such file'}")
    if path.suffix in (".pt", ".pth", ".bin"):
        return _read_torch(path), {}
    with _about(path), container.open(path) as file:
        taken = [name for name, tensor in file.tensors.items() if tensor.compressed]
        if taken:
            raise InputError(f"{path}: is compressed already ({taken[0]} is a blob)")
        tensors = {
            name: container.Tensor(tensor.dtype, tuple(tensor.shape), tensor.bytes().tobytes())
            for name, tensor in file.tensors.items()
        }
        return tensors, dict(file.metadata)


def _read_torch(path: Path) -> Tensors:
    """A state_dict that torch.save wrote; loaded with ``weights_only``, so no code of it runs."""
    torch = import_torch()
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever the broken part raises
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"{path}: not a state_dict that torch can load: {reason[0]}") from error
    if not isinstance(state, Mapping) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items()
    ):
        raise InputError(f"{path}: not a state_dict: a mapping from names to tensors is needed")
    from tersor.state import to_file_tensor

    try:
        return {name: to_file_tensor(value, name) for name, value in state.items()}
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error


def import_torch() -> Any:
    """The module torch.

    Raises:
        InputError: it is not installed.
    """
    try:
        import torch
    except ModuleNotFoundError as error:
        raise InputError("this needs torch: pip install 'tersor[torch]'") from error
    return torch


# ---- The commands


def compress(
    source: Path,
    output: Path | None,
    *,
    bits: int = 4,
    conv_bits: int = 8,
    density: float | None = None,
    method: str = "kmeans",
    target_bytes: int | None = None,
    target_ratio: float | None = None,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    min_size: int = 0,
    dry_run: bool = False,
) -> Report:
    """Compresses a dense model file, printing a line for each tensor, and returns the table.

    ``bits`` and ``conv_bits`` are the code widths of matrices and filters, the zero counted in;
    ``density`` is the part of the weights of each taken tensor to keep (None: no further pruning),
    ``method`` one of those of :class:`tersor.LayerConfig`. With a target, bytes of the file or the
    ratio of all tensors' bytes to them, these are chosen for each tensor instead.

    Raises:
        InputError, OSError: the message names what is wrong with which file.
    """
    from tersor import budget, layer
    from tersor.config import LayerConfig
    from tersor.quantize import as_float32, compress_weight
    from tersor.report import report

    if source.is_dir() or source.suffix == ".json":
        if output is None or dry_run or target_bytes is not None or target_ratio is not None:
            raise InputError("a checkpoint of several files needs -o OUT, and takes no target")
        kinds = {2: LayerConfig(values=2**bits - 1, density=density, method=method)}
        filters = LayerConfig(values=2**conv_bits - 1, density=density, method=method)
        return _compress_shards(
            source,
            output,
            lambda shape: kinds.get(len(shape), filters),
            lambda view: choose(
                view.name, view.dtype, view.shape, only=only, skip=skip, min_size=min_size
            ),
        )
    if output is None and not dry_run:
        raise InputError("say where to write with -o OUT, or --dry-run to learn the size alone")
    tensors, metadata = _read_model(source)
    if target_bytes is not None and target_ratio is not None:
        raise InputError("give either --target-bytes or --target-ratio")
    left: dict[str, container.Tensor] = {}
    items: dict[str, budget.Item] = {}
    searches = target_bytes is not None or target_ratio is not None
    for name, tensor in tensors.items():
        choice = choose(
            name, tensor.dtype, tuple(tensor.shape), only=only, skip=skip, min_size=min_size
        )
        print(choice)
        if not choice.taken:
            left[name] = tensor
            continue
        width = bits if len(tensor.shape) == 2 else conv_bits
        raw = np.frombuffer(tensor.data, np.uint8)
        weight = as_float32(_FLOAT_READERS[tensor.dtype](raw).reshape(tensor.shape), name)
        config = LayerConfig(values=2**width - 1, density=density, method=method)
        items[name] = budget.Item(weight, LayerConfig() if searches else config)
    if not items:
        raise InputError(f"{source}: no tensor to compress (see --only)")

    def write(blobs: budget.Blobs, path: Path) -> int:
        coded = {
            name + layer.SUFFIX: container.Tensor("U8", blob.shape, blob)
            for name, blob in blobs.items()
        }
        container.write_file(path, {**left, **coded}, metadata)
        return path.stat().st_size

    # Sizes are exact because files are really made, and thrown away but for the last.
    with tempfile.TemporaryDirectory(prefix="tersor-") as folder:
        trial = Path(folder) / "trial.safetensors"
        settings = {name: item.settings for name, item in items.items()}
        if searches:
            limit = float(target_bytes or 0)
            if target_ratio is not None:
                limit = sum(len(tensor.data) for tensor in tensors.values()) // target_ratio
            try:
                settings = budget.fit(
                    items, lambda blobs: write(blobs, trial), limit, size=True, progress=print
                )
            except ValueError as error:
                raise InputError(f"{source}: {error}") from error
        blobs = {
            name: layer.encode_layer(compress_weight(item.weight, settings[name], name))
            for name, item in items.items()
        }
        path = trial if dry_run or output is None else output
        write(blobs, path)
        with container.open(path) as file:
            return report(file)


def _compress_shards(
    source: Path,
    output: Path,
    settings: Callable[[tuple[int, ...]], LayerConfig],
    choice_of: Callable[[container.TensorView], Choice],
) -> Report:
    """The same for a checkpoint of several files, which never stands in memory as a whole."""
    from tersor import __version__, layer, shards
    from tersor.quantize import as_float32, compress_weight
    from tersor.report import report

    with _about(source), container.open(source) as checkpoint:
        if source.resolve() in (output.resolve(), output.resolve() / container.INDEX):
            raise InputError(f"{output}: cannot be written while it is read")
        choices = {name: choice_of(view) for name, view in checkpoint.tensors.items()}
        for choice in choices.values():
            print(choice)
        if not any(choice.taken for choice in choices.values()):
            raise InputError(f"{source}: no tensor to compress (see --only)")

        def encode(view: container.TensorView) -> tuple[str, container.Tensor]:
            if not choices[view.name].taken:
                return view.name, container.Tensor(view.dtype, view.shape, view.bytes())
            raw = _FLOAT_READERS[view.dtype](view.bytes()).reshape(view.shape)
            weight = as_float32(raw, view.name)
            blob = layer.encode_layer(compress_weight(weight, settings(view.shape), view.name))
            return view.name + layer.SUFFIX, container.Tensor("U8", blob.shape, blob)

        described = [(n, repr(settings(c.shape))) for n, c in choices.items() if c.taken]
        with _progress(sum(view.nbytes for view in checkpoint.tensors.values())) as advance:
            index = shards.write_shards(
                checkpoint,
                output,
                encode,
                f"{__version__} {described}",
                threads=os.cpu_count() or 1,
                progress=lambda view: advance(view.nbytes),
            )
    with container.open(index) as file:
        return report(file)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """A bar on the terminal that counts bytes."""
    if not sys.stderr.isatty() or find_spec("rich") is None:
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    columns = (BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("compress", total=total)
        yield lambda size: bar.advance(task, size)


def decompress(source: Path, output: Path) -> int:
    """Writes the dense fp32 tensors of a compressed file as ordinary safetensors; their number.

    Raises:
        InputError, OSError: the message names what is wrong with which file.
    """
    from tersor import layer
    from tersor.quantize import decompress_layer

    tensors: dict[str, container.Tensor] = {}
    with _about(source), container.open(source) as file:
        file.verify()
        for name, tensor in file.tensors.items():
            if tensor.compressed:
                dense = np.ascontiguousarray(
                    decompress_layer(layer.decode_layer(tensor.bytes())), np.float32
                )
                tensors[name.removesuffix(layer.SUFFIX)] = container.Tensor(
                    "F32", dense.shape, dense.tobytes()
                )
            else:
                tensors[name] = container.Tensor(
                    tensor.dtype, tuple(tensor.shape), tensor.bytes().tobytes()
                )
        metadata = file.metadata
    container.write_file(output, tensors, metadata, plain=True)
    return len(tensors)


def inspect(source: Path, *, verify: bool = False) -> Report:
    """The table of a file, from its headers alone unless ``verify``.

    Raises:
        InputError, OSError: the message names what is wrong with which file.
    """
    from tersor.report import report

    with _about(source), container.open(source) as file:
        return report(file, verify=verify)
