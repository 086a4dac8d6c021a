"""Threads of the core: any number of them, layouts before traffic, many layers at once."""

from __future__ import annotations

import numpy as np
import pytest

from tersor import _core

NO_LIMIT = 2**63


def matrix(rows: int, cols: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes [rows, cols] uint8, 30 % of them not 0, and a codebook [16] float32."""
    rng = np.random.default_rng(seed)
    codes = np.where(rng.random((rows, cols)) < 0.3, rng.integers(1, 16, (rows, cols)), 0)
    codebook = np.concatenate([[0], rng.normal(size=15)]).astype(np.float32)
    return codes.astype(np.uint8), codebook


def pack(codes: np.ndarray, codebook: np.ndarray, threads: int) -> _core.PackedMatrix:
    parts = _core.csr_encode(codes, 4, False)
    return _core.spmm_pack(*parts, codebook, None, 1, "high", threads)


def multiply(packed: _core.PackedMatrix, x: np.ndarray, precision: str, threads: int) -> np.ndarray:
    y = np.empty((len(x), packed.rows), np.float32)
    _core.spmm_multiply(
        packed, x.ctypes.data, len(x), 0, 0, y.ctypes.data, 0, "none", precision, threads
    )
    return y


def blob(codes: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    rows, cols = codes.shape
    parts = _core.csr_encode(codes, 4, False)
    values = codebook[1:]
    return _core.layer_encode([rows, cols], "shared_fp32", *parts, values, None, None, "huffman")


@pytest.mark.parametrize("threads", [-1, 0, 3, 10_000_000])
def test_any_number_of_threads_does(threads: int) -> None:
    codes, codebook = matrix(300, 200, 1)
    x = np.random.default_rng(2).normal(size=(70, 200)).astype(np.float32)
    many, one = pack(codes, codebook, threads), pack(codes, codebook, 1)
    assert many.nbytes == one.nbytes
    wanted = max(threads, 0)  # by position a count is not negative
    for precision in ("highest", "high", "medium", "low"):
        expected = multiply(one, x, precision, 1)
        np.testing.assert_array_equal(multiply(many, x, precision, wanted), expected)


@pytest.mark.parametrize("precision", ["high", "medium", "low"])
@pytest.mark.parametrize("batch", [1, 20, 64])
def test_a_prepared_product_makes_nothing(batch: int, precision: str) -> None:
    codes, codebook = matrix(300, 200, 3)
    packed = pack(codes, codebook, 1)
    _core.spmm_prepare(packed, batch, precision, 2)
    made = packed.nbytes
    multiply(packed, np.ones((batch, 200), np.float32), precision, 2)
    assert packed.nbytes == made


def test_prepare_refuses_an_unknown_class() -> None:
    packed = pack(*matrix(10, 20, 4), 1)
    with pytest.raises(ValueError, match="lowest"):
        _core.spmm_prepare(packed, 1, "lowest", 1)


def test_layers_are_packed_side_by_side() -> None:
    layers = [matrix(10 + 7 * i, 40, i) for i in range(9)]
    packed = _core.layers_pack([blob(*layer) for layer in layers], NO_LIMIT, 3)
    assert len(packed) == len(layers)
    for (codes, codebook), made in zip(layers, packed, strict=True):
        np.testing.assert_array_equal(made.unpack(), codebook[codes])


def test_a_damaged_layer_among_many_is_named() -> None:
    blobs = [blob(*matrix(10, 40, i)) for i in range(3)]
    blobs[1] = blobs[1].copy()
    blobs[1][20] ^= 1
    with pytest.raises(_core.FormatError, match="layer blob 1: the checksum"):
        _core.layers_pack(blobs, NO_LIMIT, 2)


@pytest.mark.parametrize("threads", [1, 2, 100])
def test_files_are_verified_on_any_number_of_threads(tmp_path, threads: int) -> None:
    path = str(tmp_path / "m.safetensors")
    tensors = [(f"t{i}", "U8", [5000], np.full(5000, i, np.uint8)) for i in range(9)]
    _core.write_file(path, tensors, [], False)
    _core.File.open(path, NO_LIMIT).verify(threads)
    content = bytearray((tmp_path / "m.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "m.safetensors").write_bytes(content)
    with pytest.raises(_core.FormatError, match="checksum"):
        _core.File.open(path, NO_LIMIT).verify(threads)
