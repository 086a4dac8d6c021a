"""A few bytes take no gigabytes, and what was written can be read."""

from __future__ import annotations

import os
import struct

import numpy as np
import pytest
import xxhash

import tersor
from tersor import _core
from tersor.codec import csr
from tersor.codec.blob import decode_blob, inspect_blob
from tersor.kernels.spmm import pack_blob

MOST = b"\xff\xff\xff\xff\x0f"  # 2^32 - 1 as a varint
ROOM = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 8


def _blob_without_entries(shape: list[bytes]) -> bytes:
    """Flat, no values, no fillers, two streams without a symbol."""
    body = b"TSR\x01" + bytes([1 << 2 | 1 << 3, len(shape)]) + b"".join(shape)
    body += b"\0\0\x01\x01" + b"\0" + b"\0"
    return body + struct.pack("<Q", xxhash.xxh3_64_intdigest(body))


@pytest.mark.parametrize("shape", [[MOST, b"\x01"], [MOST]])
def test_thirty_bytes_are_refused_before_anything_is_allocated(shape: list[bytes]) -> None:
    blob = np.frombuffer(_blob_without_entries(shape), np.uint8)
    assert blob.size <= 30
    assert inspect_blob(blob, verify=True).nonzeros == 0
    with pytest.raises(tersor.FormatError, match="larger than allowed"):
        pack_blob(blob)
    if len(shape) == 1:
        with pytest.raises(tersor.FormatError, match="larger than allowed"):
            decode_blob(blob)


@pytest.mark.skipif(ROOM < 1 << 28, reason="a dense matrix of 2^28 codes is an eighth of memory")
def test_a_very_sparse_matrix_is_decoded() -> None:
    codes = np.zeros(((1 << 14) + 1, 1 << 14), np.uint8)
    codes[0, 0] = codes[-1, -1] = 7
    decoded = csr.decode(csr.encode(codes, 8))
    assert np.array_equal(decoded, codes)


def test_a_matrix_larger_than_the_machine_is_refused() -> None:
    none = np.zeros(0, np.uint8)
    rows = 1 << 30
    with pytest.raises(tersor.FormatError, match="larger than allowed"):
        _core.csr_decode(rows, rows, 4, True, none, none, np.zeros(0, np.uint32))
    parts = (4, True, none, none, np.zeros(0, np.uint32))
    with pytest.raises(tersor.FormatError, match="larger than allowed"):
        _core.csr_decode(100, 100, *parts, believed=9999)
    assert _core.csr_decode(100, 100, *parts, believed=10000).shape == (100, 100)
