"""Round trips and errors of relative CSR."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import tersor
from tersor.codec import csr

MATRICES = hnp.arrays(
    np.uint8,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=40),
    elements=st.sampled_from([0, 0, 0, 0, 1, 2, 5]),
)


@settings(max_examples=60)
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


@pytest.mark.parametrize("flat", [False, True])
def test_the_elements_that_are_believed_can_be_chosen(flat: bool) -> None:
    lengths = np.zeros(0 if flat else 1000, np.uint32)
    none = np.zeros(0, np.uint8)
    sparse = csr.RelativeCsr(1000, 1000, 8, flat, none, none, lengths)
    assert csr.decode(sparse, believed=10**6).shape == (1000, 1000)
    with pytest.raises(tersor.FormatError, match="larger than allowed"):
        csr.decode(sparse, believed=10**6 - 1)
    assert not csr.decode(sparse).any()  # small for any machine
    backed = csr.encode(np.eye(100, dtype=np.uint8), 8, flat=flat)
    assert np.array_equal(csr.decode(backed, believed=0), np.eye(100))


def test_a_sparse_matrix_of_more_than_2_28_elements_is_decoded() -> None:
    """The codes alone, 256 MiB; the dense weight would take four times as much."""
    rows, cols = 2**14 + 1, 2**14
    codes, gaps = np.array([7], np.uint8), np.array([3], np.uint8)
    lengths = np.zeros(rows, np.uint32)
    lengths[-1] = 1
    dense = csr.decode(csr.RelativeCsr(rows, cols, 8, False, codes, gaps, lengths))
    assert dense.shape == (rows, cols)
    assert dense[-1, 3] == 7
    assert np.count_nonzero(dense) == 1
