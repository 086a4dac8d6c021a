"""The stand-in for a compressed layer's dense weight: what reads it, and what would change it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import linear
from torch import nn

import tersor
from tersor import LayerConfig


@pytest.fixture
def layer() -> tersor.nn.CompressedLinear:
    return tersor.nn.CompressedLinear.from_dense(linear(), LayerConfig())


@pytest.mark.parametrize(
    "change",
    [
        lambda w: w.zero_(),
        lambda w: w.data.mul_(2),
        lambda w: w.detach().zero_(),
        lambda w: w.data.copy_(torch.zeros(w.shape)),
        lambda w: nn.init.normal_(w.data),
        lambda w: w.__setitem__(0, 1.0),
        lambda w: w.data.__setitem__(w.abs() < 0.1, 0.0),
        lambda w: w.detach().data.__setitem__((0, 0), 1.0),
        lambda w: setattr(w.data, "data", torch.zeros(w.shape)),
    ],
)
def test_a_change_that_would_be_lost_is_refused(
    layer: tersor.nn.CompressedLinear, change: Callable[[torch.Tensor], Any]
) -> None:
    before = layer.dense_weight()
    with pytest.raises(RuntimeError, match="cannot be changed in place"), torch.no_grad():
        change(layer.weight)
    assert torch.equal(layer.dense_weight(), before)


@pytest.mark.parametrize(
    "read",
    [
        lambda w: w.numpy(),
        lambda w: w.detach().numpy(),
        lambda w: w.data.cpu().numpy(),
        lambda w: w.detach().float().contiguous().numpy(),
        lambda w: w.data.clone().numpy(),
        lambda w: w.detach().tolist(),
        lambda w: [row.tolist() for row in w.data],
    ],
)
def test_it_is_read_like_a_dense_weight(
    layer: tersor.nn.CompressedLinear, read: Callable[[torch.Tensor], Any]
) -> None:
    assert np.array_equal(np.asarray(read(layer.weight)), layer.dense_weight().numpy())


def test_what_is_made_of_it_is_dense(layer: tersor.nn.CompressedLinear) -> None:
    made = nn.Parameter(layer.weight.detach().clone())
    assert type(made) is nn.Parameter
    with torch.no_grad():
        made.zero_()
    assert layer.dense_weight().abs().max() > 0


def test_it_is_stored_as_a_dense_tensor(layer: tersor.nn.CompressedLinear, tmp_path: Path) -> None:
    torch.save({"w": layer.weight, "detached": layer.weight.detach()}, tmp_path / "w.pt")
    for tensor in torch.load(tmp_path / "w.pt", weights_only=True).values():
        assert type(tensor) is torch.Tensor
        assert torch.equal(tensor, layer.dense_weight())
