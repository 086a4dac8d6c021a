"""One-dimensional clustering."""

from __future__ import annotations

import numpy as np
import pytest

import tersor
from tersor.quantizers import kmeans


@pytest.mark.parametrize("algorithm", ["exact", "lloyd"])
def test_kmeans_is_the_same_on_every_isa_and_thread_count(isa: str, algorithm: str) -> None:
    x = np.random.default_rng(1).normal(size=30000).astype(np.float32)
    with tersor.kernels.isa.use("scalar"):
        expected = kmeans.cluster(x, 15, algorithm=algorithm)
    found = kmeans.cluster(x, 15, algorithm=algorithm, threads=2)
    assert np.array_equal(found.values, expected.values)
    assert np.array_equal(found.codes, expected.codes)
    error = ((x - found.values[found.codes - 1].astype(np.float64)) ** 2).sum()
    assert found.distortion == pytest.approx(error, rel=1e-6)


def test_kmeans_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="none of exact, lloyd"):
        kmeans.cluster([1.0], 1, algorithm="best")
    with pytest.raises(ValueError, match="NaN"):
        kmeans.cluster([np.nan], 1)
