"""Factors of rows and columns: their grid, their bytes, and what they do to a weight."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tensors import sparse_tensor

from tersor import _core
from tersor.codec.blob import (
    CompressedTensor,
    decode_blob,
    decode_rows,
    encode_blob,
    inspect_blob,
)
from tersor.codec.encode import decompress_weight
from tersor.codec.factors import MOST_STEPS, round_factors
from tersor.kernels.spmm import multiply, pack_blob

Factors = np.ndarray


def with_factors(rows: int = 24, cols: int = 60, steps: int = 4) -> CompressedTensor:
    """A tensor whose rows and columns have factors on a grid."""
    _, layer = sparse_tensor(rows, cols)
    generator = np.random.default_rng(5)
    return replace(
        layer,
        row_factors=round_factors(np.exp(generator.normal(size=rows)), steps),
        column_factors=round_factors(np.exp(generator.normal(size=cols)), steps),
    )


@pytest.mark.parametrize("steps", [1, 2, 4, 8, 16, 32, 64])
def test_every_place_of_a_grid_is_stored_as_such(steps: int) -> None:
    places = np.arange(-126 * steps, 128 * steps)
    grid = np.exp2(places / steps).astype(np.float32)
    for first in range(0, len(grid) - 1, 200):
        part = grid[first : first + 200]
        assert np.array_equal(round_factors(part, steps), part)
        _, layer = sparse_tensor(len(part), 3)
        blob = encode_blob(replace(layer, row_factors=part))
        # A byte each and the head of a list: on the grid, not as fp16 or fp32.
        assert inspect_blob(blob).factor_bytes <= len(part) + 16
        assert np.array_equal(decode_blob(blob).row_factors, part)


@pytest.mark.parametrize("steps", [1, 4, MOST_STEPS])
def test_rounding_is_to_the_nearest_or_up(steps: int) -> None:
    factors = np.exp(np.random.default_rng(0).normal(size=500) / 4)
    near = round_factors(factors, steps)
    assert np.abs(np.log2(near / factors)).max() <= 0.5 / steps + 1e-6
    up = round_factors(factors, steps, up=True)
    assert (up >= factors * (1 - 1e-6)).all()
    assert np.log2(up / factors).max() < 1 / steps + 1e-6


def test_factors_that_are_too_small_beside_others_are_raised() -> None:
    assert round_factors([1e-30, 1.0], 4).tolist() == [np.float32(2.0 ** (-255 / 4)), 1.0]


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf, 1e-40, 1e39])
def test_factors_off_every_grid_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="positive normal float32"):
        round_factors([1.0, bad])


def test_steps_are_a_power_of_two() -> None:
    with pytest.raises(ValueError, match="power of 2"):
        round_factors([1.0], 3)


@pytest.mark.parametrize(
    ("factors", "bytes_each"),
    [
        (np.full(24, 0.5, np.float32), 0),
        (np.array([1.0, -0.125, 0.0] * 8, np.float32), 2),
        (np.linspace(0.1, 1, 24, dtype=np.float32), 4),
    ],
    ids=["equal", "fp16", "fp32"],
)
def test_a_blob_gives_any_factors_back(factors: Factors, bytes_each: int) -> None:
    _, layer = sparse_tensor(24, 60)
    layer = replace(layer, row_factors=factors)
    blob = encode_blob(layer)
    back = decode_blob(blob)
    assert np.array_equal(back.row_factors, factors)
    assert back.column_factors is None
    assert inspect_blob(blob, verify=True).factor_bytes - 24 * bytes_each in range(3, 12)
    assert np.array_equal(decode_rows(blob, 5, 7).row_factors, factors[5:12])


def test_taps_with_equal_factors_are_stored_as_channels() -> None:
    _, layer = sparse_tensor(8, 36)
    channels = round_factors(np.random.default_rng(1).uniform(0.1, 2, 4), 4)
    each = np.repeat(channels, 9)
    filters = replace(layer, shape=(8, 4, 3, 3), column_factors=each)
    blob = encode_blob(filters)
    assert np.array_equal(decode_blob(blob).column_factors, each)
    other = each.copy()
    other[7] *= 2
    taps = encode_blob(replace(filters, column_factors=other))
    assert np.array_equal(decode_blob(taps).column_factors, other)
    assert inspect_blob(blob).factor_bytes < inspect_blob(taps).factor_bytes


def test_a_dense_weight_has_its_factors() -> None:
    layer = with_factors()
    plain = decompress_weight(replace(layer, row_factors=None, column_factors=None))
    assert layer.row_factors is not None
    assert layer.column_factors is not None
    expected = plain * layer.row_factors[:, None] * layer.column_factors
    assert np.array_equal(decompress_weight(layer), expected)
    packed = pack_blob(encode_blob(layer))
    assert packed.has_factors
    assert np.array_equal(packed.unpack(), expected)
    assert packed.transposed.unpack() == pytest.approx(expected.T, rel=1e-6)
    x = np.random.default_rng(2).normal(size=(3, 60)).astype(np.float32)
    bias = np.random.default_rng(3).normal(size=24).astype(np.float32)
    assert multiply(packed, x, bias, precision="highest") == pytest.approx(
        x @ expected.T + bias, rel=1e-4, abs=1e-5
    )


@pytest.mark.parametrize("part", ["row_factors", "column_factors"])
def test_factors_that_do_not_fit_are_refused(part: str) -> None:
    _, layer = sparse_tensor(24, 60)
    with pytest.raises(ValueError, match=part):
        encode_blob(replace(layer, **{part: np.ones(7, np.float32)}))
    size = 24 if part == "row_factors" else 60
    not_finite = replace(layer, **{part: np.full(size, np.nan, np.float32)})
    with pytest.raises(ValueError, match="factor is NaN or infinite"):
        encode_blob(not_finite)


def test_blobs_without_factors_stay_as_they_were() -> None:
    _, layer = sparse_tensor(24, 60)
    blob = encode_blob(layer)
    assert blob[3] == 1
    assert encode_blob(with_factors())[3] == 0x11
    assert inspect_blob(blob).factor_bytes == 0
    with pytest.raises(ValueError, match="one finite factor"):
        pack_blob(blob).set_factors(np.ones(3, np.float32), None)
    assert _core.is_layer(encode_blob(with_factors()))
