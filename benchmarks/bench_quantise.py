"""Quantising AlexNet's 61 million weights: from dense tensors in memory to the file on the disk.

    python -m benchmarks.bench_quantise [--json build/bench/quantise.json]

Each method runs in a process of its own, layer by layer and with all layers as one problem: prune
to the densities of Deep Compression, choose shared values, encode, write, and read one layer back
to compare. Seconds are those of the wall; peak memory is the process's largest resident set, the
dense model (and for Hessian-weighted k-means its importance) included.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tersor.codec.blob import SUFFIX, decode_blob, encode_blob
from tersor.codec.encode import decompress_weight, encode_smallest
from tersor.config import LayerConfig
from tersor.io import container
from tersor.pruning.magnitude import kept_weights
from tersor.quantizers.base import Quantized
from tersor.quantizers.ecsq import quantize_ecsq
from tersor.quantizers.kmeans import quantize_kmeans
from tersor.quantizers.uniform import quantize_uniform

# Shape and density of each layer (arXiv 1510.00149, table 4).
LAYERS = {
    "conv1": ((96, 3, 11, 11), 0.84),
    "conv2": ((256, 48, 5, 5), 0.38),
    "conv3": ((384, 256, 3, 3), 0.35),
    "conv4": ((384, 192, 3, 3), 0.37),
    "conv5": ((256, 192, 3, 3), 0.37),
    "fc6": ((4096, 9216), 0.09),
    "fc7": ((4096, 4096), 0.09),
    "fc8": ((1000, 4096), 0.25),
}
METHODS = ("kmeans", "hessian", "uniform", "ecsq")
MIB = 1 << 20

Arrays = dict[str, npt.NDArray[np.float32]]


def model(importance: bool) -> tuple[Arrays, Arrays | None]:
    """Dense weights, as training leaves them in shape, and an importance for each."""
    rng = np.random.default_rng(0)
    weights, matters = {}, {}
    for name, (shape, _) in LAYERS.items():
        # Scaled in place: a copy would be the largest memory of all.
        weight = rng.standard_normal(shape, np.float32)
        weight *= np.float32(1 / np.sqrt(np.prod(shape[1:])))
        weights[name] = weight
        if importance:
            matters[name] = rng.standard_exponential(shape, np.float32)
    return weights, matters if importance else None


def share(
    method: str, weights: Arrays, kept: dict[str, npt.NDArray[np.bool_]], matters: Arrays | None,
    together: bool,
) -> dict[str, Quantized]:  # fmt: skip
    """Shared values by one of the methods, 31 or about as many."""
    if method == "uniform":
        return quantize_uniform(weights, 32, kept=kept, joint=together)
    if method == "ecsq":
        return quantize_ecsq(weights, 64, bits=3.0, kept=kept, joint=together)
    return quantize_kmeans(weights, 31, kept=kept, importance=matters, joint=together)


def run(method: str, together: bool, path: Path) -> dict[str, object]:
    """One method: seconds of each stage, bytes, peak memory."""
    weights, matters = model(method == "hessian")
    inputs = sum(w.nbytes for w in weights.values()) * (1 if matters is None else 2)
    spent = dict.fromkeys(("prune", "share", "encode", "write"), 0.0)
    tensors: dict[str, container.Tensor] = {}
    groups = [list(LAYERS)] if together else [[name] for name in LAYERS]
    for names in groups:
        print(
            f"{method} {'together' if together else 'layers'}: {' '.join(names)}", file=sys.stderr
        )
        started = time.perf_counter()
        part = {name: weights[name] for name in names}
        kept = {name: kept_weights(w, LAYERS[name][1]) for name, w in part.items()}
        pruned = time.perf_counter()
        importance = None if matters is None else {name: matters[name] for name in names}
        shared = share(method, part, kept, importance, together)
        kept.clear()
        chosen = time.perf_counter()
        for name in names:
            blob = encode_blob(encode_smallest(shared.pop(name), LayerConfig()))
            tensors[f"{name}.weight{SUFFIX}"] = container.Tensor("U8", blob.shape, blob)
        spent["prune"] += pruned - started
        spent["share"] += chosen - pruned
        spent["encode"] += time.perf_counter() - chosen
    started = time.perf_counter()
    container.write_file(path, tensors)
    spent["write"] = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with container.open(path) as file:
        file.verify()
        back = decompress_weight(decode_blob(file.tensors[f"conv3.weight{SUFFIX}"].bytes()))
    error = float(((back - weights["conv3"]) ** 2).sum() / (weights["conv3"] ** 2).sum())
    if not 0.01 < error < 0.3:  # most of it is what pruning takes
        raise AssertionError(f"conv3 comes back with a relative error of {error}")
    return {
        "method": method,
        "problem": "all layers together" if together else "layer by layer",
        "seconds": round(sum(spent.values()), 2),
        **{stage: round(seconds, 2) for stage, seconds in spent.items()},
        "file_bytes": path.stat().st_size,
        "input_mib": round(inputs / MIB),
        "peak_mib": round(peak / MIB),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=Path("build/bench/quantise.json"))
    parser.add_argument("--method", choices=METHODS, action="append")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)  # a method, in this process
    parsed = parser.parse_args()
    if parsed.one:
        with tempfile.TemporaryDirectory() as folder:
            row = run(parsed.one[0], parsed.one[1] == "together", Path(folder) / "alexnet")
        print(json.dumps(row))
        return
    rows = []
    for method in parsed.method or METHODS:
        for problem in ("layers", "together"):
            command = [sys.executable, "-m", __spec__.name, "--one", method, problem]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            rows.append(json.loads(done.stdout))
            print(rows[-1], flush=True)
            parsed.json.parent.mkdir(parents=True, exist_ok=True)
            parsed.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
