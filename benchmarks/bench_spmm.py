"""Sparse products against torch and others: ``make bench-spmm``.

Everything runs in this process on one thread of one processor. The contenders alternate: each
round times every one of them once, so that a slow moment of the machine strikes all alike. *Hot*
calls follow calls of the same contender; before *cold* ones twice as much memory as the last cache
holds is overwritten. Answers are checked against float64 before anything is timed.

The work is cut into parts, each of which leaves a file: a run goes on where another ended.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.spmm_layers import ALEXNET, EIE, SHAPES, Shape, make_inputs, make_layer
from benchmarks.spmm_peers import peers
from benchmarks.spmm_report import report
from tersor import _core
from tersor.codec.blob import decode_blob, encode_blob
from tersor.io import container
from tersor.kernels import isa, spmm
from tersor.nn import CompressedLinear

PRECISIONS = ["highest", "high", "medium", "low"]
ERROR_LIMITS = {"highest": 2.0**-18, "high": 2.0**-18, "medium": 2.0**-13, "low": 2.0**-6}
ROUNDS = {1: 9, 8: 5, 64: 3, 256: 3}
# With more vectors, arithmetic takes longer than reading weights.
COLD_BATCHES = [1, 8]
CROSSOVER_DENSITIES = [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0]
CODEBOOKS = [2, 4, 8, 16, 32, 64, 128, 256]  # values, the zero included


@dataclass(frozen=True)
class Contender:
    """One way to compute the product: ``call`` returns it, ``[batch, rows]``."""

    name: str
    call: Callable[[], Any]


def raw_call(packed: spmm.PackedMatrix, x: torch.Tensor, precision: str, threads: int = 1) -> Any:
    """The product with no more around it than the crossing from Python to C++."""
    out = torch.empty((x.shape[0], packed.rows))
    source, batch, target = x.data_ptr(), x.shape[0], out.data_ptr()

    def call() -> torch.Tensor:
        _core.spmm_multiply(packed, source, batch, 0, 0, target, 0, "none", precision, threads)
        return out

    return call


def flush_bytes() -> int:
    """Twice what the last cache holds: what has to be overwritten until no weight is in a cache."""
    sizes = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    return 2 * max([int(size.read_text().rstrip("K\n")) << 10 for size in sizes], default=64 << 20)


def reference(weight: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The product in float64, and the sum of |w| of each row."""
    result = np.empty((x.shape[0], weight.shape[0]))
    magnitudes = np.empty(weight.shape[0])
    wide = x.astype(np.float64).T
    for begin in range(0, weight.shape[0], 256):
        rows = weight[begin : begin + 256].astype(np.float64)
        result[:, begin : begin + 256] = (rows @ wide).T
        magnitudes[begin : begin + 256] = np.abs(rows).sum(1)
    return result, magnitudes


class Answer:
    """The true product, which answers are held against."""

    def __init__(self, weight: np.ndarray, x: np.ndarray) -> None:
        self.expected, magnitudes = reference(weight, x)
        self.scale = np.abs(x).max(1, keepdims=True) * magnitudes
        self.norm = float(np.linalg.norm(self.expected))

    def relative_error(self, y: Any) -> tuple[np.ndarray, float]:
        """The error of each element, and that of the whole relative to the product."""
        wide = y.double().numpy() if isinstance(y, torch.Tensor) else np.asarray(y, np.float64)
        error = np.abs(wide - self.expected)
        return error, float(np.linalg.norm(error)) / self.norm

    def check(self, y: Any, precision: str) -> float:
        """The relative error; raises AssertionError where the class is not met."""
        error, relative = self.relative_error(y)
        assert (error <= ERROR_LIMITS[precision] * self.scale).all(), f"{precision} is not met"
        return relative

    def check_peer(self, name: str, y: Any, limit: float) -> None:
        """Raises AssertionError where a peer's answer is not the product."""
        _, relative = self.relative_error(y)
        assert relative <= limit, f"{name}: relative error {relative}, more than {limit}"


def time_hot(call: Callable[[], Any], target: float = 3e-3) -> float:
    """Seconds a call, over as many calls as take `target` seconds, after as many untimed ones.

    One call is not enough to warm up: a cache that holds what others evicted fills over several.
    """
    begin = time.perf_counter()
    calls = 0
    while calls < 1 or time.perf_counter() - begin < target:
        call()
        calls += 1
    begin = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - begin) / calls


def time_cold(call: Callable[[], Any], flush: torch.Tensor) -> float:
    """Seconds of one call after the caches were overwritten."""
    flush.add_(1)
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def medians(
    contenders: list[Contender], rounds: int, flush: torch.Tensor | None = None
) -> dict[str, float]:
    """Microseconds of each, which take turns; cold where there is something to flush with."""
    seconds: dict[str, list[float]] = {c.name: [] for c in contenders}
    for _ in range(rounds):
        for c in contenders:
            taken = time_hot(c.call) if flush is None else time_cold(c.call, flush)
            seconds[c.name].append(taken)
    return {name: statistics.median(s) * 1e6 for name, s in seconds.items()}


def modules_of(blob: np.ndarray) -> dict[str, CompressedLinear]:
    """One layer in each class; all have one packed matrix."""
    # The packed form of a buffer that was made in inference mode cannot be kept.
    with torch.inference_mode(False):
        made = {p: CompressedLinear(blob, None, p).eval() for p in PRECISIONS}
    for module in made.values():
        module.weight_blob = made["high"].weight_blob
    return made


def bench_product(
    shape: Shape,
    batches: list[int],
    *,
    temperatures: tuple[str, ...] = ("hot", "cold"),
    through: tuple[str, ...] = ("kernel", "module"),
    precisions: list[str] = PRECISIONS,
    with_peers: bool = True,
    rounds: dict[int, int] = ROUNDS,
) -> list[dict[str, Any]]:
    """The rows of one layer."""
    size = (shape.outputs, shape.inputs)
    made, weight = make_layer(size, shape.density, shape.values, 1)
    packed = spmm.pack_blob(made)
    bytes_per_nonzero = packed.nbytes / max(1, packed.nonzeros)
    modules = modules_of(encode_blob(made)) if "module" in through else {}
    dense = nn.Linear(shape.inputs, shape.outputs, bias=False)
    dense.weight = nn.Parameter(torch.from_numpy(weight), requires_grad=False)
    others = peers(weight) if with_peers else []
    flush = torch.zeros(flush_bytes() // 4)
    rows: list[dict[str, Any]] = []
    for batch in batches:
        inputs = make_inputs(shape, batch, 2)
        answer = Answer(weight, inputs)
        x = torch.from_numpy(inputs)
        ours = [Contender(f"kernel:{p}", raw_call(packed, x, p)) for p in precisions]
        if modules:
            ours += [Contender(f"module:{p}", lambda m=modules[p], x=x: m(x)) for p in precisions]
        errors = {c.name: answer.check(c.call(), c.name.split(":")[1]) for c in ours}
        contenders = [Contender("dense", lambda x=x: dense(x)), *ours]
        for other in others:
            call = other.prepare(inputs)
            answer.check_peer(other.name, call(), other.error)
            contenders.append(Contender(other.name, call))
        for temperature in temperatures:
            if temperature == "cold" and batch not in COLD_BATCHES:
                continue
            us = medians(contenders, rounds[batch], flush if temperature == "cold" else None)
            for c in ours:
                way, precision = c.name.split(":")
                rows.append(
                    {
                        "layer": shape.name,
                        "density": shape.density,
                        "batch": batch,
                        "precision": precision,
                        "isa": packed.isa,
                        "temperature": temperature,
                        "through": way,
                        "ours_us": us[c.name],
                        "dense_us": us["dense"],
                        "ratio_dense": us["dense"] / us[c.name],
                        "peers": {o.name: us[o.name] for o in others},
                        "relative_error": errors[c.name],
                        "bytes_per_nonzero": bytes_per_nonzero,
                    }
                )
    return rows


def bench_layer(shape: Shape) -> dict[str, Any]:
    """A layer of EIE or a large one, at every batch."""
    return {"rows": bench_product(shape, [1, 8, 64, 256])}


def bench_avx2() -> dict[str, Any]:
    """The nine layers with our kernels of the AVX2 level; torch has what the machine has."""
    rows = []
    with isa.use("avx2"):
        for shape in EIE:
            rows += bench_product(
                shape, [1], temperatures=("hot",), through=("kernel",), with_peers=False
            )
    return {"rows": rows}


def bench_crossover() -> dict[str, Any]:
    """4096 -> 4096 at high densities."""
    rows = []
    for density in CROSSOVER_DENSITIES:
        shape = Shape("4096x4096", 4096, 4096, density)
        rows += bench_product(
            shape,
            [1, 64],
            temperatures=("hot",),
            through=("kernel",),
            precisions=["high"],
            with_peers=False,
            rounds={1: 7, 64: 5},
        )
    return {"rows": rows}


def bench_codebooks() -> dict[str, Any]:
    """4096 -> 4096 at 9 % with codebooks of every size, which take turns."""
    packed = {}
    for size in CODEBOOKS:
        made, _ = make_layer((4096, 4096), 0.09, size - 1, 1)
        packed[size] = spmm.pack_blob(made)
    found = []
    for batch in (1, 64):
        x = torch.from_numpy(make_inputs(Shape("", 4096, 4096, 0.09), batch, 2))
        for precision in PRECISIONS:
            calls = [Contender(str(k), raw_call(p, x, precision)) for k, p in packed.items()]
            us = medians(calls, 9 if batch == 1 else 3)
            found += [
                {"values": int(k), "batch": batch, "precision": precision, "ours_us": taken}
                for k, taken in us.items()
            ]
    return {"codebooks": found}


def bench_threads() -> dict[str, Any]:
    """Alex-6 with one and with two threads, on whatever processors there are."""
    shape = EIE[0]
    made, _ = make_layer((shape.outputs, shape.inputs), shape.density, shape.values, 1)
    packed = spmm.pack_blob(made)
    x = torch.from_numpy(make_inputs(shape, 1, 2))
    pinned = os.sched_getaffinity(0)
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    torch.set_num_threads(2)
    try:
        calls = [Contender(str(n), raw_call(packed, x, "high", n)) for n in (1, 2)]
        us = medians(calls, 15)
    finally:
        torch.set_num_threads(1)
        os.sched_setaffinity(0, pinned)
    return {"threads": {"layer": shape.name, "one_us": us["1"], "two_us": us["2"]}}


def bench_packing() -> dict[str, Any]:
    """Every layer packed, from entries in memory and from its blob, by one and by two threads."""
    found = []
    pinned = os.sched_getaffinity(0)
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    torch.set_num_threads(2)
    try:
        for shape in SHAPES:
            made, _ = make_layer((shape.outputs, shape.inputs), shape.density, shape.values, 1)
            blob, codebook = encode_blob(made), made.codebook()
            packed = spmm.pack_blob(blob)
            calls = [
                Contender(f"{name}_{threads}", call)
                for threads in (1, 2)
                for name, call in (
                    ("pack", partial(spmm.pack, made.csr, codebook, threads=threads)),
                    ("blob", partial(spmm.pack_blob, blob, threads=threads)),
                )
            ]
            us = medians(calls, 15)
            found.append(
                {"layer": shape.name, "nonzeros": packed.nonzeros, "nbytes": packed.nbytes}
                | {f"{name}_us": taken for name, taken in us.items()}
            )
    finally:
        torch.set_num_threads(1)
        os.sched_setaffinity(0, pinned)
    return {"packing": found}


def bench_loading() -> dict[str, Any]:
    """A file of AlexNet's shapes into packed layers, against torch's loading of the dense one."""
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Path(folder) / "alexnet.safetensors", Path(folder) / "alexnet.pt"
        tensors, state = {}, {}
        for seed, (name, shape, density, values) in enumerate(ALEXNET):
            made, weight = make_layer(shape, density, values, seed)
            blob = encode_blob(made)
            tensors[f"{name}.weight_blob"] = container.Tensor("U8", blob.shape, blob.tobytes())
            state[f"{name}.weight"] = torch.from_numpy(weight)
        container.write_file(ours, tensors, {})
        torch.save(state, theirs)

        def load() -> list[spmm.PackedMatrix]:
            with container.open(ours) as file:
                file.verify()
                return [spmm.pack_blob(view.bytes()) for view in file.tensors.values()]

        def read() -> None:
            with container.open(ours) as file:
                file.verify()

        def decode() -> None:
            with container.open(ours) as file:
                file.verify()
                for view in file.tensors.values():
                    decode_blob(view.bytes())

        calls = [
            Contender("dense", lambda: torch.load(theirs, mmap=False)),
            Contender("ours", load),
            Contender("read", read),
            Contender("read_and_decode", decode),
        ]
        us = medians(calls, 5)
        sizes = {"ours_bytes": ours.stat().st_size, "dense_bytes": theirs.stat().st_size}
    return {"loading": {f"{name}_us": taken for name, taken in us.items()} | sizes}


def bench_machine() -> dict[str, Any]:
    """What the roofline plot is drawn against: GFLOP/s of dense fp32, GB/s of reading memory."""
    a = torch.randn(1024, 1024)
    large = torch.ones(64 << 20)
    seconds = min(time_hot(lambda: a @ a) for _ in range(5))
    reading = min(time_hot(lambda: large.sum()) for _ in range(5))
    return {
        "machine": {
            "peak_gflops": 2 * 1024**3 / seconds / 1e9,
            "read_gb_per_s": large.numel() * 4 / reading / 1e9,
        }
    }


def parts() -> dict[str, Callable[[], dict[str, Any]]]:
    """What can be run by name; each takes less than three minutes on an idle machine."""
    found: dict[str, Callable[[], dict[str, Any]]] = {
        shape.name: lambda shape=shape: bench_layer(shape)  # type: ignore[misc]
        for shape in SHAPES
    }
    return found | {
        "avx2": bench_avx2,
        "crossover": bench_crossover,
        "codebooks": bench_codebooks,
        "threads": bench_threads,
        "packing": bench_packing,
        "loading": bench_loading,
        "machine": bench_machine,
    }


def main() -> None:
    """Runs the parts that have no file yet, then makes tables and plots of all there are."""
    known = parts()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--parts", nargs="*", default=list(known), choices=list(known))
    parser.add_argument("--again", action="store_true", help="run parts that have a file, too")
    parser.add_argument("--cpu", type=int, help="the processor to run on; the last one if missing")
    parser.add_argument("--folder", type=Path, default=Path("build/bench"))
    parser.add_argument("--docs", type=Path, help="a page whose tables are to be replaced")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        cpu = options.cpu if options.cpu is not None else max(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cpu})
    folder = options.folder / "spmm"
    folder.mkdir(parents=True, exist_ok=True)
    for name in options.parts:
        path = folder / f"{name}.json"
        if path.exists() and not options.again:
            continue
        begin = time.perf_counter()
        with torch.inference_mode():
            found = known[name]()
        path.write_text(json.dumps(found, indent=1) + "\n")
        print(f"{name}: {time.perf_counter() - begin:.0f} s", flush=True)
    gathered = [
        json.loads((folder / f"{n}.json").read_text())
        for n in known
        if (folder / f"{n}.json").exists()
    ]
    rows = [row for part in gathered for row in part.get("rows", [])]
    facts = {key: value for part in gathered for key, value in part.items() if key != "rows"}
    (options.folder / "spmm.json").write_text(json.dumps(rows, indent=1) + "\n")
    report(rows, facts, options.folder, options.docs)


if __name__ == "__main__":
    main()
