"""Look-ups in a compressed embedding against torch's: ``python -m benchmarks.bench_embedding``.

Random rows of a table of 30,522 × 384 (the words of MiniLM), both ways alternating in one process.
Answers are checked before anything is timed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from tersor.codec import csr
from tersor.codec.blob import CompressedTensor, encode_blob
from tersor.nn import CompressedEmbedding
from tersor.ops.packed import rows_of


def shortest(
    ways: dict[str, Callable[[], object]], rounds: int, inner: int = 20
) -> dict[str, float]:
    """Microseconds of each way, called in turns; the shortest of all rounds counts."""
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            for _ in range(inner):
                way()
            best[name] = min(best[name], 1e6 * (time.perf_counter() - start) / inner)
    return best


@torch.inference_mode()
def measure(rows: int, cols: int, looked_up: int, values: int, rounds: int) -> dict[str, object]:
    """One table: times, bytes and what was measured."""
    dense = nn.Embedding(rows, cols)
    codes = np.random.default_rng(0).integers(0, values + 1, (rows, cols), dtype=np.uint8)
    codebook = np.linspace(-1, 1, values, dtype=np.float32)
    content = CompressedTensor((rows, cols), "shared_fp32", csr.encode(codes, 4), codebook)
    layer = CompressedEmbedding.empty_like(dense)
    layer.set_blob(torch.from_numpy(encode_blob(content)))
    indices = torch.randint(0, rows, (100, looked_up))
    assert torch.equal(layer(indices), layer.dense_weight()[indices])
    turn = iter(range(1 << 60))
    us = shortest(
        {
            "torch": lambda: dense(indices[next(turn) % 100]),
            "tersor": lambda: layer(indices[next(turn) % 100]),
        },
        rounds,
    )
    packed = rows_of(layer.weight_blob)
    return {
        "rows": rows,
        "cols": cols,
        "looked_up": looked_up,
        "bits": packed.bits,
        "us": us,
        "over_torch": us["torch"] / us["tersor"],
        "held_bytes": packed.nbytes,
        "dense_bytes": 4 * rows * cols,
    }


def main() -> None:
    """Measures, prints a table, and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--rows", type=int, default=30522)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    results = [
        measure(arguments.rows, 384, count, values, arguments.rounds)
        for values in (15, 63, 127, 255)
        for count in (16, 64)
    ]
    print("bits  rows looked up  torch µs  tersor µs  over torch  held / dense")
    for each in results:
        us = each["us"]
        assert isinstance(us, dict)
        share = float(str(each["held_bytes"])) / float(str(each["dense_bytes"]))
        print(
            f"{each['bits']:>4}  {each['looked_up']:>14}  {us['torch']:8.2f}  {us['tersor']:9.2f}  "
            f"{each['over_torch']:9.2f}x  {share:12.3f}"
        )
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
