"""Deep Compression's tables by layer, from real streams: both LeNets, AlexNet, VGG-16.

    python -m benchmarks.paper_tables           every layer beside its printed row: docs/tables.json
    python -m benchmarks.paper_tables --net alexnet     one network, printed alone
    python -m benchmarks.paper_tables --table           the lines of docs/results.md

Trained weights of AlexNet and VGG-16 are not at hand. Codes are drawn instead: of the published
shape, density and widths, and so that an optimal prefix code takes the printed bits for each code
and gap. What is drawn is encoded as any layer is, with gaps over the whole tensor as in the paper,
and its streams are counted. One layer is held at a time.

Source: Han et al. (arXiv 1510.00149), tables 2 to 5.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

import tersor
from tersor.codec import csr, huffman
from tersor.codec.blob import SUFFIX, CompressedTensor, decode_blob, encode_blob, inspect_blob
from tersor.codec.encode import compress_weight, decompress_weight
from tersor.config import LayerConfig
from tersor.io.container import Tensor, write_file
from tersor.reporting.file_report import Totals, layer_row, report

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "docs" / "tables.json"

Doubles = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
Codes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Printed:
    """A printed row; densities and rates in per cent, bits for a stored entry.

    Attributes:
        shape: of the weight.
        density: weights kept, printed to one per cent.
        code_bits, index_bits: fixed widths, before Huffman coding (P+Q).
        code_bits_h, index_bits_h: the means of the coded words (P+Q+H), printed to a tenth.
        rate, rate_h: of fp32, before (to a tenth) and after (to a hundredth).
        misprint: what of the row its other numbers contradict, or nothing.
    """

    name: str
    shape: tuple[int, ...]
    density: float
    code_bits: int
    code_bits_h: float
    index_bits: int
    index_bits_h: float
    rate: float
    rate_h: float
    misprint: str = ""

    @property
    def weights(self) -> int:
        """How many there are."""
        return int(np.prod(self.shape))

    @property
    def entries(self) -> float:
        """Stored entries, fillers included, for each weight, as the rates tell it.

        A rate is entries * (code bits + index bits) / 32 and an fp32 value for each code. The two
        rates agree to their rounding; what lies between them is as far from one as the other.
        """
        codebook = (1 << self.code_bits) / self.weights
        fixed = (self.rate / 100 - codebook) * 32 / (self.code_bits + self.index_bits)
        coded = (self.rate_h / 100 - codebook) * 32 / (self.code_bits_h + self.index_bits_h)
        if self.misprint == "rate":
            return coded
        return fixed if self.misprint == "rate_h" else math.sqrt(fixed * coded)

    @property
    def coded_bits(self) -> tuple[float, float]:
        """Means of the words of codes and gaps, moved within their rounding to give ``rate_h``."""
        codebook = (1 << self.code_bits) / self.weights
        both = (self.rate_h / 100 - codebook) * 32 / self.entries
        move = (both - self.code_bits_h - self.index_bits_h) / 2
        move = 0.0 if self.misprint else min(max(move, -0.049), 0.049)
        return self.code_bits_h + move, self.index_bits_h + move


@dataclass(frozen=True)
class Network:
    """A table: its title, its rows and the printed ratio of the whole."""

    title: str
    rows: tuple[Printed, ...]
    ratio: float

    @property
    def ratio_of_rows(self) -> float:
        """What the printed rows come to; LeNet-5's and VGG-16's contradict the printed total."""
        coded = sum(row.weights * row.rate_h / 100 for row in self.rows)
        return sum(row.weights for row in self.rows) / coded


NETWORKS = {
    "lenet-300-100": Network(
        "LeNet-300-100",
        (
            Printed("ip1", (300, 784), 8, 6, 4.4, 5, 3.7, 3.1, 2.32),
            Printed("ip2", (100, 300), 9, 6, 4.4, 5, 4.3, 3.8, 3.04),
            Printed("ip3", (10, 100), 26, 6, 4.3, 5, 3.2, 15.7, 12.70),
        ),
        40,
    ),
    "lenet-5": Network(
        "LeNet-5",
        (
            Printed("conv1", (20, 1, 5, 5), 66, 8, 7.2, 5, 1.5, 78.5, 67.45, "rate_h"),
            Printed("conv2", (50, 20, 5, 5), 12, 8, 7.2, 5, 3.9, 6.0, 5.28),
            Printed("ip1", (500, 800), 8, 5, 4.5, 5, 4.5, 2.7, 2.45),
            Printed("ip2", (10, 500), 19, 5, 5.2, 5, 3.7, 6.9, 6.13, "code_bits_h"),
        ),
        39,
    ),
    "alexnet": Network(
        "AlexNet",
        (
            Printed("conv1", (96, 3, 11, 11), 84, 8, 6.3, 4, 1.2, 32.6, 20.53),
            Printed("conv2", (256, 48, 5, 5), 38, 8, 5.5, 4, 2.3, 14.5, 9.43),
            Printed("conv3", (384, 256, 3, 3), 35, 8, 5.1, 4, 2.6, 13.1, 8.44),
            Printed("conv4", (384, 192, 3, 3), 37, 8, 5.2, 4, 2.5, 14.1, 9.11),
            Printed("conv5", (256, 192, 3, 3), 37, 8, 5.6, 4, 2.5, 14.0, 9.43),
            Printed("fc6", (4096, 9216), 9, 5, 3.9, 4, 3.2, 3.0, 2.39),
            Printed("fc7", (4096, 4096), 9, 5, 3.6, 4, 3.7, 3.0, 2.46),
            Printed("fc8", (1000, 4096), 25, 5, 4.0, 4, 3.2, 7.3, 5.85),
        ),
        35,
    ),
    "vgg-16": Network(
        "VGG-16",
        (
            Printed("conv1_1", (64, 3, 3, 3), 58, 8, 6.8, 5, 1.7, 40.0, 29.97, "rate"),
            Printed("conv1_2", (64, 64, 3, 3), 22, 8, 6.5, 5, 2.6, 9.8, 6.99),
            Printed("conv2_1", (128, 64, 3, 3), 34, 8, 5.6, 5, 2.4, 14.3, 8.91),
            Printed("conv2_2", (128, 128, 3, 3), 36, 8, 5.9, 5, 2.3, 14.7, 9.31),
            Printed("conv3_1", (256, 128, 3, 3), 53, 8, 4.8, 5, 1.8, 21.7, 11.15),
            Printed("conv3_2", (256, 256, 3, 3), 24, 8, 4.6, 5, 2.9, 9.7, 5.67),
            Printed("conv3_3", (256, 256, 3, 3), 42, 8, 4.6, 5, 2.2, 17.0, 8.96),
            Printed("conv4_1", (512, 256, 3, 3), 32, 8, 4.6, 5, 2.6, 13.1, 7.29),
            Printed("conv4_2", (512, 512, 3, 3), 27, 8, 4.2, 5, 2.9, 10.9, 5.93),
            Printed("conv4_3", (512, 512, 3, 3), 34, 8, 4.4, 5, 2.5, 14.0, 7.47),
            Printed("conv5_1", (512, 512, 3, 3), 35, 8, 4.7, 5, 2.5, 14.3, 8.00),
            Printed("conv5_2", (512, 512, 3, 3), 29, 8, 4.6, 5, 2.7, 11.7, 6.52),
            Printed("conv5_3", (512, 512, 3, 3), 36, 8, 4.6, 5, 2.3, 14.8, 7.79),
            Printed("fc6", (4096, 25088), 4, 5, 3.6, 5, 3.5, 1.6, 1.10),
            Printed("fc7", (4096, 4096), 4, 5, 4.0, 5, 4.3, 1.5, 1.25),
            Printed("fc8", (1000, 4096), 23, 5, 4.0, 5, 3.4, 7.1, 5.24),
        ),
        49,
    ),
}


# ---- Drawing


def shares_to_counts(shares: Doubles, total: int) -> Counts:
    """Whole numbers that add up to ``total``, as near to the shares as such come."""
    exact = shares / shares.sum() * total
    counts: Counts = np.floor(exact).astype(np.int64)
    by_loss = np.argsort(counts - exact, kind="stable")
    counts[by_loss[: total - int(counts.sum())]] += 1
    return counts


def mean_bits(counts: Counts) -> float:
    """Mean length of the words of an optimal prefix code; ``[k]``, k <= 256."""
    histogram = np.zeros(256, np.uint64)
    histogram[: len(counts)] = counts
    lengths = huffman.code_lengths(histogram)[: len(counts)]
    return float((counts * lengths).sum() / max(1, counts.sum()))


def bisect(low: float, high: float, below: Callable[[float], bool]) -> float:
    """The largest number at which ``below`` still holds, as it does at ``low``."""
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) else (low, middle)
    return low


def code_counts(kept: int, fillers: int, code_bits: int, bits: float) -> Counts:
    """How often each code occurs, fillers (code 0) too: int64 ``[2^code_bits]``.

    Codes of evenly spaced values fall off exponentially on both sides of zero, so fast that coded
    words take ``bits`` on average.
    """
    distance = np.abs(np.arange(1, 1 << code_bits) - 2 ** (code_bits - 1) + 0.5)

    def counts(slope: float) -> Counts:
        return np.append(fillers, shares_to_counts(np.exp(-slope * distance), kept))

    return counts(bisect(0.0, 4.0, lambda slope: mean_bits(counts(slope)) > bits))


def normal_gaps(kept: int, zeros: int, index_bits: int, curve: float) -> Counts:
    """How often each gap occurs: int64 ``[2^index_bits]``.

    A discrete normal distribution (``curve`` 0: a geometric one, which has the highest entropy)
    whose mean leaves at most ``zeros`` zeros in the gaps.
    """
    gap = np.arange(1 << index_bits)

    def counts(slope: float) -> Counts:
        logarithm = slope * gap - curve * gap**2
        return shares_to_counts(np.exp(logarithm - logarithm.max()), kept)

    reach = 8.0 + 2 * curve * len(gap)
    return counts(bisect(-reach, reach, lambda slope: int(counts(slope) @ gap) <= zeros))


def coded_gap_bits(gaps: Counts, fillers: int) -> float:
    """Mean word of the coded gaps, those of the fillers among them."""
    both = gaps.copy()
    both[-1] += fillers
    return mean_bits(both)


def gap_counts(kept: int, fillers: int, zeros: int, index_bits: int, bits: float) -> Counts:
    """:func:`normal_gaps` of the spread at which coded gaps take ``bits`` on average."""

    def too_wide(curve: float) -> bool:
        return coded_gap_bits(normal_gaps(kept, zeros, index_bits, curve), fillers) > bits

    return normal_gaps(kept, zeros, index_bits, bisect(0.0, 2.0, too_wide))


def kept_and_fillers(row: Printed) -> tuple[int, int]:
    """How many weights are kept and how many fillers stand between them.

    The printed density, or the one nearest above it, within its rounding, at which gaps can take
    the printed bits: fewer fillers leave more zeros to the gaps. Without fillers, if none is.
    """
    least, most = (round((row.density + half) / 100 * row.weights) for half in (-0.5, 0.5))
    entries = round(row.entries * row.weights)
    reach = 1 << row.index_bits  # columns that a filler takes

    def too_few(kept: float) -> bool:
        fillers = entries - round(kept)
        zeros = row.weights - round(kept) - reach * fillers
        if fillers <= 0 or zeros < 0:
            return fillers > 0
        gaps = normal_gaps(round(kept), zeros, row.index_bits, 0.0)
        return coded_gap_bits(gaps, fillers) < row.coded_bits[1]

    printed = min(max(round(row.density / 100 * row.weights), least), max(entries, least))
    if not too_few(printed):
        return printed, max(0, entries - printed)
    kept = round(bisect(printed, most, too_few)) + 1
    return (most, 0) if kept > most else (kept, max(0, entries - kept))


def draw(row: Printed, seed: int = 0) -> Codes:
    """Codes uint8 of the row's shape, 0 = pruned, of the row's density, widths and entropies."""
    rng = np.random.default_rng(seed)
    kept, fillers = kept_and_fillers(row)
    reach = 1 << row.index_bits
    code_bits, gap_bits = row.coded_bits
    codes = code_counts(kept, fillers, row.code_bits, code_bits)[1:]
    zeros = row.weights - kept - reach * fillers
    gaps = gap_counts(kept, fillers, zeros, row.index_bits, gap_bits)
    steps = rng.permutation(np.repeat(np.arange(1, reach + 1), gaps))
    steps += reach * np.bincount(rng.integers(0, kept, fillers), minlength=kept)
    drawn = np.zeros(row.weights, np.uint8)
    drawn[np.cumsum(steps) - 1] = rng.permutation(np.repeat(np.arange(1, len(codes) + 1), codes))
    return drawn.reshape(row.shape)


# ---- Encoding


def encode(row: Printed, codes: Codes) -> bytes:
    """The layer's blob with the published widths, gaps over the whole tensor."""
    levels = np.arange(1, (1 << row.code_bits)) - 2 ** (row.code_bits - 1) + 0.5  # none is zero
    values = (levels / (1 << row.code_bits)).astype(np.float32)
    matrix = csr.encode(codes.reshape(row.shape[0], -1), row.index_bits, flat=True)
    return encode_blob(CompressedTensor(row.shape, "shared_fp32", matrix, values)).tobytes()


def encode_cheapest(row: Printed, blob: bytes) -> bytes:
    """The same weights as the library stores them when nothing is asked of it."""
    dense = decompress_weight(decode_blob(blob))
    return encode_blob(compress_weight(dense, LayerConfig(codebook_size=255), row.name)).tobytes()


@dataclass(frozen=True)
class LayerResult:
    """A layer beside its printed row; rates in per cent of fp32.

    ``rate`` and ``rate_h`` count as the paper does, without tables and headers; ``rate_blob`` is
    all that the layer takes in the file, ``rate_cheapest`` the same where the library chooses the
    index width and whether gaps restart at each row.
    """

    name: str
    weights: int
    density: float
    entries_per_kept: float
    code_bits_h: float
    index_bits_h: float
    rate: float
    rate_printed: float
    rate_h: float
    rate_h_printed: float
    rate_blob: float
    rate_cheapest: float


@dataclass(frozen=True)
class NetworkResult:
    """A network's layers, and its two files: the published widths, and the cheapest ones."""

    network: str
    layers: tuple[LayerResult, ...]
    ratio_printed: float
    ratio_of_rows: float
    ratio_paper: float
    ratio_file: float
    file_bytes: int
    ratio_file_cheapest: float
    file_bytes_cheapest: int


def _layer_result(row: Printed, blob: bytes, cheapest: bytes) -> LayerResult:
    counted = layer_row(row.name, inspect_blob(blob))
    return LayerResult(
        name=row.name,
        weights=row.weights,
        density=round(100 * counted.density, 2),
        entries_per_kept=round(counted.filler_factor, 3),
        code_bits_h=round(counted.weight_bits_pqh, 2),
        index_bits_h=round(counted.index_bits_pqh, 2),
        rate=round(100 * counted.rate_pq, 2),
        rate_printed=row.rate,
        rate_h=round(100 * counted.rate_pqh, 2),
        rate_h_printed=row.rate_h,
        rate_blob=round(25 * len(blob) / row.weights, 2),
        rate_cheapest=round(25 * len(cheapest) / row.weights, 2),
    )


def _write(path: Path, blobs: dict[str, bytes], network: Network) -> Totals:
    rng = np.random.default_rng(0)
    tensors = {
        f"{row.name}.bias": Tensor(
            "F32", row.shape[:1], rng.standard_normal(row.shape[0]).astype(np.float32)
        )
        for row in network.rows
    }
    for name, blob in blobs.items():
        tensors[f"{name}.weight{SUFFIX}"] = Tensor("U8", (len(blob),), blob)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, tensors)
    with tersor.open(path) as file:
        return report(file, verify=True).totals


def make(
    name: str, folder: Path, progress: Callable[[str], None] = lambda _: None
) -> NetworkResult:
    """Draws and encodes a network, layer by layer, and writes its two files.

    Args:
        name: one of :data:`NETWORKS`.
        folder: for ``NAME-published.safetensors`` and ``NAME-cheapest.safetensors``.
        progress: is given a line for each layer.
    """
    network = NETWORKS[name]
    layers = []
    published: dict[str, bytes] = {}
    cheapest: dict[str, bytes] = {}
    for row in network.rows:
        published[row.name] = encode(row, draw(row))
        cheapest[row.name] = encode_cheapest(row, published[row.name])
        layers.append(_layer_result(row, published[row.name], cheapest[row.name]))
        progress(line(layers[-1]))
    first = _write(folder / f"{name}-published.safetensors", published, network)
    second = _write(folder / f"{name}-cheapest.safetensors", cheapest, network)
    return NetworkResult(
        network=name,
        layers=tuple(layers),
        ratio_printed=network.ratio,
        ratio_of_rows=round(network.ratio_of_rows, 2),
        ratio_paper=round(first.ratio_paper, 2),
        ratio_file=round(first.ratio_file, 2),
        file_bytes=first.file_bytes,
        ratio_file_cheapest=round(second.ratio_file, 2),
        file_bytes_cheapest=second.file_bytes,
    )


def line(layer: LayerResult) -> str:
    """A layer in a line: measured / printed."""
    return (
        f"{layer.name:8s} kept {layer.density:5.2f} %, words {layer.code_bits_h:.2f} + "
        f"{layer.index_bits_h:.2f} bits, P+Q {layer.rate:.2f} / {layer.rate_printed} %, "
        f"P+Q+H {layer.rate_h:.2f} / {layer.rate_h_printed} %, "
        f"with tables {layer.rate_blob:.2f} %, cheapest {layer.rate_cheapest:.2f} %"
    )


def markdown() -> Iterator[str]:
    """The tables of docs/results.md, from docs/tables.json."""
    results = json.loads(TABLE.read_text())
    for result in results:
        for row in result["layers"] if not result["network"].startswith("lenet") else ():
            yield (
                f"| {NETWORKS[result['network']].title} {row['name']} | {row['density']:.1f} % | "
                f"{row['code_bits_h']:.2f} + {row['index_bits_h']:.2f} | "
                f"{row['rate']:.2f} / {row['rate_printed']:.1f} | "
                f"{row['rate_h']:.2f} / {row['rate_h_printed']:.2f} | "
                f"{row['rate_blob']:.2f} | {row['rate_cheapest']:.2f} |"
            )
    for result in results:
        yield (
            f"| {NETWORKS[result['network']].title} | {result['ratio_printed']}× | "
            f"{result['ratio_of_rows']:.1f}× | {result['ratio_paper']:.1f}× | "
            f"{result['ratio_file']:.1f}× ({result['file_bytes']:,}) | "
            f"{result['ratio_file_cheapest']:.1f}× ({result['file_bytes_cheapest']:,}) |"
        )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--net", choices=sorted(NETWORKS), action="append")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "tables")
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if arguments.table:
        print("\n".join(markdown()))
        return
    results = []
    for name in arguments.net or NETWORKS:
        print(name)
        result = make(name, arguments.output, lambda text: print(f"  {text}", flush=True))
        print(
            f"  {result.ratio_paper:.1f}x as the paper counts (printed {result.ratio_printed:g}x, "
            f"the printed rows add up to {result.ratio_of_rows:.1f}x); "
            f"{result.ratio_file:.1f}x by file bytes, {result.file_bytes:,}; cheapest widths "
            f"{result.ratio_file_cheapest:.1f}x, {result.file_bytes_cheapest:,}"
        )
        results.append(asdict(result))
    if not arguments.net:
        TABLE.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
