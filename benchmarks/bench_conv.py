"""Convolutions from compressed filters against dense ones: ``make bench-conv``.

Everything runs in this process on one thread of one processor, from NCHW fp32 to NCHW fp32 through
the forward of the module. The contenders alternate: each round times every one of them once, and
the fastest round of each counts. The dense peer is the faster of ``F.conv2d`` and of oneDNN, which
torch does not take for every shape. Answers are checked against float64 before anything is timed.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import tersor
from benchmarks.conv_networks import NETWORKS, fill, make_weight
from tersor.config import Config, LayerConfig
from tersor.kernels import isa
from tersor.nn import CompressedConv2d
from tersor.nn.base import Compressed

PRECISIONS = ["high", "medium", "low"]
COLUMNS = [*PRECISIONS, "auto"]  # the last: `high` where it is faster than dense
ERROR_LIMITS = {"highest": 2.0**-18, "high": 2.0**-18, "medium": 2.0**-13, "low": 2.0**-6}
VALUES = 15  # of a codebook, beside zero


@dataclass(frozen=True)
class Shape:
    """A layer: square images of ``size`` pixels, square kernels, and the share of weights kept."""

    name: str
    channels: int
    filters: int
    groups: int
    size: int
    kernel: int
    padding: int
    stride: int
    density: float


SHAPES = [
    Shape("AlexNet conv2", 96, 256, 2, 27, 5, 2, 1, 0.38),
    Shape("AlexNet conv3", 256, 384, 1, 13, 3, 1, 1, 0.35),
    Shape("VGG-16 conv1_2", 64, 64, 1, 224, 3, 1, 1, 0.22),
    Shape("VGG-16 conv3_2", 256, 256, 1, 56, 3, 1, 1, 0.24),
    Shape("VGG-16 conv5_2", 512, 512, 1, 14, 3, 1, 1, 0.29),
    Shape("3x3 64@56", 64, 64, 1, 56, 3, 1, 1, 0.30),
    Shape("3x3 128@28", 128, 128, 1, 28, 3, 1, 1, 0.30),
    Shape("3x3 256@14", 256, 256, 1, 14, 3, 1, 1, 0.30),
    Shape("3x3 512@7", 512, 512, 1, 7, 3, 1, 1, 0.30),
    Shape("1x1 64-256@56", 64, 256, 1, 56, 1, 0, 1, 0.30),
    Shape("1x1 256-1024@14", 256, 1024, 1, 14, 1, 0, 1, 0.30),
    Shape("1x1 1024-256@14", 1024, 256, 1, 14, 1, 0, 1, 0.30),
    Shape("1x1 2048-512@7", 2048, 512, 1, 7, 1, 0, 1, 0.30),
    Shape("3x3 stride 2 128@56", 128, 128, 1, 56, 3, 1, 2, 0.30),
    Shape("ResNet-20 16@32", 16, 16, 1, 32, 3, 1, 1, 0.30),
    Shape("1x1 192-1152@7", 192, 1152, 1, 7, 1, 0, 1, 1.0),
    Shape("depthwise 5x5 672@14", 672, 672, 672, 14, 5, 2, 1, 1.0),
    Shape("depthwise 3x3 stride 2 96@112", 96, 96, 96, 112, 3, 1, 2, 1.0),
    *(
        Shape(f"VGG-16 conv5_2 at {d:.0%}", 512, 512, 1, 14, 3, 1, 1, d)
        for d in (0.5, 0.2, 0.1, 0.05)
    ),
]


@dataclass(frozen=True)
class Row:
    """A measurement: seconds of a call, and the error in its limit."""

    shape: str
    batch: int
    contender: str
    seconds: float
    error: float


def layer_of(shape: Shape, weight: torch.Tensor) -> CompressedConv2d:
    """The compressed layer of a weight."""
    dense = nn.Conv2d(
        shape.channels,
        shape.filters,
        shape.kernel,
        shape.stride,
        shape.padding,
        groups=shape.groups,
        bias=False,
    )
    dense.weight.data = weight
    layer = CompressedConv2d.from_dense(dense, LayerConfig(kind="shared_fp32"))
    return layer.requires_grad_(False).eval()


def elapsed(call: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure(shape: Shape, batch: int, rounds: int) -> list[Row]:
    """Times all contenders on a shape; their answers are right, or an AssertionError."""
    size = (shape.filters, shape.channels // shape.groups, shape.kernel, shape.kernel)
    weight = make_weight(size, shape.density, VALUES)
    layer = layer_of(shape, weight)
    x = torch.relu(torch.randn(batch, shape.channels, shape.size, shape.size))
    stride, padding, groups = shape.stride, shape.padding, shape.groups
    large = weight.numel() * x.shape[2] * x.shape[3] * batch > 4_000_000_000
    exact = F.conv2d if large else lambda a, b, *rest: F.conv2d(a.double(), b.double(), *rest)
    expected = exact(x, weight, None, stride, padding, 1, groups).double()
    sums = weight.abs().flatten(1).sum(1).double()[None, :, None, None] * x.abs().max()

    def compressed(precision: str) -> Callable[[], torch.Tensor]:
        def call() -> torch.Tensor:
            layer.precision = precision
            layer.execution = "compressed"
            return layer(x)

        return call

    def chosen() -> torch.Tensor:
        layer.precision, layer.execution = "high", "auto"
        return layer(x)

    contenders: dict[str, Callable[[], torch.Tensor]] = {
        "torch": lambda: F.conv2d(x, weight, None, stride, padding, 1, groups),
        "oneDNN": lambda: torch.mkldnn_convolution(
            x, weight, None, [padding] * 2, [stride] * 2, [1, 1], groups
        ),
        **{precision: compressed(precision) for precision in PRECISIONS},
        "auto": chosen,
    }
    errors = {}
    for name, call in contenders.items():
        error = float(((call().double() - expected).abs() / sums).max())
        errors[name] = error
        limit = ERROR_LIMITS.get(name, ERROR_LIMITS["high"])
        assert error <= limit, f"{shape.name}: {name} is off by {error}, more than {limit}"
    best = dict.fromkeys(contenders, float("inf"))
    for _ in range(rounds):
        for name, call in contenders.items():
            best[name] = min(best[name], elapsed(call))
    return [Row(shape.name, batch, name, best[name], errors[name]) for name in contenders]


def set_contender(network: nn.Module, contender: str) -> None:
    """The class and the way of all compressed layers."""
    for module in network.modules():
        if isinstance(module, Compressed):
            module.precision = contender if contender in PRECISIONS else "high"
            module.execution = "compressed" if contender in PRECISIONS else "auto"


def measure_network(name: str, rounds: int) -> list[Row]:
    """The same for a whole network at batch 1; its error is that of the largest output."""
    make, side, density, values = NETWORKS[name]
    dense = fill(make(), density, values)
    small = tersor.fuse_(tersor.compress_(fill(make(), density, values), Config()))
    x = torch.randn(1, 3, side, side)
    expected = dense(x)
    contenders = ["torch", *COLUMNS]
    best = dict.fromkeys(contenders, float("inf"))
    errors = dict.fromkeys(contenders, 0.0)
    for turn in range(rounds + 1):
        for contender in contenders:
            network = dense if contender == "torch" else small
            set_contender(small, contender)
            seconds = elapsed(lambda network=network: network(x))
            if turn > 0:
                best[contender] = min(best[contender], seconds)
            else:
                off = (network(x) - expected).abs().max() / expected.abs().max()
                errors[contender] = float(off)
    rows = [Row(name, 1, each, best[each], errors[each]) for each in contenders]
    return [*rows, Row(name, 1, "oneDNN", best["torch"], errors["torch"])]


def ratios(rows: list[Row]) -> dict[str, float]:
    """By class, how many times as fast as the faster dense convolution, which is ``dense`` in s."""
    by_name = {row.contender: row.seconds for row in rows}
    dense = min(by_name["torch"], by_name["oneDNN"])
    return {"dense": dense, **{name: dense / by_name[name] for name in COLUMNS}}


def show(name: str, batch: int, rows: list[Row]) -> None:
    found = ratios(rows)
    cells = " | ".join(f"{found[precision]:.2f}" for precision in COLUMNS)
    print(f"| {name} | {batch} | {found['dense'] * 1e6:.0f} | {cells} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", default="1", help="batch sizes, e.g. 1,16")
    parser.add_argument("--only", default="", help="a part of the shapes' names")
    parser.add_argument("--networks", action="store_true", help="whole networks too")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=Path("build/bench/conv.json"))
    options = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    torch.manual_seed(1)
    measured = []
    with torch.inference_mode():
        print(f"| {isa.in_use()} | batch | dense µs | " + " | ".join(COLUMNS) + " |")
        print("|---|---|---|" + "---|" * len(COLUMNS))
        for batch in map(int, options.batch.split(",")):
            for shape in SHAPES:
                if options.only not in shape.name:
                    continue
                rows = measure(shape, batch, options.rounds)
                measured += rows
                show(shape.name, batch, rows)
        for name in NETWORKS:
            if options.networks and options.only in name:
                rows = measure_network(name, options.rounds)
                measured += rows
                show(name, 1, rows)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    result = {"isa": isa.in_use(), "rows": [asdict(row) for row in measured]}
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
