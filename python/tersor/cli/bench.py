"""``tersor bench``: how fast the layers of a file run, against dense ones."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tersor.cli.errors import InputError, import_torch, naming_file
from tersor.codec.blob import SUFFIX
from tersor.io import container

_SECONDS = 0.05  # for each contender of a layer, at least


@dataclass(frozen=True)
class LayerTime:
    """The fastest call of a layer's ``forward``.

    Attributes:
        name: of the layer.
        shape: of its weight.
        dense_us, compressed_us: microseconds of ``nn.Linear`` and of the compressed layer.
        blob_bytes: of its blob.
        error: of the largest output, against the dense layer of the same weights.
    """

    name: str
    shape: tuple[int, ...]
    dense_us: float
    compressed_us: float
    blob_bytes: int
    error: float

    @property
    def speedup(self) -> float:
        """How many times faster the compressed layer is."""
        return self.dense_us / self.compressed_us


@dataclass(frozen=True)
class BenchOptions:
    """What is measured.

    Attributes:
        batch: vectors at once.
        threads: of torch.
        precision: class of arithmetic.
    """

    batch: int = 1
    threads: int = 1
    precision: str = "high"


def bench(source: Path, options: BenchOptions) -> tuple[list[LayerTime], list[str]]:
    """Times the matrices of a file as linear layers, compressed and dense in turns.

    Returns:
        Their times, and the names of compressed tensors that are no matrices: how long a
        convolution takes depends on images, which a file does not tell
        (:func:`tersor.profile` of the model does).

    Raises:
        InputError, OSError: the message names what is wrong with which file.
    """
    torch = import_torch()
    before = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    times, left = [], []
    try:
        with naming_file(source), container.open(source) as file:
            file.verify()
            for name, view in file.tensors.items():
                if not view.compressed:
                    continue
                shape = tuple(view.layer().shape)
                if len(shape) == 2:
                    times.append(_time(name.removesuffix(SUFFIX), view, shape, options))
                elif len(shape) > 2:
                    left.append(name.removesuffix(SUFFIX))
    finally:
        torch.set_num_threads(before)
    if not times and not left:
        raise InputError(f"{source}: holds no compressed layer")
    return times, left


def _time(
    name: str, view: container.TensorView, shape: tuple[int, ...], options: BenchOptions
) -> LayerTime:
    import torch

    from tersor.nn.linear import CompressedLinear

    rows, cols = shape
    linear = torch.nn.Linear(cols, rows, bias=False, device="meta")
    layer = CompressedLinear.empty_like(linear)
    layer.set_blob(torch.from_numpy(view.bytes().copy()))
    layer.precision, layer.execution = options.precision, "compressed"
    layer.requires_grad_(False).eval()
    dense = layer.to_dense().requires_grad_(False).eval()
    x = torch.randn(options.batch, cols, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = dense(x)
        off = (layer(x) - expected).abs().max() / expected.abs().max().clamp(min=1e-30)
        dense_s, compressed_s = _alternate(lambda: dense(x), lambda: layer(x))
    return LayerTime(name, shape, dense_s * 1e6, compressed_s * 1e6, view.nbytes, float(off))


def _alternate(a: Callable[[], Any], b: Callable[[], Any]) -> tuple[float, float]:
    """Seconds of the fastest call of each, in turns."""
    best = [float("inf"), float("inf")]
    spent = 0.0
    rounds = 0
    while spent < 2 * _SECONDS or rounds < 5:
        for i, call in enumerate((a, b)):
            start = time.perf_counter()
            call()
            seconds = time.perf_counter() - start
            best[i] = min(best[i], seconds)
            spent += seconds
        rounds += 1
    return best[0], best[1]


def show(times: list[LayerTime], left: list[str], options: BenchOptions, as_json: bool) -> None:
    """Prints the table, or JSON."""
    if as_json:
        layers = [{**asdict(each), "speedup": each.speedup} for each in times]
        print(json.dumps({"options": asdict(options), "layers": layers, "left": left}, indent=2))
        return
    width = max([len(each.name) for each in times] + [len("layer")])
    print(f"{'layer':<{width}}  {'shape':>13}  {'dense µs':>10}  {'µs':>10}  {'faster':>7}  GB/s")
    for each in times:
        size = " x ".join(map(str, each.shape))
        rate = each.blob_bytes / each.compressed_us / 1e3
        print(
            f"{each.name:<{width}}  {size:>13}  {each.dense_us:>10,.1f}  "
            f"{each.compressed_us:>10,.1f}  {each.speedup:>6.1f}x  {rate:4.1f}"
        )
    dense, own = sum(t.dense_us for t in times), sum(t.compressed_us for t in times)
    if times:
        print(f"all: {dense:,.1f} -> {own:,.1f} µs, {dense / own:.1f}x")
    threads = f"{options.threads} thread{'s' if options.threads > 1 else ''}"
    print(f"batch {options.batch}, {threads}, precision {options.precision}; GB/s of the blob")
    if left:
        print(f"not timed (the file does not tell the size of their inputs): {', '.join(left)}")
