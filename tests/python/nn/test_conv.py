"""Convolutions by the compressed layer, whichever way it runs: answers, bounds, and the choice."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tersor import LayerConfig
from tersor.nn import CompressedConv2d, execution
from tersor.ops.decoded import is_decoded


def _layer(way: str, precision: str = "high") -> CompressedConv2d:
    torch.manual_seed(0)
    dense = nn.Conv2d(6, 8, 3, stride=2, padding=1, groups=2)
    settings = LayerConfig(density=0.7, codebook_size=63, precision=precision)
    layer = CompressedConv2d.from_dense(dense, settings)
    layer.execution = way
    return layer.requires_grad_(False)


@pytest.mark.parametrize("way", ["compressed", "dense", "auto"])
@pytest.mark.parametrize("activation", ["none", "relu", "silu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_ways_compute_alike(way: str, activation: str, dtype: torch.dtype) -> None:
    execution.forget_choices()
    layer = _layer(way).to(dtype)
    layer.activation = activation
    x, residual = torch.randn(2, 6, 9, 12).to(dtype), torch.randn(2, 8, 5, 6).to(dtype)
    found = layer(x, residual)
    assert layer.bias is not None
    expected = F.conv2d(x.float(), layer.dense_weight(), layer.bias.float(), 2, 1, 1, 2)
    expected = expected + residual.float()
    expected = {"none": expected, "relu": expected.relu(), "silu": F.silu(expected)}[activation]
    tolerance = 1e-4 if dtype is torch.float32 else 4e-2
    assert torch.allclose(found.float(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("seconds", "way"), [([2.0, 1.0], "dense"), ([1.0, 2.0], "compressed")])
def test_the_faster_way_is_kept_and_said(
    monkeypatch: pytest.MonkeyPatch, seconds: list[float], way: str
) -> None:
    execution.forget_choices()
    monkeypatch.setattr(execution, "_shortest_times", lambda *_, **__: seconds)
    layer = _layer("auto")
    layer(torch.randn(1, 6, 9, 12))
    assert f"runs {way}" in repr(layer)
    assert is_decoded(layer.weight_blob) == (way == "dense")
    assert len(layer.choices) == 1
    layer(torch.randn(1, 6, 9, 12))
    layer(torch.randn(1, 6, 20, 31))  # images of another size are another question
    assert len(layer.choices) == 2
    execution.forget_choices()


@pytest.mark.parametrize("precision", ["highest", "high", "medium", "low"])
def test_precision_bounds_the_error(precision: str) -> None:
    layer = _layer("compressed", precision)
    x = torch.randn(1, 6, 30, 30)
    weight = layer.dense_weight().double()
    assert layer.bias is not None
    exact = F.conv2d(x.double(), weight, layer.bias.double(), 2, 1, 1, 2)
    limit = {"highest": 2.0**-18, "high": 2.0**-18, "medium": 2.0**-13, "low": 2.0**-6}[precision]
    sums = weight.abs().flatten(1).sum(1)[None, :, None, None] * x.abs().max()
    error = ((layer(x).double() - exact).abs() / sums).max()
    assert error <= limit
    if precision == "low":
        assert error > 2.0**-18  # it is honoured, not computed in fp32
