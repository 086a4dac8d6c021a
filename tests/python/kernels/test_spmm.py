"""Sparse products: by the kernel that is chosen, and by each kernel alone."""

from __future__ import annotations

import numpy as np
import pytest
from tensors import sparse_tensor

from tersor.codec import csr
from tersor.codec.blob import CompressedTensor
from tersor.kernels import spmm
from tersor.kernels.isa import available, use
from tersor.kernels.spmm import pack_blob

KERNELS = spmm.kernels()

# |y - y_ref| per max|x| * sum |w|: what the limbs of each can do, and fp32.
BOUNDS = {
    "sell_1x1": 2.0**-5,
    "sell_1x2": 2.0**-6,
    "sell_2x2_short": 2.0**-11,
    "sell_2x2": 2.0**-12,
    "sell_3x3_short": 2.0**-18,
    "limb_panels": 2.0**-5,
}
BOUNDS |= {k.replace("sell", "tiles"): bound for k, bound in BOUNDS.items()}


def _packed(rows: int, cols: int, isa: str) -> tuple[np.ndarray, spmm.PackedMatrix]:
    rng = np.random.default_rng(0)
    codes = (rng.random((rows, cols)) < 0.2) * rng.integers(1, 16, (rows, cols))
    values = np.linspace(-1.0, 1.1, 15).astype(np.float32)
    layer = CompressedTensor(
        (rows, cols), "shared_fp32", csr.encode(codes.astype(np.uint8), 4), values
    )
    with use(isa):
        return layer.codebook()[codes], pack_blob(layer)


def test_every_level_and_layout_hint_has_a_kernel() -> None:
    for isa in available():
        hints = [k.layout_hint for k in KERNELS if k.isa == isa]
        assert hints.count("vector") >= 1
        assert hints.count("batch") >= 2
    assert len({(k.name, k.isa) for k in KERNELS}) == len(KERNELS)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: f"{k.isa}-{k.name}")
@pytest.mark.parametrize("batch", [1, 9, 70])
def test_every_kernel_runs_alone(kernel: spmm.Kernel, batch: int) -> None:
    dense, packed = _packed(50, 300, kernel.isa)
    x = np.random.default_rng(1).normal(size=(batch, 300)).astype(np.float32)
    out = np.full((batch, 50), np.nan, np.float32)
    assert kernel.run(packed, x, out) is out
    expected = x.astype(np.float64) @ dense.T.astype(np.float64)
    scale = np.abs(x).max(1, keepdims=True) * np.abs(dense).sum(1)
    assert (np.abs(out - expected) <= BOUNDS.get(kernel.name, 2.0**-18) * scale).all()
    assert np.array_equal(kernel.run(packed, x, threads=2), out)


def test_what_a_kernel_cannot_do_is_refused() -> None:
    kernel = KERNELS[0]
    _, packed = _packed(5, 30, kernel.isa)
    x = np.zeros((1, 30), np.float32)
    with pytest.raises(ValueError, match="expected \\[batch, 30\\]"):
        kernel.run(packed, x[:, :20])
    with pytest.raises(ValueError, match="rows elements"):
        kernel.run(packed, x, np.zeros((2, 5), np.float32))
    with pytest.raises(ValueError, match="there is none of this name"):
        spmm.Kernel("magic", kernel.isa, "vector").run(packed, x)
    with pytest.raises(ValueError, match="is packed for"):
        spmm.Kernel("gather", "other", "vector").run(packed, x)
    plain = spmm.pack_values(csr.encode(np.ones((1, 1), np.uint8), 4), np.ones(1, np.float32))
    with pytest.raises(ValueError, match="has no panels"):
        spmm.Kernel("panels", plain.isa, "batch").run(plain, np.zeros((1, 1), np.float32))


@pytest.mark.parametrize("kernel", [k for k in KERNELS if k.name.startswith("sell")])
def test_fixed_point_refuses_what_is_not_finite(kernel: spmm.Kernel) -> None:
    _, packed = _packed(5, 30, kernel.isa)
    x = np.full((1, 30), np.inf, np.float32)
    with pytest.raises(ValueError, match="does not fit fixed point"):
        kernel.run(packed, x)


def test_the_caller_can_say_what_to_optimise_for(isa: str) -> None:
    codes = np.tile(np.arange(4, dtype=np.uint8), (32, 64))
    matrix, codebook = csr.encode(codes, 4), np.array([0, 1, -1, 0.5], np.float32)
    for batch in (1, 64):
        for precision in ("highest", "high", "medium", "low"):
            packed = spmm.pack(matrix, codebook, batch=batch, precision=precision)
            assert np.array_equal(packed.unpack(), codebook[codes])
    vector = spmm.pack(matrix, codebook, layout_hint="vector")
    assert spmm.pack(matrix, codebook).nbytes == vector.nbytes
    # Tiles, which serve so dense a matrix, stand beside the layout for vectors.
    batch = vector if isa == "amx" else spmm.pack(matrix, codebook, layout_hint="batch")
    assert spmm.pack(matrix, codebook, batch=64).nbytes == batch.nbytes
    with pytest.raises(ValueError, match="none of vector, batch"):
        spmm.pack(matrix, codebook, layout_hint="best")


@pytest.mark.parametrize("batch", [(), (0,), (1,), (7,), (2, 20)])
@pytest.mark.parametrize("precision", ["highest", "high", "medium", "low"])
def test_multiply_meets_its_class(isa: str, batch: tuple[int, ...], precision: str) -> None:
    dense, layer = sparse_tensor(30, 200)
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


def test_pack_lays_out_for_either_layout_hint() -> None:
    dense, layer = sparse_tensor(30, 200)
    x = np.random.default_rng(3).normal(size=200).astype(np.float32)
    for layout_hint in ["vector", "batch"]:
        packed = spmm.pack(layer.csr, layer.codebook(), layout_hint=layout_hint, threads=2)
        assert np.array_equal(packed.unpack(), dense)
        assert np.allclose(spmm.multiply(packed, x), dense @ x, atol=1e-4)
    with pytest.raises(ValueError, match="none of vector, batch"):
        spmm.pack(layer.csr, layer.codebook(), layout_hint="any")


def test_multiply_refuses_wrong_shapes() -> None:
    packed = pack_blob(sparse_tensor(3, 5)[1])
    for arguments in [(np.ones(4),), (np.ones(5), np.ones(4))]:
        with pytest.raises(ValueError, match="expected"):
            spmm.multiply(packed, *arguments)
    with pytest.raises(ValueError, match="none of highest"):
        spmm.multiply(packed, np.ones(5), precision="most")
