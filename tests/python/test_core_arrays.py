"""Round trips and errors of the numpy modules: csr, huffman, kmeans, spmm, conv, layer."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import tersor
from tersor import conv, csr, huffman, kmeans, spmm
from tersor.layer import Layer, decode_layer, encode_layer, inspect_layer, pack_layer

MATRICES = hnp.arrays(
    np.uint8,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=40),
    elements=st.sampled_from([0, 0, 0, 0, 1, 2, 5]),
)


@settings(max_examples=60, deadline=None)
@given(MATRICES, st.integers(2, 8), st.booleans())
def test_csr_round_trips(codes: np.ndarray, bits: int, flat: bool) -> None:
    matrix = csr.encode(codes, bits, flat=flat)
    assert np.array_equal(csr.decode(matrix), codes)
    assert csr.validate(matrix) == np.count_nonzero(codes)
    count = csr.count_entries(codes, bits, flat=flat)
    assert count.entries == len(matrix.codes)
    assert count.fillers == csr.filler_count(matrix)


def test_csr_takes_views_and_refuses_other_types() -> None:
    codes = np.eye(6, dtype=np.uint8)[:, ::2]
    assert np.array_equal(csr.decode(csr.encode(codes, 3)), codes)
    with pytest.raises(ValueError, match="uint8"):
        csr.encode(codes.astype(np.int64), 3)
    with pytest.raises(ValueError, match="index_bits"):
        csr.encode(codes, 1)


def test_malformed_csr_names_the_entry() -> None:
    one = np.ones(1, np.uint8)
    broken = csr.RelativeCsr(1, 3, 2, False, one, 3 * one, np.ones(1, np.uint32))
    with pytest.raises(tersor.FormatError, match="gap runs past .* entry 0"):
        csr.decode(broken)


def test_a_few_entries_cannot_announce_a_matrix_of_any_size() -> None:
    one, none = np.ones(1, np.uint8), np.zeros(0, np.uint32)
    huge = csr.RelativeCsr(2**32 - 1, 2**32 - 1, 4, True, one, one, none)
    assert csr.validate(huge) == 1
    with pytest.raises(tersor.FormatError, match="larger than allowed"):
        csr.decode(huge)


@settings(max_examples=60, deadline=None)
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


@pytest.mark.parametrize("mode", ["exact", "lloyd"])
def test_kmeans_is_the_same_on_every_isa_and_thread_count(isa: str, mode: str) -> None:
    x = np.random.default_rng(1).normal(size=30000).astype(np.float32)
    with tersor.isa.use("scalar"):
        expected = kmeans.cluster(x, 15, mode=mode)
    found = kmeans.cluster(x, 15, mode=mode, threads=2)
    assert np.array_equal(found.values, expected.values)
    assert np.array_equal(found.codes, expected.codes)
    error = ((x - found.values[found.codes - 1].astype(np.float64)) ** 2).sum()
    assert found.distortion == pytest.approx(error, rel=1e-6)


def test_kmeans_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="none of exact, lloyd"):
        kmeans.cluster([1.0], 1, mode="best")
    with pytest.raises(ValueError, match="NaN"):
        kmeans.cluster([np.nan], 1)


def _dense(rows: int, cols: int, seed: int = 0) -> tuple[np.ndarray, Layer]:
    rng = np.random.default_rng(seed)
    codes = (rng.random((rows, cols)) < 0.2) * rng.integers(1, 8, (rows, cols))
    values = rng.normal(size=7).astype(np.float32)
    matrix = csr.encode(codes.astype(np.uint8), 4)
    layer = Layer((rows, cols), "shared_fp32", matrix, values)
    return layer.codebook()[codes], layer


@pytest.mark.parametrize("batch", [(), (0,), (1,), (7,), (2, 20)])
@pytest.mark.parametrize("precision", ["highest", "high", "medium", "low"])
def test_multiply_meets_its_class(isa: str, batch: tuple[int, ...], precision: str) -> None:
    dense, layer = _dense(30, 200)
    packed = pack_layer(layer)
    assert packed.isa == isa
    assert np.array_equal(packed.unpack(), dense)
    rng = np.random.default_rng(2)
    x = rng.normal(size=(*batch, 200)).astype(np.float32)
    bias = rng.normal(size=30).astype(np.float32)
    expected = x.astype(np.float64) @ dense.T.astype(np.float64) + bias
    if precision == "highest":
        bound = 200 * 2.0**-23 * (np.abs(x).astype(np.float64) @ np.abs(dense.T) + np.abs(bias))
    else:
        limit = {"high": 2.0**-18, "medium": 2.0**-13, "low": 2.0**-6}[precision]
        largest = np.abs(x).max(-1, keepdims=True, initial=0.0).astype(np.float64)
        bound = limit * largest * np.abs(dense).sum(1) + 2.0**-22 * np.abs(bias)
    found = spmm.multiply(packed, x, bias, precision=precision, threads=2)
    assert found.shape == (*batch, 30)
    assert (np.abs(found - expected) <= bound).all()


def test_pack_lays_out_for_either_regime() -> None:
    dense, layer = _dense(30, 200)
    x = np.random.default_rng(3).normal(size=200).astype(np.float32)
    for regime in ["vector", "batch"]:
        packed = spmm.pack(layer.csr, layer.codebook(), regime=regime, threads=2)
        assert np.array_equal(packed.unpack(), dense)
        assert np.allclose(spmm.multiply(packed, x), dense @ x, atol=1e-4)
    with pytest.raises(ValueError, match="none of vector, batch"):
        spmm.pack(layer.csr, layer.codebook(), regime="any")


def test_multiply_refuses_wrong_shapes() -> None:
    packed = pack_layer(_dense(3, 5)[1])
    for arguments in [(np.ones(4),), (np.ones(5), np.ones(4))]:
        with pytest.raises(ValueError, match="expected"):
            spmm.multiply(packed, *arguments)
    with pytest.raises(ValueError, match="none of highest"):
        spmm.multiply(packed, np.ones(5), precision="most")


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 9), st.integers(1, 3), st.integers(1, 2), st.integers(0, 2), st.integers(1, 2)
)
def test_convolve_matches_the_definition(
    size: int, kernel: int, stride: int, padding: int, dilation: int
) -> None:
    reach = dilation * (kernel - 1) + 1
    if reach > size + 2 * padding:
        return
    groups, channels, filters = 2, 4, 6
    dense, layer = _dense(filters, channels // groups * kernel**2, seed=size)
    x = np.random.default_rng(3).normal(size=(2, channels, size, size + 1)).astype(np.float32)
    found = conv.convolve(
        pack_layer(layer),
        x,
        (kernel, kernel),
        stride=(stride, stride),
        padding=(padding, padding),
        dilation=(dilation, dilation),
        groups=groups,
    )
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    weights = dense.reshape(filters, channels // groups, kernel, kernel)
    for o in range(filters):
        first = o // (filters // groups) * (channels // groups)
        for h in range(found.shape[2]):
            for w in range(found.shape[3]):
                window = padded[
                    :,
                    first : first + channels // groups,
                    h * stride : h * stride + reach : dilation,
                    w * stride : w * stride + reach : dilation,
                ]
                expected = (window * weights[o]).sum((1, 2, 3))
                assert np.allclose(found[:, o, h, w], expected, atol=1e-4)


def test_layer_blob_round_trips_and_counts() -> None:
    _, layer = _dense(12, 60)
    blob = encode_layer(layer)
    back = decode_layer(blob)
    assert back.shape == layer.shape
    assert np.array_equal(back.csr.codes, layer.csr.codes)
    assert np.array_equal(back.values, layer.values)
    info = inspect_layer(blob, verify=True)
    assert info.total_bytes == len(blob)
    assert info.nonzeros == np.count_nonzero(layer.csr.codes)
    for at in range(0, len(blob), 7):
        damaged = blob.copy()
        damaged[at] ^= 4
        with pytest.raises(tersor.FormatError):
            decode_layer(damaged)
