"""Sparse products against torch on the layers of EIE: ``make bench-spmm``.

Everything runs in this process on one thread of one processor. The contenders alternate: each
round times every one of them once, so that a slow moment of the machine strikes all alike. *Hot*
calls follow a call of the same contender; before *cold* ones the caches are overwritten. Answers
are checked against float64 before anything is timed.

Layers: Han et al., EIE (arXiv 1602.01528), table III, and 4096 -> 11008 at 10, 30 and 50 %.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from tersor import _core, csr, isa
from tersor.layer import Layer, encode_layer, pack_layer
from tersor.nn import CompressedLinear

PRECISIONS = ["highest", "high", "medium", "low"]
ERROR_LIMITS = {"high": 2.0**-18, "medium": 2.0**-13, "low": 2.0**-6}
CACHE_BYTES = 128 << 20  # more than any cache holds


@dataclass(frozen=True)
class Shape:
    """A layer: its size, the part of the weights kept, the part of the inputs that is not zero."""

    name: str
    inputs: int
    outputs: int
    density: float
    active: float


EIE = [
    Shape("Alex-6", 9216, 4096, 0.09, 0.351),
    Shape("Alex-7", 4096, 4096, 0.09, 0.353),
    Shape("Alex-8", 4096, 1000, 0.25, 0.375),
    Shape("VGG-6", 25088, 4096, 0.04, 0.183),
    Shape("VGG-7", 4096, 4096, 0.04, 0.375),
    Shape("VGG-8", 4096, 1000, 0.23, 0.411),
    Shape("NT-We", 4096, 600, 0.10, 1.0),
    Shape("NT-Wd", 600, 8791, 0.11, 1.0),
    Shape("NT-LSTM", 1201, 2400, 0.10, 1.0),
]
SHAPES = EIE + [Shape(f"TF-{density}", 4096, 11008, density / 100, 1.0) for density in (10, 30, 50)]


@dataclass(frozen=True)
class Contender:
    """One way to compute the product: ``call`` leaves it in ``result()``."""

    name: str
    call: Callable[[], torch.Tensor]


def make_layer(shape: Shape, seed: int) -> tuple[Layer, np.ndarray]:
    """A pruned layer with 15 shared weights beside 0, and its dense float32 matrix."""
    generator = np.random.default_rng(seed)
    size = (shape.outputs, shape.inputs)
    kept = generator.random(size, dtype=np.float32) < shape.density
    codes = generator.integers(1, 16, size, dtype=np.uint8)
    codes *= kept
    # What is left of a normal distribution once the small weights are pruned.
    values = np.sort(np.concatenate([-np.linspace(0.5, 2, 8), np.linspace(0.5, 2.1, 7)]))
    layer = Layer(size, "shared_fp32", csr.encode(codes, 4), values.astype(np.float32))
    return layer, layer.codebook()[codes]


def make_inputs(shape: Shape, batch: int, seed: int) -> torch.Tensor:
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(batch, shape.inputs)).astype(np.float32)
    if shape.active < 1:  # after a ReLU
        x = np.abs(x) * (generator.random(x.shape) < shape.active).astype(np.float32)
    return torch.from_numpy(x)


def raw_call(
    packed: _core.PackedMatrix, x: torch.Tensor, precision: str
) -> Callable[[], torch.Tensor]:
    """The product with no more around it than the crossing from Python to C++."""
    out = torch.empty((x.shape[0], packed.rows))
    source, batch, target = x.data_ptr(), x.shape[0], out.data_ptr()

    def call() -> torch.Tensor:
        _core.spmm_multiply_ptr(packed, source, batch, 0, target, precision, 1)
        return out

    return call


def peers(dense: nn.Linear, x: torch.Tensor, weight: np.ndarray) -> list[Contender]:
    """What torch offers besides dense float32."""
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        matrix = torch.from_numpy(weight).to_sparse_csr()
        columns = x.t().contiguous()
        found.append(Contender("torch_csr", lambda: (matrix @ columns).t()))
        int8 = torch.ao.quantization.quantize_dynamic(nn.Sequential(dense), {nn.Linear})
        found.append(Contender("torch_int8_dynamic", lambda: int8(x)))
        half = nn.Linear(dense.in_features, dense.out_features, bias=False, dtype=torch.bfloat16)
        half.weight = nn.Parameter(dense.weight.to(torch.bfloat16), requires_grad=False)
        x_half = x.to(torch.bfloat16)
        found.append(Contender("torch_bf16", lambda: half(x_half)))
    return found


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


def check(
    y: torch.Tensor, expected: np.ndarray, magnitudes: np.ndarray, x: np.ndarray, precision: str
) -> float:
    """The relative error of the answer; raises AssertionError where its class is not met."""
    error = np.abs(y.numpy().astype(np.float64) - expected)
    largest = np.abs(x).max(1, keepdims=True)
    limit = ERROR_LIMITS.get(precision, 2.0**-18)
    assert (error <= limit * largest * magnitudes).all(), f"{precision}: the bound is not met"
    return float(np.linalg.norm(error) / np.linalg.norm(expected))


def time_hot(call: Callable[[], torch.Tensor], target: float = 3e-3) -> float:
    """Seconds a call, over as many calls as take `target` seconds, after as many untimed ones.

    One call is not enough to warm up: a cache that holds what others evicted fills over several.
    """
    begin = time.perf_counter()
    calls = 0
    while calls < 2 or time.perf_counter() - begin < target:
        call()
        calls += 1
    begin = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - begin) / calls


def time_cold(call: Callable[[], torch.Tensor], flush: torch.Tensor) -> float:
    """Seconds of one call after the caches were overwritten."""
    flush.add_(1)
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def bench_layer(shape: Shape, batches: list[int], rounds: int) -> list[dict[str, object]]:
    layer, weight = make_layer(shape, 1)
    packed = pack_layer(layer)
    dense = nn.Linear(shape.inputs, shape.outputs, bias=False)
    dense.weight = nn.Parameter(torch.from_numpy(weight), requires_grad=False)
    # The packed form of a buffer that was made in inference mode cannot be kept.
    with torch.inference_mode(False):
        module = CompressedLinear(encode_layer(layer), None, "high").eval()
    flush = torch.zeros(CACHE_BYTES // 4)
    bytes_per_nonzero = packed.nbytes / packed.nonzeros
    rows: list[dict[str, object]] = []
    for batch in batches:
        x = make_inputs(shape, batch, 2)
        expected, magnitudes = reference(weight, x.numpy())
        ours = [Contender(f"kernel:{p}", raw_call(packed, x, p)) for p in PRECISIONS]
        ours.append(Contender("module:high", lambda x=x: module(x)))
        errors = {
            c.name: check(c.call(), expected, magnitudes, x.numpy(), c.name.split(":")[1])
            for c in ours
        }
        contenders = [Contender("dense", lambda x=x: dense(x)), *ours, *peers(dense, x, weight)]
        for temperature in ["hot", "cold"]:
            seconds: dict[str, list[float]] = {c.name: [] for c in contenders}
            for _ in range(rounds):
                for c in contenders:
                    taken = time_hot(c.call) if temperature == "hot" else time_cold(c.call, flush)
                    seconds[c.name].append(taken)
            median = {name: statistics.median(s) * 1e6 for name, s in seconds.items()}
            least = {name: min(s) * 1e6 for name, s in seconds.items()}
            names = {c.name for c in ours} | {"dense"}
            for c in ours:
                through, precision = c.name.split(":")
                rows.append(
                    {
                        "layer": shape.name,
                        "density": shape.density,
                        "batch": batch,
                        "precision": precision,
                        "isa": isa.in_use(),
                        "temperature": temperature,
                        "through": through,
                        "ours_us": median[c.name],
                        "dense_us": median["dense"],
                        "ratio_dense": median["dense"] / median[c.name],
                        "ratio_dense_of_minima": least["dense"] / least[c.name],
                        "peers": {n: us for n, us in median.items() if n not in names},
                        "relative_error": errors[c.name],
                        "bytes_per_nonzero": bytes_per_nonzero,
                    }
                )
    return rows


def print_table(rows: list[dict[str, object]]) -> None:
    """Speed-ups over dense, a line a layer, and the geometric mean of the nine layers of EIE."""
    columns = [("kernel", p) for p in PRECISIONS] + [("module", "high")]
    eie = {shape.name for shape in EIE}
    for batch in sorted({int(str(row["batch"])) for row in rows}):
        for temperature in ["hot", "cold"]:
            print(f"\nbatch {batch}, {temperature}: speed-up over torch dense fp32 (median)")
            header = [p if through == "kernel" else "forward" for through, p in columns]
            print(f"{'layer':10}{'dense us':>10}" + "".join(f"{h:>10}" for h in header))
            means: dict[tuple[str, str], list[float]] = {c: [] for c in columns}
            for name in dict.fromkeys(str(row["layer"]) for row in rows):
                line = ""
                for row in rows:
                    key = (str(row["through"]), str(row["precision"]))
                    if (row["layer"], row["batch"], row["temperature"]) != (
                        name,
                        batch,
                        temperature,
                    ):
                        continue
                    if not line:
                        line = f"{name:10}{row['dense_us']:10.0f}"
                    line += f"{row['ratio_dense']:10.1f}"
                    if name in eie:
                        means[key].append(math.log(float(str(row["ratio_dense"]))))
                print(line)
            if all(means.values()):
                line = "".join(f"{math.exp(statistics.mean(means[c])):10.1f}" for c in columns)
                print(f"{'mean':20}{line}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--layers", nargs="*", default=[shape.name for shape in SHAPES])
    parser.add_argument("--batches", nargs="*", type=int, default=[1, 8, 64])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--cpu", type=int, help="the processor to run on; the last one if missing")
    parser.add_argument("--output", type=Path, default=Path("build/bench/spmm.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        cpu = options.cpu if options.cpu is not None else max(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cpu})
    rows: list[dict[str, object]] = []
    with torch.inference_mode():
        for shape in SHAPES:
            if shape.name in options.layers:
                rows += bench_layer(shape, options.batches, options.rounds)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(rows, indent=1) + "\n")
    print_table(rows)


if __name__ == "__main__":
    main()
