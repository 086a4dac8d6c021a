"""Products by the kernel that is chosen."""

from __future__ import annotations

import numpy as np
import pytest

from tersor.codec import csr
from tersor.codec.blob import CompressedTensor
from tersor.kernels import spmm
from tersor.kernels.spmm import pack_blob


def _dense(rows: int, cols: int, seed: int = 0) -> tuple[np.ndarray, CompressedTensor]:
    rng = np.random.default_rng(seed)
    codes = (rng.random((rows, cols)) < 0.2) * rng.integers(1, 8, (rows, cols))
    values = rng.normal(size=7).astype(np.float32)
    matrix = csr.encode(codes.astype(np.uint8), 4)
    layer = CompressedTensor((rows, cols), "shared_fp32", matrix, values)
    return layer.codebook()[codes], layer


@pytest.mark.parametrize("batch", [(), (0,), (1,), (7,), (2, 20)])
@pytest.mark.parametrize("precision", ["highest", "high", "medium", "low"])
def test_multiply_meets_its_class(isa: str, batch: tuple[int, ...], precision: str) -> None:
    dense, layer = _dense(30, 200)
    packed = pack_blob(layer)
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
    packed = pack_blob(_dense(3, 5)[1])
    for arguments in [(np.ones(4),), (np.ones(5), np.ones(4))]:
        with pytest.raises(ValueError, match="expected"):
            spmm.multiply(packed, *arguments)
    with pytest.raises(ValueError, match="none of highest"):
        spmm.multiply(packed, np.ones(5), precision="most")
