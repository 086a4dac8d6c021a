"""Is this checkout as fast as an earlier one? ``make checkperf [BASE=REF]``.

    python -m benchmarks.checkperf BASE_REPOSITORY_REF [--json build/bench/checkperf.json]

Builds the C interface's shared library of both, loads both into this process, and has them load
and multiply the same layers of the same file in turns, so that a slow moment of the machine strikes
both alike. The outputs are compared first. Each row is the least time of the base over the least
time of this checkout: above 1, this one is faster. The exit status is 1 where the geometric mean of
a group of rows is more than 2 % below 1.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.spmm_layers import EIE, Shape, make_inputs, make_layer
from tersor.codec.blob import SUFFIX, encode_blob
from tersor.io.container import Tensor, write_file

LAYERS = [*EIE, Shape("TF-30", 4096, 11008, 0.3), Shape("all kept", 2048, 2048, 1.0)]
PRECISIONS = ["highest", "high", "medium", "low"]
BATCHES = [1, 8, 64]
# A sum of 9216 products in another order moves by less than this share of the largest output.
MAX_DIFFERENCE = {"highest": 1e-5, "high": 1e-5, "medium": 1e-3, "low": 0.1}
ALLOWED_LOSS = 0.02
ROUNDS = 9


class Library:
    """One build of the C interface, with what a comparison calls."""

    def __init__(self, path: Path) -> None:
        self._lib = ctypes.CDLL(str(path))
        self._lib.tersor_last_error.restype = ctypes.c_char_p
        self.abi_version = int(self._lib.tersor_abi_version())

    def _check(self, status: int) -> None:
        if status:
            raise RuntimeError(self._lib.tersor_last_error().decode())

    def open(self, path: Path) -> ctypes.c_void_p:
        file = ctypes.c_void_p()
        self._check(self._lib.tersor_open(str(path).encode(), ctypes.byref(file)))
        return file

    def load(self, file: ctypes.c_void_p, name: str, threads: int) -> ctypes.c_void_p:
        """The packed matrix of a layer."""
        matrix = ctypes.c_void_p()
        self._check(
            self._lib.tersor_load_layer(
                file, name.encode(), ctypes.c_size_t(0), threads, ctypes.byref(matrix)
            )
        )
        return matrix

    def free(self, matrix: ctypes.c_void_p) -> None:
        self._lib.tersor_free_matrix(matrix)

    def multiply(
        self, matrix: ctypes.c_void_p, x: np.ndarray, y: np.ndarray, precision: int, threads: int
    ) -> None:
        """y = x W^T for x float32 [batch, cols], y float32 [batch, rows]."""
        self._check(
            self._lib.tersor_multiply(
                matrix,
                ctypes.c_void_p(x.ctypes.data),
                ctypes.c_size_t(x.shape[0]),
                None,
                ctypes.c_void_p(y.ctypes.data),
                precision,
                threads,
            )
        )


@dataclass(frozen=True)
class Row:
    """Least and median seconds of one call, of the base and of this checkout."""

    group: str
    layer: str
    base: float
    base_median: float
    here: float
    here_median: float

    @property
    def ratio(self) -> float:
        """How many times faster this checkout is."""
        return self.base / self.here


def build(source: Path, folder: Path) -> Path:
    """The shared library of the C interface of a checkout, built into ``folder``."""
    configure = ["cmake", "-S", str(source), "-B", str(folder), "-G", "Ninja"]
    subprocess.run([*configure, "-DCMAKE_BUILD_TYPE=Release"], check=True, capture_output=True)
    command = ["cmake", "--build", str(folder), "--target", "tersor_c"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return next(folder.glob("libtersor_c.so"))


def checkout(reference: str, folder: Path) -> Path:
    """The files of a commit of this repository, under ``folder``."""
    command = ["git", "rev-parse", "--verify", f"{reference}^{{commit}}"]
    commit = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    target = folder / commit[:12]
    if not target.exists():
        target.mkdir(parents=True)
        archive = subprocess.run(["git", "archive", commit], check=True, capture_output=True)
        subprocess.run(["tar", "-x", "-C", str(target)], input=archive.stdout, check=True)
    return target


def write_layers(path: Path) -> None:
    """All layers in one compressed file."""
    tensors = {}
    for seed, shape in enumerate(LAYERS):
        size = (shape.outputs, shape.inputs)
        blob = encode_blob(make_layer(size, shape.density, shape.values, seed)[0])
        tensors[shape.name + SUFFIX] = Tensor("U8", blob.shape, blob)
    write_file(path, tensors)


def in_turns(calls: Sequence[Callable[[], None]], rounds: int = ROUNDS) -> list[list[float]]:
    """Seconds of each call; a round times every one once, over some 2 ms or one call."""
    repeats = []
    for call in calls:
        call()
        begin = time.perf_counter()
        call()
        repeats.append(max(1, int(2e-3 / (time.perf_counter() - begin))))
    times: list[list[float]] = [[] for _ in calls]
    for turn in range(rounds):
        for which in range(len(calls)) if turn % 2 == 0 else reversed(range(len(calls))):
            begin = time.perf_counter()
            for _ in range(repeats[which]):
                calls[which]()
            times[which].append((time.perf_counter() - begin) / repeats[which])
    return times


def compare(libraries: Sequence[Library], path: Path, threads: int) -> list[Row]:
    """Rows of loading and of every product of every layer."""
    rows = []
    files = [library.open(path) for library in libraries]
    suffix = f", {threads} threads" if threads > 1 else ""

    def add(group: str, layer: str, calls: Sequence[Callable[[], None]]) -> None:
        base, here = in_turns(calls)
        rows.append(Row(group + suffix, layer, min(base), median(base), min(here), median(here)))

    for shape in LAYERS:
        sources = list(zip(libraries, files, strict=True))
        name = shape.name + SUFFIX
        loads = [partial(load_and_free, *source, name, threads) for source in sources]
        add("load", shape.name, loads)
        matrices = [library.load(file, name, threads) for library, file in sources]
        for batch, (precision, title) in product(BATCHES, enumerate(PRECISIONS)):
            x = make_inputs(shape, batch, 1)
            outputs = [np.empty((batch, shape.outputs), np.float32) for _ in libraries]
            calls = [
                partial(library.multiply, matrix, x, y, precision, threads)
                for library, matrix, y in zip(libraries, matrices, outputs, strict=True)
            ]
            for call in calls:
                call()
            difference = float(np.abs(outputs[0] - outputs[1]).max() / np.abs(outputs[0]).max())
            if not difference <= MAX_DIFFERENCE[title]:
                raise SystemExit(f"{shape.name}, {title}, batch {batch}: {difference=:.2g}")
            add(f"{title}, batch {batch}", shape.name, calls)
        for library, matrix in zip(libraries, matrices, strict=True):
            library.free(matrix)
    return rows


def load_and_free(library: Library, file: ctypes.c_void_p, name: str, threads: int) -> None:
    library.free(library.load(file, name, threads))


def summarize(rows: Sequence[Row]) -> dict[str, float]:
    """The geometric mean of the ratios of each group."""
    groups: dict[str, list[float]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(math.log(row.ratio))
    return {group: math.exp(sum(logs) / len(logs)) for group, logs in groups.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", help="a tag, branch or commit of this repository")
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--json", type=Path, default=Path("build/bench/checkperf.json"))
    arguments = parser.parse_args()

    work = Path("build/checkperf")
    source = checkout(arguments.base, work / "sources")
    paths = [build(source, work / source.name), build(Path(), work / "here")]
    with suppress(OSError):  # the pool that both borrow; without it they work serially
        ctypes.CDLL("libgomp.so.1", ctypes.RTLD_GLOBAL)
    libraries = [Library(path) for path in paths]
    versions = [library.abi_version for library in libraries]
    if versions[0] != versions[1]:
        raise SystemExit(f"{arguments.base} has C interface {versions[0]}, not {versions[1]}")
    layers = work / "layers.safetensors"
    write_layers(layers)
    rows = []
    for threads in arguments.threads:
        with suppress(AttributeError):  # not on macOS
            os.sched_setaffinity(0, range(threads))
        rows += compare(libraries, layers, threads)
    means = summarize(rows)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    document = {"base": arguments.base, "means": means, "rows": [asdict(row) for row in rows]}
    arguments.json.write_text(json.dumps(document, indent=1) + "\n")
    worst = {row.group: row for row in sorted(rows, key=lambda row: row.ratio, reverse=True)}
    for group, mean in means.items():
        print(f"{group:30} {mean:6.3f}x   least {worst[group].ratio:.3f}x ({worst[group].layer})")
    return int(min(means.values()) < 1 - ALLOWED_LOSS)


if __name__ == "__main__":
    sys.exit(main())
