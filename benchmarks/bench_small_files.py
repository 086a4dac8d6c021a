"""The committed files with each entropy coder: bytes of the same weights (docs/results.md).

    python benchmarks/bench_small_files.py [FILE...]

Each layer of a file is coded again by ``smallest`` where that takes fewer bytes; everything else
stays as it is. The weights of what is written are compared with those of the file.
"""

from __future__ import annotations

import dataclasses
import re
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

from tersor.codec.blob import decode_blob, encode_blob
from tersor.codec.encode import decompress_weight
from tersor.io import container

ROOT = Path(__file__).resolve().parent.parent


def recoded(view: container.TensorView) -> container.Tensor:
    """A tensor of a file; of a layer the smaller of its blob and the same by the other coder."""
    if not view.compressed:
        raw = view.stored()
        coded = ("U8", raw.shape) if view.lossless else (view.dtype, view.shape)
        return container.Tensor(*coded, raw)
    stored = container.Tensor("U8", view.shape, view.stored())
    blob = encode_blob(dataclasses.replace(decode_blob(stored.raw()), entropy="smallest"))
    return container.Tensor("U8", blob.shape, blob) if blob.size < stored.nbytes else stored


def contents(path: Path) -> dict[str, np.ndarray]:
    """All numbers of a file, by name."""
    with container.open(path) as file:
        file.verify()
        return {
            name: decompress_weight(view.layer()) if view.compressed else np.array(view.bytes())
            for name, view in file.tensors.items()
        }


def measure(path: Path) -> tuple[int, int, float]:
    """Bytes of a file before and after, and the seconds that decoding its layers takes after."""
    with tempfile.TemporaryDirectory() as folder, container.open(path) as file:
        to = Path(folder) / path.name
        container.write_file(
            to, {view.stored_name: recoded(view) for view in file.tensors.values()}, file.metadata
        )
        before, after = contents(path), contents(to)
        if before.keys() != after.keys() or any(
            not np.array_equal(before[name], after[name]) for name in before
        ):
            raise AssertionError(f"{path}: the weights differ")
        start = time.perf_counter()
        contents(to)
        return file.file_bytes, to.stat().st_size, time.perf_counter() - start


def main() -> None:
    """Prints a table, a line for each method: means over its files."""
    given = [Path(argument) for argument in sys.argv[1:]]
    files = given or sorted(ROOT.glob("examples/*/compressed/*.safetensors"))
    by_method = defaultdict(list)
    for path in files:
        by_method[re.sub(r"-\d+$", "", path.stem)].append(measure(path))
    print("| file | Huffman, bytes | smallest, bytes | difference | decoding, ms |")
    print("|---|---|---|---|---|")
    for name, rows in by_method.items():
        before, after, seconds = (statistics.mean(column) for column in zip(*rows, strict=True))
        change = f"{after / before - 1:+.1%}".replace("-", "−")
        print(f"| {name} | {before:,.0f} | {after:,.0f} | {change} | {1e3 * seconds:.0f} |")


if __name__ == "__main__":
    main()
