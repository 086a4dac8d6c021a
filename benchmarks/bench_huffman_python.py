"""Prefix decoding from Python against the packages that offer it.

``python -m benchmarks.bench_huffman_python a.bin`` decodes 16M symbols with tersor, zlib (Huffman
codes alone), bitarray and constriction in turns, one thread each, after checking every answer.
"""

from __future__ import annotations

import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from statistics import median

import bitarray
import bitarray.util
import constriction
import numpy as np
import numpy.typing as npt

from tersor.codec import huffman

ROUNDS = 9
SLOW_SHARE = 16  # peers decode this fraction of the stream: their speed does not depend on it
Bytes = npt.NDArray[np.uint8]


def with_zlib(symbols: Bytes) -> Callable[[], Bytes]:
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_HUFFMAN_ONLY)
    stream = compressor.compress(symbols.tobytes()) + compressor.flush()
    return lambda: np.frombuffer(zlib.decompress(stream, -15, symbols.size), np.uint8)


def with_bitarray(symbols: Bytes) -> Callable[[], Bytes]:
    counts = np.bincount(symbols)
    present = {int(s): int(counts[s]) for s in np.flatnonzero(counts)}
    code = bitarray.util.huffman_code(present)
    stream = bitarray.bitarray()
    stream.encode(code, symbols.tolist())
    tree = bitarray.decodetree(code)
    return lambda: np.fromiter(stream.decode(tree), np.uint8, symbols.size)


def with_constriction(symbols: Bytes) -> Callable[[], Bytes]:
    counts = np.bincount(symbols).astype(np.float32)
    tree = constriction.symbol.huffman.EncoderHuffmanTree(counts)
    encoder = constriction.symbol.QueueEncoder()
    for symbol in symbols.tolist():
        encoder.encode_symbol(symbol, tree)
    stream, bits = encoder.get_compressed()
    decoding = constriction.symbol.huffman.DecoderHuffmanTree(counts)
    assert bits >= symbols.size

    def decode() -> Bytes:
        decoder = constriction.symbol.QueueDecoder(stream)
        one = decoder.decode_symbol
        return np.fromiter((one(decoding) for _ in range(symbols.size)), np.uint8, symbols.size)

    return decode


def main() -> None:
    symbols = np.fromfile(sys.argv[1], np.uint8)
    part = symbols[: symbols.size // SLOW_SHARE].copy()
    stream = huffman.encode(symbols)
    out = np.empty(symbols.size + 64, np.uint8)
    out = out[-out.ctypes.data % 64 :][: symbols.size]

    def ours() -> Bytes:
        huffman.decode(stream, out=out)
        return out

    decoders: dict[str, tuple[Callable[[], Bytes], Bytes]] = {
        "tersor": (ours, symbols),
        "zlib, Huffman only": (with_zlib(symbols), symbols),
        "bitarray": (with_bitarray(part), part),
        "constriction": (with_constriction(part), part),
    }
    taken: dict[str, list[float]] = {name: [] for name in decoders}
    for name, (decode, expected) in decoders.items():
        if not np.array_equal(decode(), expected):
            sys.exit(f"{name} decodes wrongly")
    for _ in range(ROUNDS):
        for name, (decode, expected) in decoders.items():
            start = time.perf_counter()
            decode()
            taken[name].append((time.perf_counter() - start) / expected.size)
    best = {name: min(times) for name, times in taken.items()}
    print(f"\n{Path(sys.argv[1]).name}: decoding from Python, one thread")
    for name, times in taken.items():
        speed, middle = 1e-9 / best[name], 1e-9 / median(times)
        print(
            f"  {name:20} {speed:8.4f} Gsym/s (median {middle:.4f}), tersor is "
            f"{best[name] / best['tersor']:.1f} times as fast"
        )


if __name__ == "__main__":
    main()
