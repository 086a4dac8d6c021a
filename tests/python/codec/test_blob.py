"""One tensor as a blob."""

from __future__ import annotations

import numpy as np
import pytest

import tersor
from tersor.codec import csr
from tersor.codec.blob import CompressedTensor, decode_blob, encode_blob, inspect_blob


def _dense(rows: int, cols: int, seed: int = 0) -> tuple[np.ndarray, CompressedTensor]:
    rng = np.random.default_rng(seed)
    codes = (rng.random((rows, cols)) < 0.2) * rng.integers(1, 8, (rows, cols))
    values = rng.normal(size=7).astype(np.float32)
    matrix = csr.encode(codes.astype(np.uint8), 4)
    layer = CompressedTensor((rows, cols), "shared_fp32", matrix, values)
    return layer.codebook()[codes], layer


def test_layer_blob_round_trips_and_counts() -> None:
    _, layer = _dense(12, 60)
    blob = encode_blob(layer)
    back = decode_blob(blob)
    assert back.shape == layer.shape
    assert np.array_equal(back.csr.codes, layer.csr.codes)
    assert np.array_equal(back.values, layer.values)
    info = inspect_blob(blob, verify=True)
    assert info.total_bytes == len(blob)
    assert info.nonzeros == np.count_nonzero(layer.csr.codes)
    for at in range(0, len(blob), 7):
        damaged = blob.copy()
        damaged[at] ^= 4
        with pytest.raises(tersor.FormatError):
            decode_blob(damaged)
