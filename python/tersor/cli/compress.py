"""What the command line does with model files: compress, decompress, inspect.

The torch side and rich are imported where they are needed: a table takes neither.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tersor.cli.errors import InputError, import_torch, naming_file
from tersor.cli.select import Choice, choose
from tersor.io import container
from tersor.io.floats import FLOAT_READERS

if TYPE_CHECKING:
    from tersor.config import LayerConfig, Method
    from tersor.reporting.file_report import Report


# ---- Reading models

Tensors = Mapping[str, container.Tensor]


def _read_model(path: Path) -> tuple[Tensors, Mapping[str, str]]:
    """All tensors of a dense model file, and its metadata."""
    if not path.is_file():
        raise InputError(f"{path}: {'is not a file' if path.exists() else 'no such file'}")
    if path.suffix in (".pt", ".pth", ".bin"):
        return _read_torch(path), {}
    with naming_file(path), container.open(path) as file:
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
    from tersor.io.state_dict import to_file_tensor

    try:
        return {name: to_file_tensor(value, name) for name, value in state.items()}
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error


# ---- The commands


def compress(
    source: Path,
    output: Path | None,
    *,
    bits: int = 4,
    conv_bits: int = 8,
    density: float | None = None,
    method: Method = "kmeans",
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
    from tersor._validation import as_float32
    from tersor.codec.blob import SUFFIX, encode_blob
    from tersor.codec.encode import compress_weight
    from tersor.config import LayerConfig
    from tersor.reporting.file_report import report
    from tersor.search import rate_distortion

    if source.is_dir() or source.suffix == ".json":
        if output is None or dry_run or target_bytes is not None or target_ratio is not None:
            raise InputError("a checkpoint of several files needs -o OUT, and takes no target")
        kinds = {2: LayerConfig(codebook_size=2**bits - 1, density=density, method=method)}
        filters = LayerConfig(codebook_size=2**conv_bits - 1, density=density, method=method)
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
    items: dict[str, rate_distortion.Item] = {}
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
        weight = as_float32(FLOAT_READERS[tensor.dtype](raw).reshape(tensor.shape), name)
        config = LayerConfig(codebook_size=2**width - 1, density=density, method=method)
        items[name] = rate_distortion.Item(weight, LayerConfig() if searches else config)
    if not items:
        raise InputError(f"{source}: no tensor to compress (see --only)")

    def write(blobs: rate_distortion.Blobs, path: Path) -> int:
        coded = {
            name + SUFFIX: container.Tensor("U8", blob.shape, blob) for name, blob in blobs.items()
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
                settings = rate_distortion.fit(
                    items, lambda blobs: write(blobs, trial), limit, size=True, progress=print
                )
            except ValueError as error:
                raise InputError(f"{source}: {error}") from error
        blobs = {
            name: encode_blob(compress_weight(item.weight, settings[name], name))
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
    from tersor import __version__
    from tersor._validation import as_float32
    from tersor.codec.blob import SUFFIX, encode_blob
    from tersor.codec.encode import compress_weight
    from tersor.io import shards
    from tersor.reporting.file_report import report

    with naming_file(source), container.open(source) as checkpoint:
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
            raw = FLOAT_READERS[view.dtype](view.bytes()).reshape(view.shape)
            weight = as_float32(raw, view.name)
            blob = encode_blob(compress_weight(weight, settings(view.shape), view.name))
            return view.name + SUFFIX, container.Tensor("U8", blob.shape, blob)

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
