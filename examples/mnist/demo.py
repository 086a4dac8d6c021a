"""The main job on real data: both LeNets of ``examples/mnist``, from dense to a file to answers.

The compressed file is loaded and judged in a fresh process, which has seen nothing but the file.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import tersor
from tersor.config import Config, LayerConfig
from tersor.io import container
from tersor.pipeline.compress import compress_
from tersor.reporting.file_report import report, to_json, to_text


@dataclass(frozen=True)
class Promise:
    """What the demo must reach, or it fails: test error in per cent, and dense over file bytes."""

    error: float
    ratio: float


PROMISES = {"lenet-300-100": Promise(1.64, 80.0), "lenet-5": Promise(0.80, 60.0)}
NETS = tuple(PROMISES)


@dataclass(frozen=True)
class Measured:
    """What the fresh process finds: errors in per cent, the latencies of one image in microseconds.

    The latencies are minima over runs that alternate between both; the medians stand beside them.
    """

    error_dense: float
    error_compressed: float
    latency_dense_us: float
    latency_compressed_us: float
    latency_dense_median_us: float
    latency_compressed_median_us: float


def find_data(data: Path | None = None) -> Path:
    """The folder ``examples/mnist`` of the source checkout: ``data``, or the one around here.

    Raises:
        FileNotFoundError: there is none; the message says what to do.
    """
    here = [Path.cwd(), *Path.cwd().parents, *Path(__file__).resolve().parents]
    candidates = [data] if data is not None else [parent / "examples" / "mnist" for parent in here]
    for folder in candidates:
        if (folder / "compress_lenet.py").is_file() and (folder / "checkpoints").is_dir():
            return folder.resolve()
    where = str(data) if data is not None else f"{Path.cwd()} and the folders above it"
    raise FileNotFoundError(
        f"no demo data in {where}: run in a source checkout of tersor, or give its examples/mnist "
        "with --data"
    )


def _example(data: Path, module: str) -> Any:
    """Imports a module of ``examples/mnist``, which is no package and not installed."""
    if str(data) not in sys.path:
        sys.path.insert(0, str(data))
    return importlib.import_module(module)


def _dense(data: Path, net: str) -> nn.Module:
    model: nn.Module = _example(data, "models").dense_model(net)
    return model.eval()


# ---- In the fresh process


def latencies(
    first: Callable[[], object], second: Callable[[], object], rounds: int = 60, calls: int = 20
) -> tuple[list[float], list[float]]:
    """Microseconds for a call of each, one mean a round; the two alternate, so both see the same
    machine."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for run, kept in zip((first, second), times, strict=True):
            run()  # bring its weights back into the cache
            start = time.perf_counter_ns()
            for _ in range(calls):
                run()
            kept.append((time.perf_counter_ns() - start) / calls / 1000)
    return times


def measure(data: Path, net: str, path: Path) -> Measured:
    """Loads ``path`` into a new model, and sets it beside the dense one on one thread."""
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    mnist = _example(data, "mnist")
    images, labels = mnist.load_test()
    dense = _dense(data, net)
    compressed: nn.Module = _example(data, "models").MODELS[net]()
    tersor.load_model(path, compressed)
    compressed.eval()
    error_dense = mnist.error_percent(dense, images, labels)
    error_compressed = mnist.error_percent(compressed, images, labels)
    image = images[:1].contiguous()
    with torch.inference_mode():
        times = latencies(lambda: dense(image), lambda: compressed(image))
    return Measured(
        error_dense=error_dense,
        error_compressed=error_compressed,
        latency_dense_us=min(times[0]),
        latency_compressed_us=min(times[1]),
        latency_dense_median_us=statistics.median(times[0]),
        latency_compressed_median_us=statistics.median(times[1]),
    )


def _measure_afresh(data: Path, net: str, path: Path) -> Measured:
    command = [sys.executable, __file__, "--net", net, "--measure", str(path)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"the fresh process that runs {path} ended with {done.returncode}")
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


# ---- In the first process


def broken_promises(net: str, error: float, ratio: float) -> list[str]:
    """What falls short of :data:`PROMISES`, a line each; empty when all is well."""
    promise = PROMISES[net]
    broken = []
    if not error <= promise.error:
        broken.append(f"{net}: error {error:.2f} % is over the promised {promise.error:.2f} %")
    if not ratio >= promise.ratio:
        broken.append(f"{net}: {ratio:.1f}x by file bytes is under the promised {promise.ratio:g}x")
    return broken


def _compress(data: Path, net: str, seed: int, path: Path, console: Any) -> None:
    """Runs the recipe with its progress shown, and writes the file."""
    recipe = _example(data, "compress_lenet")
    console.print(f"{net}: compressing", highlight=False)
    model: nn.Module = recipe.compress_lenet(
        net, seed=seed, progress=lambda step: console.print(f"{net}: {step}", highlight=False)
    )
    with console.status(f"{net}: encoding"):
        # The weights are shared already: every width that holds their values is lossless.
        shared = LayerConfig(codebook_size=255)
        compress_(model, Config(linear=shared, conv=shared))
        path.parent.mkdir(parents=True, exist_ok=True)
        tersor.save(model, path, config=False)


def run(*, data: Path | None, output: Path, nets: Sequence[str] = NETS, seed: int = 0) -> bool:
    """The whole demo; writes the files beside ``output`` and the figures into it.

    Returns whether every promise was kept.

    Raises:
        FileNotFoundError: not in a checkout.
        ValueError: an unknown net.
    """
    from rich.console import Console

    unknown = sorted(set(nets) - set(NETS))
    if unknown:
        raise ValueError(f"unknown net {unknown[0]!r}: choose from {', '.join(NETS)}")
    data = find_data(data)
    console = Console()
    results: dict[str, Any] = {}
    broken: list[str] = []
    for net in nets:
        start = time.perf_counter()
        path = output.parent / f"{net}.safetensors"
        _compress(data, net, seed, path, console)
        with console.status(f"{net}: running from the file in a fresh process"):
            measured = _measure_afresh(data, net, path)
        with container.open(path) as file:
            table = report(file, verify=True)
        totals = table.totals
        # Plain text, so that the columns stay whole in a log or a narrow terminal.
        console.print(to_text(table), highlight=False, markup=False, soft_wrap=True)
        console.print(
            f"error on 10,000 test images: dense {measured.error_dense:.2f} %, "
            f"compressed {measured.error_compressed:.2f} %\n"
            f"batch-1 latency, one thread, min (median): "
            f"dense {measured.latency_dense_us:.1f} ({measured.latency_dense_median_us:.1f}) us, "
            f"compressed {measured.latency_compressed_us:.1f} "
            f"({measured.latency_compressed_median_us:.1f}) us\n"
            f"{path}, {time.perf_counter() - start:.0f} s\n",
            highlight=False,
            soft_wrap=True,
        )
        broken += broken_promises(net, measured.error_compressed, totals.ratio_file)
        results[net] = {
            "file": str(path),
            "file_bytes": totals.file_bytes,
            "dense_bytes": totals.dense_bytes,
            "ratio_file": totals.ratio_file,
            "ratio_paper": totals.ratio_paper,
            **asdict(measured),
            "layers": to_json(table)["layers"],
        }
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(results, indent=2) + "\n")
    for line in broken:
        print(f"tersor: {line}", file=sys.stderr)
    return not broken


def main(arguments: Sequence[str] | None = None) -> int:
    """The demo; with ``--measure``, the fresh process, which prints :class:`Measured` as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--output", type=Path, default=Path("build/demo.json"), help="JSON to write"
    )
    parser.add_argument("--net", action="append", choices=NETS, help="default: both")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--measure", type=Path, metavar="FILE", help=argparse.SUPPRESS)
    parsed = parser.parse_args(arguments)
    nets = parsed.net or NETS
    if parsed.measure is not None:
        print(json.dumps(asdict(measure(find_data(), nets[0], parsed.measure))))
        return 0
    return 0 if run(data=None, output=parsed.output, nets=nets, seed=parsed.seed) else 1


if __name__ == "__main__":
    sys.exit(main())
