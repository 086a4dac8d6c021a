"""One tensor as a blob."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from tensors import sparse_tensor

import tersor
from tersor import _core
from tersor.codec import csr
from tersor.codec.blob import (
    CompressedTensor,
    decode_blob,
    decode_rows,
    encode_blob,
    inspect_blob,
)
from tersor.codec.encode import decompress_weight
from tersor.kernels.spmm import multiply, pack_blob


def test_layer_blob_round_trips_and_counts() -> None:
    _, layer = sparse_tensor(12, 60)
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


@pytest.mark.parametrize("flat", [False, True])
def test_a_blob_with_contexts_decodes_by_rows_and_packs(flat: bool) -> None:
    dense, layer = sparse_tensor(12, 60)
    matrix = csr.encode(csr.decode(layer.csr), 4, flat=flat)
    layer = dataclasses.replace(layer, csr=matrix, entropy="smallest")
    blob = encode_blob(layer)
    part = decode_rows(blob, 5, 4)
    assert np.array_equal(decompress_weight(part), dense[5:9])
    info = inspect_blob(blob, verify=True)
    assert (info.entropy, info.nonzeros) == ("smallest", info.entries)
    x = np.random.default_rng(2).normal(size=(3, 60)).astype(np.float32)
    usual = encode_blob(dataclasses.replace(layer, entropy="huffman"))
    assert np.array_equal(multiply(pack_blob(blob), x), multiply(pack_blob(usual), x))
    with pytest.raises(tersor.FormatError, match="at byte"):
        decode_blob(blob, max_bytes=12 * 60)


def test_unknown_names_of_coders_are_refused() -> None:
    _, layer = sparse_tensor(4, 5)
    with pytest.raises(ValueError, match="entropy 'best' is none of huffman, smallest"):
        encode_blob(dataclasses.replace(layer, entropy="best"))


def _announcing(rows: int) -> np.ndarray:
    """A small blob of many empty rows, each of which takes four bytes when it is decoded."""
    none = np.zeros(0, np.uint8)
    matrix = csr.RelativeCsr(rows, 1, 8, False, none, none, np.zeros(rows, np.uint32))
    return encode_blob(CompressedTensor((rows, 1), "shared_fp32", matrix, np.zeros(0, np.float32)))


# By the function of the core: the one that calls it.
DECODERS: dict[str, Any] = {
    "layer_decode": decode_blob,
    "layer_decode_rows": lambda blob, **options: decode_rows(blob, 0, 1, **options),
    "layer_pack": pack_blob,
}


@pytest.mark.parametrize("name", list(DECODERS))
def test_the_bound_is_the_callers_or_that_of_the_core(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob, decode, original = _announcing(10_000), DECODERS[name], getattr(_core, name)
    with pytest.raises(tersor.FormatError, match="larger than allowed"):
        decode(blob, max_bytes=10_000)
    passed: list[Any] = []

    def record(*arguments: Any) -> Any:
        passed.append(arguments[-2])
        return original(*arguments)

    monkeypatch.setattr(_core, name, record)
    decode(blob)
    decode(blob, max_bytes=1 << 30)
    assert passed == [None, 1 << 30]
