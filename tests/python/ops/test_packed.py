"""Packed matrices by blob."""

from __future__ import annotations

import copy
import gc

import pytest
import torch
from networks import linear, rows

import tersor
from tersor import LayerConfig
from tersor.ops import packed
from tersor.ops.packed import packed_of


def _layer() -> tersor.nn.CompressedLinear:
    return tersor.nn.CompressedLinear.from_dense(linear(), LayerConfig())


def test_a_blob_is_packed_once_while_it_stays_as_it_is() -> None:
    layer = _layer()
    first = packed_of(layer.weight_blob)
    assert packed_of(layer.weight_blob) is first
    with torch.no_grad():
        layer.weight_blob.add_(0)
    assert packed_of(layer.weight_blob) is not first


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("way", ["data", "load_state_dict"])
def test_a_blob_that_lies_in_other_memory_is_packed_again(inference: bool, way: str) -> None:
    others = [_layer() for _ in range(2)]
    for factor, other in enumerate(others, 2):
        dense = linear()
        torch.nn.init.constant_(dense.weight, factor)
        other.set_blob(tersor.nn.CompressedLinear.from_dense(dense, LayerConfig()).weight_blob)
    with torch.inference_mode(inference), torch.no_grad():
        layer, x = copy.deepcopy(_layer()), rows()
        for other in (*others, *others):
            layer(x)
            for blob in (_layer().weight_blob, other.weight_blob):  # memory is given back, and used
                if way == "data":
                    layer.weight_blob.data = blob.clone()
                else:
                    layer.load_state_dict({**layer.state_dict(), "weight_blob": blob})
            other.bias = layer.bias
            assert torch.equal(layer(x), other(x))


def test_nothing_is_kept_of_blobs_that_are_gone() -> None:
    layer = _layer()
    layer.train_values()
    layer(rows())
    blob, values = id(layer.weight_blob), id(layer.values)
    assert blob in packed.MATRICES.by_blob
    assert values in packed.MATRICES.by_values
    del layer
    gc.collect()
    assert blob not in packed.MATRICES.by_blob
    assert values not in packed.MATRICES.by_values


def test_trained_values_are_packed_again_when_they_change() -> None:
    layer = _layer()
    values = layer.train_values()
    first = packed_of(layer.weight_blob, values)
    assert packed_of(layer.weight_blob, values) is first
    with torch.no_grad():
        values.mul_(2)
    assert packed_of(layer.weight_blob, values) is not first


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("where", ["data", "detach", "itself"])
def test_trained_values_count_however_they_are_written(inference: bool, where: str) -> None:
    with torch.inference_mode(inference), torch.no_grad():
        layer, x = _layer(), rows()
        values = layer.train_values()
        layer.bias = None
        before = layer(x)
        {"data": values.data, "detach": values.detach(), "itself": values}[where].mul_(2)
        assert torch.allclose(layer(x), 2 * before, rtol=1e-4, atol=1e-5)


def test_blobs_without_data_are_refused_in_words() -> None:
    with pytest.raises(RuntimeError, match="on the meta device and has no data"):
        packed_of(torch.empty(9, dtype=torch.uint8, device="meta"))
    with pytest.raises(RuntimeError, match="has no weight yet"):
        packed_of(torch.empty(0, dtype=torch.uint8))
