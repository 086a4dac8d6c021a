"""Look-ups of compressed rows against the dense matrix."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tersor import FormatError, LayerConfig
from tersor.codec.blob import CompressedTensor, encode_blob
from tersor.codec.csr import encode
from tersor.codec.encode import compress_weight, decompress_weight
from tersor.kernels.isa import available, use
from tersor.kernels.rows import look_up, pack_rows


def _tensor(rows: int, cols: int, values: int, density: float, seed: int) -> CompressedTensor:
    random = np.random.default_rng(seed)
    codes = random.integers(1, values + 1, (rows, cols), dtype=np.uint8)
    codes[random.random((rows, cols)) >= density] = 0
    codebook = random.standard_normal(values).astype(np.float32)
    return CompressedTensor((rows, cols), "shared_fp32", encode(codes, 4), codebook)


@given(
    rows=st.integers(1, 40),
    cols=st.integers(1, 150),
    values=st.integers(1, 255),
    density=st.sampled_from([0.0, 0.3, 1.0]),
    scaled=st.booleans(),
    seed=st.integers(0, 9),
)
def test_rows_are_those_of_the_dense_matrix(
    rows: int,
    cols: int,
    values: int,
    density: float,
    scaled: bool,
    seed: int,
) -> None:
    tensor = _tensor(rows, cols, values, density, seed)
    factors = np.linspace(-2, 3, rows, dtype=np.float32) if scaled else None
    dense = decompress_weight(tensor)
    if factors is not None:
        dense = dense * factors[:, None]
    indices = np.random.default_rng(seed).integers(0, rows, (3, 5))
    for isa in available():
        with use(isa):
            packed = pack_rows(tensor, factors=factors)
        assert (packed.isa, packed.bits) == (isa, max(1, values.bit_length()))
        assert np.array_equal(look_up(packed, indices), dense[indices])
        assert np.array_equal(look_up(packed, indices, threads=3), dense[indices])


def test_a_blob_is_packed_as_its_tensor_is() -> None:
    weight = np.random.default_rng(0).standard_normal((50, 48)).astype(np.float32)
    tensor = compress_weight(weight, LayerConfig(codebook_size=63))
    packed = pack_rows(encode_blob(tensor))
    assert (packed.rows, packed.cols, packed.bits) == (50, 48, 6)
    assert packed.nbytes < 0.7 * weight.nbytes
    assert np.array_equal(look_up(packed, [7, 49]), decompress_weight(tensor)[[7, 49]])


@pytest.mark.parametrize("wrong", [50, -1, 2**40])
def test_an_index_that_is_out_of_range_is_named(wrong: int) -> None:
    packed = pack_rows(_tensor(50, 8, 3, 1.0, 0))
    with pytest.raises(IndexError, match=f"index {wrong} at position 3 is out of range for 50"):
        look_up(packed, [[0, 1], [2, wrong]])
    with pytest.raises(TypeError, match="must be integers, not float64"):
        look_up(packed, [0.5])


def test_what_has_no_codebook_is_refused() -> None:
    weight = np.ones((4, 4), np.float32)
    tensor = compress_weight(weight, LayerConfig(kind="plain_fp32"))
    with pytest.raises(ValueError, match="need a codebook, which kind plain_fp32 has not"):
        pack_rows(tensor)


def test_malformed_blobs_are_refused() -> None:
    blob = encode_blob(_tensor(9, 30, 5, 0.5, 1))
    for position in range(0, len(blob), 7):
        damaged = blob.copy()
        damaged[position] ^= 0x41
        with pytest.raises(FormatError):
            pack_rows(damaged)
