"""Huffman coding of bytes into self-describing streams (docs/format.md)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tersor import _core


@dataclass(frozen=True)
class StreamInfo:
    """The header of a stream: decoded length, header bytes, bits of the code words."""

    symbols: int
    header_bytes: int
    payload_bits: int


def _as_bytes(data: npt.ArrayLike, what: str) -> npt.NDArray[np.uint8]:
    array = np.asarray(data)
    if array.dtype != np.uint8:
        raise ValueError(f"{what} must be uint8, not {array.dtype}")
    return np.ascontiguousarray(array).reshape(-1)


def histogram(symbols: npt.ArrayLike) -> npt.NDArray[np.uint64]:
    """Counts each byte value in ``symbols``, uint8 ``[n]``: uint64 ``[256]``."""
    return _core.huffman_histogram(_as_bytes(symbols, "symbols"))


def entropy(counts: npt.ArrayLike) -> float:
    """Shannon entropy of a histogram ``[256]``, in bits per symbol."""
    return _core.huffman_entropy(np.ascontiguousarray(counts, dtype=np.uint64))


def code_lengths(counts: npt.ArrayLike, max_length: int = 15) -> npt.NDArray[np.uint8]:
    """Code lengths of the optimal prefix code with words of at most ``max_length`` bits.

    Found by package-merge (Larmore and Hirschberg 1990).

    Args:
        counts: histogram ``[256]``.
        max_length: 1 to 15.

    Returns:
        uint8 ``[256]``; 0 for symbols that do not occur.

    Raises:
        ValueError: ``max_length`` is out of range or too short for the number of symbols.
    """
    return _core.huffman_code_lengths(np.ascontiguousarray(counts, dtype=np.uint64), max_length)


def encode(symbols: npt.ArrayLike, *, threads: int = 1) -> npt.NDArray[np.uint8]:
    """Encodes ``symbols`` uint8 ``[n]`` to a stream uint8 ``[m]`` that :func:`decode` reads.

    Short streams use canonical Huffman words, long ones blocks of the bit-sliced prefix code
    (docs/kernels/prefix_code.md). The bytes do not depend on the instruction set or the number of
    threads.
    """
    return _core.huffman_encode(_as_bytes(symbols, "symbols"), threads)


def inspect(stream: npt.ArrayLike) -> StreamInfo:
    """Reads the header of a stream.

    Raises:
        FormatError: the header is malformed; the message names the byte.
    """
    return StreamInfo(*_core.huffman_inspect(_as_bytes(stream, "stream")))


def decode(
    stream: npt.ArrayLike,
    out: npt.NDArray[np.uint8] | None = None,
    *,
    max_symbols: int = 1 << 31,
    threads: int = 1,
    verify: bool = True,
) -> npt.NDArray[np.uint8]:
    """Decodes a complete stream.

    Args:
        stream: uint8 ``[m]``.
        out: contiguous uint8 of exactly the decoded length, filled in place; None = allocate.
        max_symbols: without ``out``, reject a stream whose header states more.
        threads: at most this many.
        verify: check the checksum of each block.

    Raises:
        FormatError: the stream is malformed; the message names the byte.
        ValueError: ``out`` has another length or dtype or is not contiguous, or the stream has more
            than ``max_symbols`` symbols.
    """
    source = _as_bytes(stream, "stream")
    symbols = inspect(source).symbols
    if out is None:
        if symbols > max_symbols:
            raise ValueError(
                f"the stream has {symbols} symbols, more than max_symbols={max_symbols}"
            )
        out = np.empty(symbols, np.uint8)
    elif out.dtype != np.uint8 or out.size != symbols or not out.flags.c_contiguous:
        raise ValueError(f"out must be contiguous uint8 with {symbols} elements")
    _core.huffman_decode(source, 0, out, threads, verify)
    return out


def decode_range(
    stream: npt.ArrayLike, first: int, count: int, *, threads: int = 1, verify: bool = True
) -> npt.NDArray[np.uint8]:
    """Decodes the symbols ``first`` to ``first + count - 1``, reading only the blocks they are in.

    Raises:
        FormatError: the stream is malformed; the message names the byte.
        ValueError: the symbols are out of range.
    """
    if first < 0 or count < 0:
        raise ValueError(f"first and count must not be negative, not {first} and {count}")
    source = _as_bytes(stream, "stream")
    if first + count > inspect(source).symbols:
        raise ValueError(f"the stream has no symbols {first} to {first + count}")
    out = np.empty(count, np.uint8)
    _core.huffman_decode(source, first, out, threads, verify)
    return out
