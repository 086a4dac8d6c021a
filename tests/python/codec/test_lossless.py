"""Tensors without loss, as bytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tersor import FormatError
from tersor.codec import lossless
from tersor.io.element_types import ELEMENT_BYTES


def _gaussian(count: int) -> np.ndarray:
    values = np.random.default_rng(0).normal(0, 0.02, count).astype(np.float32)
    return values.view(np.uint8)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_bytes_of_any_type_come_back(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(sorted(ELEMENT_BYTES)))
    shape = data.draw(st.lists(st.integers(0, 12), max_size=4))
    size = int(np.prod(shape, dtype=np.int64)) * ELEMENT_BYTES[dtype]
    values = st.one_of(st.integers(0, 255), st.sampled_from([0, 63, 128, 255]))
    raw = data.draw(arrays(np.uint8, size, elements=values))
    blob = lossless.encode(raw, dtype, shape)
    info = lossless.inspect(blob)
    assert (info.dtype, info.shape, info.nbytes) == (dtype, tuple(shape), size)
    assert lossless.decode(blob).tobytes() == raw.tobytes()
    assert blob.nbytes <= size + 10 + len(shape)
    assert lossless.is_lossless(blob)


def test_rows_decode_alone() -> None:
    raw = _gaussian(1000 * 300)
    blob = lossless.encode(raw, "F32", (1000, 300), threads=2)
    assert blob.nbytes < 0.84 * raw.nbytes
    rows = raw.reshape(1000, 1200)
    for first, count in ((0, 1), (217, 3), (400, 600), (999, 1), (1000, 0)):
        part = lossless.decode_rows(blob, first, count, threads=2)
        assert part.tobytes() == rows[first : first + count].tobytes()
    for first, count in ((-1, 1), (0, -1), (999, 2)):
        with pytest.raises(ValueError, match="no rows"):
            lossless.decode_rows(blob, first, count)
    assert lossless.decode_rows(lossless.encode(raw[:4], "F32", ()), 0, 1).nbytes == 4


def test_memory_is_bounded_before_it_is_taken() -> None:
    blob = lossless.encode(np.zeros(1 << 20, np.uint8), "U8", (1 << 20,))
    assert blob.nbytes < 40
    with pytest.raises(FormatError, match="takes 1048576 bytes, more than 1000"):
        lossless.decode(blob, max_bytes=1000)
    with pytest.raises(FormatError, match="takes 2000 bytes, more than 1000"):
        lossless.decode_rows(blob, 5, 2000, max_bytes=1000)
    assert not lossless.decode(blob, max_bytes=1 << 20).any()


def test_a_place_to_decode_to_must_fit() -> None:
    raw = _gaussian(100)
    blob = lossless.encode(raw, "F32", (100,))
    out = np.empty(400, np.uint8)
    assert lossless.decode(blob, out) is out
    assert out.tobytes() == raw.tobytes()
    for wrong in (np.empty(399, np.uint8), np.empty(100, np.float32), np.empty(800, np.uint8)[::2]):
        with pytest.raises(ValueError, match="out must be"):
            lossless.decode(blob, wrong)


def test_damage_is_an_error_with_a_position() -> None:
    raw = _gaussian(70000)
    blob = lossless.encode(raw, "F32", (70000,))
    for at in (0, 3, 4, 6, 20, blob.size // 2, blob.size - 1):
        damaged = blob.copy()
        damaged[at] ^= 0x55
        with pytest.raises(FormatError, match="at byte"):
            lossless.decode(damaged)
    with pytest.raises(FormatError, match="at byte"):
        lossless.decode(blob[:-1])


def test_arguments_are_checked() -> None:
    raw = np.zeros(8, np.uint8)
    with pytest.raises(ValueError, match="unknown dtype"):
        lossless.encode(raw, "F31", (2,))
    with pytest.raises(ValueError, match="does not fit"):
        lossless.encode(raw, "F32", (3,))
    with pytest.raises(ValueError, match="8 dimensions"):
        lossless.encode(raw, "F32", (2,) + (1,) * 8)
