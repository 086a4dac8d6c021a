"""The main job on real data: both LeNets, from dense to a file to answers.

    python -m examples.mnist.demo [--output build/demo.json]

The compressed file is loaded and measured in a fresh process, which has seen nothing but the file.
"""

from __future__ import annotations

import argparse
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
from rich.console import Console

import tersor
from examples.mnist.compress_lenet import compress_lenet
from examples.mnist.dataset import error_percent, load_test
from examples.mnist.models import MODELS, dense_model
from tersor.reporting.file_report import report, to_json, to_text


@dataclass(frozen=True)
class Threshold:
    """What the demo must reach, or it fails.

    Attributes:
        error: highest test error, in per cent.
        ratio: lowest quotient of dense bytes and file bytes.
    """

    error: float
    ratio: float


THRESHOLDS = {"lenet-300-100": Threshold(1.64, 80.0), "lenet-5": Threshold(0.80, 60.0)}


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


def measure(net: str, path: Path) -> Measured:
    """Loads ``path`` into a new model, and sets it beside the dense one on one thread."""
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    images, labels = load_test()
    dense = dense_model(net).eval()
    compressed = MODELS[net]()
    tersor.load_model(path, compressed)
    compressed.eval()
    error_dense = error_percent(dense, images, labels)
    error_compressed = error_percent(compressed, images, labels)
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


def _measure_afresh(net: str, path: Path) -> Measured:
    command = [sys.executable, "-m", "examples.mnist.demo", "--net", net, "--measure", str(path)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"the fresh process that runs {path} ended with {done.returncode}")
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


# ---- In the first process


def failed_checks(net: str, error: float, ratio: float) -> list[str]:
    """What misses a threshold of :data:`THRESHOLDS`, a line each; empty when all is well."""
    threshold = THRESHOLDS[net]
    failed = []
    if not error <= threshold.error:
        failed.append(f"{net}: error {error:.2f} % is over the threshold, {threshold.error:.2f} %")
    if not ratio >= threshold.ratio:
        failed.append(f"{net}: ratio {ratio:.1f}x is under the threshold, {threshold.ratio:g}x")
    return failed


def _compress(net: str, seed: int, path: Path, console: Console) -> None:
    """Runs the recipe with its progress shown, and writes the file."""
    console.print(f"{net}: compressing", highlight=False)
    model = compress_lenet(
        net,
        seed=seed,
        progress=lambda step: console.print(f"{net}: {step}", highlight=False, soft_wrap=True),
    )
    with console.status(f"{net}: encoding"):
        tersor.compress_(model, tersor.Config.lossless_codes())
        path.parent.mkdir(parents=True, exist_ok=True)
        tersor.save(model, path, config=False)


def run(output: Path, nets: Sequence[str] = tuple(THRESHOLDS), seed: int = 0) -> bool:
    """The whole demo; writes the files beside ``output`` and the figures into it.

    Returns:
        Whether every threshold was met.

    Raises:
        ValueError: an unknown net.
    """
    unknown = sorted(set(nets) - set(THRESHOLDS))
    if unknown:
        raise ValueError(f"unknown net {unknown[0]!r}: choose from {', '.join(THRESHOLDS)}")
    console = Console()
    results: dict[str, Any] = {}
    failed: list[str] = []
    for net in nets:
        start = time.perf_counter()
        path = output.parent / f"{net}.safetensors"
        _compress(net, seed, path, console)
        with console.status(f"{net}: running from the file in a fresh process"):
            measured = _measure_afresh(net, path)
        with tersor.open(path) as file:
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
        failed += failed_checks(net, measured.error_compressed, totals.ratio_file)
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
    for line in failed:
        print(f"failed: {line}", file=sys.stderr)
    return not failed


def main(arguments: Sequence[str] | None = None) -> int:
    """The demo; with ``--measure``, the fresh process, which prints :class:`Measured` as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--output", type=Path, default=Path("build/demo.json"), help="JSON to write"
    )
    parser.add_argument("--net", action="append", choices=list(THRESHOLDS), help="default: both")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--measure", type=Path, metavar="FILE", help=argparse.SUPPRESS)
    parsed = parser.parse_args(arguments)
    nets = parsed.net or list(THRESHOLDS)
    if parsed.measure is not None:
        print(json.dumps(asdict(measure(nets[0], parsed.measure))))
        return 0
    return 0 if run(parsed.output, nets, parsed.seed) else 1


if __name__ == "__main__":
    sys.exit(main())
