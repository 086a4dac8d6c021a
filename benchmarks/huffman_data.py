"""The six symbol streams that the Huffman benchmark codes: what layers of pruned networks hold.

``python -m benchmarks.huffman_data FOLDER`` writes ``a.bin`` to ``f.bin``, 16M symbols each:

- a: codes of a Gaussian pruned to 30 %, 16 shared values, 3.62 bits;
- b: codes of a Gaussian pruned to 9 %, 32 shared values, 3.71 bits;
- c: codes of a heavy-tailed layer, 256 levels, 5.50 bits;
- d, e: gaps of 4 bits between the weights kept, at densities of 9 % and 35 %;
- f: a peaked layer, quantised uniformly to 16 levels, 1.10 bits.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

SYMBOLS = 1 << 24
SAMPLE = 1 << 20  # symbols on which parameters are fitted
SEED = 20150521

Floats = npt.NDArray[np.float64]
Bytes = npt.NDArray[np.uint8]


def entropy(symbols: Bytes) -> float:
    """In bits per symbol."""
    share = np.bincount(symbols) / symbols.size
    share = share[share > 0]
    return float(-(share * np.log2(share)).sum())


def bisect(function: Callable[[float], float], target: float, low: float, high: float) -> float:
    """Where a falling function passes the target."""
    for _ in range(40):
        middle = (low + high) / 2
        if function(middle) > target:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def pruned_gaussian(rng: np.random.Generator, density: float, count: int) -> Floats:
    """The values of a Gaussian that are the largest in magnitude: a share ``density``."""
    threshold = float(np.quantile(np.abs(rng.standard_normal(SAMPLE)), 1 - density))
    parts: list[Floats] = []
    while sum(part.size for part in parts) < count:
        values = rng.standard_normal(SAMPLE * 4)
        parts.append(values[np.abs(values) > threshold])
    return np.concatenate(parts)[:count]


def clustered(values: Floats, clusters: int, target: float) -> Bytes:
    """Codes by k-means, stopped between its linear start and its end where the entropy is right."""
    sample = np.sort(values[:SAMPLE])
    threshold = np.abs(sample).min()
    centres = np.concatenate(
        [
            np.linspace(sample[0], -threshold, clusters // 2),
            np.linspace(threshold, sample[-1], clusters // 2),
        ]
    )
    sums = np.concatenate([[0.0], np.cumsum(sample)])
    for _ in range(200):
        codes = np.searchsorted((centres[1:] + centres[:-1]) / 2, sample).astype(np.uint8)
        if entropy(codes) >= target:
            break
        edges = np.searchsorted(sample, (centres[1:] + centres[:-1]) / 2)
        edges = np.concatenate([[0], edges, [sample.size]])
        counts = np.diff(edges)
        means = np.diff(sums[edges]) / np.maximum(counts, 1)
        centres = np.where(counts > 0, means, centres)
    return np.searchsorted((centres[1:] + centres[:-1]) / 2, values).astype(np.uint8)


def uniform(values: Floats, levels: int, target: float, middle: int) -> Bytes:
    """Codes of a uniform quantiser whose step makes the entropy right."""

    def codes(step: float, of: Floats) -> Bytes:
        return np.clip(np.rint(of / step) + middle, 0, levels - 1).astype(np.uint8)

    spread = float(np.abs(values[:SAMPLE]).max())
    step = bisect(lambda s: entropy(codes(s, values[:SAMPLE])), target, spread / levels / 8, spread)
    return codes(step, values)


def gaps(rng: np.random.Generator, density: float) -> Bytes:
    """Zeros before each weight that is kept, 15 for each 16 zeros that do not fit."""
    zeros = rng.geometric(density, SYMBOLS) - 1
    entries = zeros // 16 + 1
    ends = np.cumsum(entries)
    ends = ends[ends <= SYMBOLS]
    symbols = np.full(SYMBOLS, 15, np.uint8)
    symbols[ends - 1] = zeros[: ends.size] % 16
    return symbols


def streams() -> dict[str, Callable[[], Bytes]]:
    """The sets by name; each is the same whenever it is made."""

    def rng(name: str) -> np.random.Generator:
        return np.random.default_rng([SEED, ord(name)])

    def heavy_tailed() -> Floats:
        r = rng("c")
        return pruned_gaussian(r, 0.37, SYMBOLS) * np.exp(0.3 * r.standard_normal(SYMBOLS))

    return {
        "a": lambda: clustered(pruned_gaussian(rng("a"), 0.30, SYMBOLS), 16, 3.62),
        "b": lambda: clustered(pruned_gaussian(rng("b"), 0.09, SYMBOLS), 32, 3.71),
        "c": lambda: uniform(heavy_tailed(), 256, 5.50, 128),
        "d": lambda: gaps(rng("d"), 0.09),
        "e": lambda: gaps(rng("e"), 0.35),
        "f": lambda: uniform(rng("f").laplace(0, 1, SYMBOLS), 16, 1.10, 8),
    }


def main() -> None:
    """Writes the sets that are not there yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in streams().items():
        path = folder / f"{name}.bin"
        if not path.exists():
            symbols = make()
            symbols.tofile(path)
            print(f"{name}: {symbols.size} symbols, {entropy(symbols):.4f} bits")


if __name__ == "__main__":
    main()
