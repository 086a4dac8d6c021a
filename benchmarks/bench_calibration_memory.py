"""Peak memory and time while a transformer in bf16 with random weights is calibrated.

    python -m benchmarks.bench_calibration_memory [--width 1792] [--blocks 24] [--stop-after 2]

1,792 wide it has a thousand million weights. With ``--stop-after`` calibration ends behind that
many blocks, and the time of all is extrapolated; what the rest would add to memory is then its
codes, a byte for each weight. The peak is that of a process of its own, Python and torch included.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time

import torch
import torch.nn.functional as F
from torch import nn

import tersor

GB = 1e9
_HEAD = 64
_INPUTS, _TOKENS, _VOCABULARY = 32, 64, 4096


class Block(nn.Module):
    """Attention and a feed-forward part, norms before them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = width // _HEAD
        self.before_attention, self.before_feed = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """States ``[sequences, tokens, width]`` to states."""
        parts = self.qkv(self.before_attention(x)).unflatten(2, (3, self.heads, -1))
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.before_feed(x))))


class _EnoughError(Exception):
    """Enough blocks are done."""


def measure(width: int, blocks: int, stop_after: int) -> None:
    """Calibrates, and prints what it took."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    layers = [Block(width) for _ in range(blocks)]
    model = nn.Sequential(nn.Embedding(_VOCABULARY, width), *layers).eval()
    torch.set_default_dtype(torch.float32)
    weights = sum(p.numel() for p in model.parameters())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    inputs = torch.randint(_VOCABULARY, (_INPUTS, _TOKENS))
    done = 0

    def progress(line: object) -> None:
        nonlocal done
        done += ".down" in str(line)
        if done > stop_after:  # the last of them is done where the next begins
            raise _EnoughError

    linear = tersor.LayerConfig(method="ecsq", prune=True, bits=2.5)
    config = tersor.Config(linear=linear)
    started = time.perf_counter()
    try:
        tersor.compress_(model, config, data=list(inputs.split(8)), progress=progress)
        done = blocks
    except _EnoughError:
        done = stop_after
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    size = 2 * weights
    print(
        f"{weights / 1e6:.0f} million weights, {size / GB:.2f} GB in bf16: process before "
        f"{before / GB:.2f} GB, peak {peak / GB:.2f} GB = {peak / size:.2f} times; {done} of "
        f"{blocks} blocks in {seconds:.0f} s, so that all take {seconds * blocks / done:.0f} s"
    )


def main() -> None:
    """Measures in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=1792)
    parser.add_argument("--blocks", type=int, default=24)
    parser.add_argument("--stop-after", type=int, default=24)
    options = parser.parse_args()
    arguments = (options.width, options.blocks, options.stop_after)
    process = multiprocessing.get_context("spawn").Process(target=measure, args=arguments)
    process.start()
    process.join()
    raise SystemExit(process.exitcode)


if __name__ == "__main__":
    main()
