"""Round trips and errors of the prefix coder."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import tersor
from tersor.codec import huffman


@settings(max_examples=60)
@given(hnp.arrays(np.uint8, st.integers(0, 6000), elements=st.integers(0, 20)))
def test_huffman_round_trips(symbols: np.ndarray) -> None:
    stream = huffman.encode(symbols)
    assert np.array_equal(huffman.decode(stream), symbols)
    info = huffman.inspect(stream)
    assert info.symbols == symbols.size
    assert info.header_bytes + info.payload_bits // 8 == stream.size


def test_huffman_lengths_are_near_the_entropy() -> None:
    symbols = np.random.default_rng(0).geometric(0.3, 5000).clip(0, 255).astype(np.uint8)
    counts = huffman.histogram(symbols)
    mean = float((counts * huffman.code_lengths(counts)).sum()) / symbols.size
    assert huffman.entropy(counts) <= mean < huffman.entropy(counts) + 1
    with pytest.raises(ValueError, match="max_length"):
        huffman.code_lengths(counts, 2)


def test_huffman_decode_fills_out() -> None:
    symbols = np.arange(100, dtype=np.uint8)
    stream = huffman.encode(symbols)
    out = np.empty(100, np.uint8)
    assert huffman.decode(stream, out) is out
    assert np.array_equal(out, symbols)
    with pytest.raises(ValueError, match="100 elements"):
        huffman.decode(stream, np.empty(99, np.uint8))
    with pytest.raises(tersor.FormatError):
        huffman.decode(stream[:-1])
