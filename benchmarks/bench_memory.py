"""Peak memory while a sharded checkpoint is compressed: it follows the largest tensor.

    python -m benchmarks.bench_memory [--gigabytes 2] [--folder build/bench/memory]

Makes a checkpoint of normally distributed matrices, 4096 x 4096 in fp32 as large networks have
them, four to a shard, with norms in fp16 between them; runs ``tersor compress`` on its folder as
a process of its own, and prints that process's largest resident set, pages of mapped files that
the system left there included. Then every hash of what was written is checked, and one layer is
decoded and compared with its dense matrix.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import tersor
from tersor.codec.blob import SUFFIX
from tersor.codec.encode import decompress_weight
from tersor.io import container
from tersor.io.container import INDEX, Tensor

SIDE = 4096
PER_SHARD = 4
DENSITY = 0.1
MB = 1_000_000
COMMAND_LINE = "import sys; from tersor import cli; sys.exit(cli.main(sys.argv[1:]))"


def make_checkpoint(folder: Path, matrices: int) -> int:
    """Writes the shards and their index; the bytes of all files."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    shard_of = {}
    shards = -(-matrices // PER_SHARD)
    for shard in range(shards):
        name = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        tensors = {}
        for i in range(shard * PER_SHARD, min(matrices, (shard + 1) * PER_SHARD)):
            weight = rng.standard_normal((SIDE, SIDE), np.float32)
            tensors[f"layers.{i}.weight"] = Tensor("F32", weight.shape, weight)
            tensors[f"layers.{i}.norm.weight"] = Tensor("F16", (SIDE,), np.ones(SIDE, np.float16))
        container.write_file(folder / name, tensors, {"format": "pt"}, plain=True)
        shard_of.update(dict.fromkeys(tensors, name))
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": shard_of}))
    return sum(path.stat().st_size for path in folder.iterdir())


def check(dense: Path, compressed: Path) -> None:
    """Whether all that was written is whole, and a layer has the largest weights of its matrix."""
    with tersor.open(compressed) as file, tersor.open(dense) as original:
        file.verify()
        weight = original.tensors["layers.0.weight"].bytes().view(np.float32)
        decoded = decompress_weight(file.tensors["layers.0.weight" + SUFFIX].layer()).reshape(-1)
        kept = decoded != 0
        assert abs(kept.mean() - DENSITY) < 0.001
        assert np.abs(weight[kept]).min() >= np.abs(weight[~kept]).max()
        assert np.abs(weight[kept] - decoded[kept]).mean() < 0.2


def main() -> None:
    """Makes the checkpoint, compresses it, and prints the peak."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--folder", type=Path, default=Path("build/bench/memory"))
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    shutil.rmtree(folder, ignore_errors=True)
    matrices = max(1, round(arguments.gigabytes * 1000 * MB / (4 * SIDE * SIDE)))
    size = make_checkpoint(folder / "dense", matrices)
    started = time.perf_counter()
    subprocess.run(
        [
            *(sys.executable, "-c", COMMAND_LINE, "compress", str(folder / "dense")),
            *("-o", str(folder / "compressed"), "--density", str(DENSITY)),
        ],
        check=True,
    )
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    check(folder / "dense", folder / "compressed")
    written = sum(path.stat().st_size for path in (folder / "compressed").iterdir())
    print(
        f"{size / MB:.0f} MB in {matrices} matrices of {4 * SIDE * SIDE / MB:.0f} MB: "
        f"{written / MB:.0f} MB, {seconds:.0f} s, peak {peak / MB:.0f} MB"
    )
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
