"""What a blob holds, with its own codebook and with another."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from networks import net

import tersor
from tersor.ops.decoded import content_of


def test_values_take_the_place_of_the_codebook_entries() -> None:
    layer = tersor.compress_(net()).fc
    stored = content_of(layer.weight_blob)
    doubled = content_of(layer.weight_blob, torch.from_numpy(2 * stored.values))
    assert np.array_equal(doubled.values, 2 * stored.values)
    assert np.array_equal(doubled.csr.codes, stored.csr.codes)
    assert np.array_equal(content_of(layer.weight_blob).values, stored.values)


def test_a_malformed_blob_is_refused() -> None:
    blob = tersor.compress_(net()).fc.weight_blob.clone()
    with pytest.raises(tersor.FormatError):
        content_of(blob[: len(blob) // 2])
