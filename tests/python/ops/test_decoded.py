"""What a blob holds, with its own codebook and with another."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from networks import linear, net
from torch import nn

import tersor
from tersor.ops.decoded import content_of, encoded


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


def test_the_blob_with_a_codebook_is_one_tensor_while_it_is_right() -> None:
    layer: Any = tersor.compress_(nn.Sequential(linear()))[0]
    values = layer.train_values().detach().clone()
    first = encoded(layer.weight_blob, values)
    assert encoded(layer.weight_blob, values) is first
    with torch.inference_mode():  # which counts no versions of what is made in it
        values.data.mul_(2)
        second = encoded(layer.weight_blob, values)
    assert not second.is_inference()
    assert torch.equal(torch.from_numpy(content_of(second).values), values)
    assert not torch.equal(first, second)
    second.data.zero_()
    third = encoded(layer.weight_blob, values)
    assert np.array_equal(content_of(third).values, values.numpy())
