"""Layers whose weights have a factor for each row and column."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tersor
from tersor.codec.blob import encode_blob
from tersor.codec.factors import round_factors
from tersor.nn.base import Compressed, blob_tensor
from tersor.nn.conv import CompressedConv2d
from tersor.nn.linear import CompressedLinear


def with_factors(layer: Compressed, taps: int = 1) -> Compressed:
    """A layer whose rows and columns (input channels, of ``taps`` columns) get factors."""
    generator = np.random.default_rng(0)
    content = layer.layer()
    rows, cols = content.csr.rows, content.csr.cols
    scaled = replace(
        content,
        row_factors=round_factors(np.exp(generator.normal(size=rows))),
        column_factors=np.repeat(round_factors(np.exp(generator.normal(size=cols // taps))), taps),
    )
    layer.set_blob(blob_tensor(encode_blob(scaled)))
    layer.precision = "highest"
    return layer


def layers() -> list[Any]:
    torch.manual_seed(0)
    settings = tersor.LayerConfig(density=0.4, codebook_size=15)
    linear = with_factors(CompressedLinear.from_dense(nn.Linear(40, 24), settings))
    conv = with_factors(CompressedConv2d.from_dense(nn.Conv2d(6, 8, 3), settings), 9)
    grouped = nn.Conv2d(6, 8, 3, groups=2, padding=1)
    groups = with_factors(CompressedConv2d.from_dense(grouped, settings), 9)
    return [
        pytest.param(linear, torch.randn(5, 40), id="linear"),
        pytest.param(conv, torch.randn(2, 6, 7, 7), id="conv"),
        pytest.param(groups, torch.randn(2, 6, 7, 7), id="grouped"),
    ]


@pytest.mark.parametrize(("layer", "x"), layers())
def test_a_layer_computes_with_its_factors(layer: Any, x: torch.Tensor) -> None:
    dense = layer.to_dense()
    with torch.inference_mode():
        torch.testing.assert_close(layer(x), dense(x), rtol=1e-5, atol=2e-5)
    x = x.clone().requires_grad_(True)
    results = []
    for module in (layer, dense):
        (gradient,) = torch.autograd.grad(module(x).square().sum(), x)
        results.append(gradient)
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("layer", "x"), layers())
def test_the_gradient_of_a_codebook_has_the_factors(layer: Any, x: torch.Tensor) -> None:
    values = layer.train_values()
    (gradient,) = torch.autograd.grad(layer(x).square().sum(), values)
    weight = layer.weight  # decoded by an operator
    function = torch.nn.functional.linear
    if weight.dim() == 4:
        arguments = (layer.stride, layer.padding, layer.dilation, layer.groups)
        y = torch.nn.functional.conv2d(x, weight, layer.bias, *arguments)
    else:
        y = function(x, weight, layer.bias)
    (expected,) = torch.autograd.grad(y.square().sum(), values)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-3)
    step = 1e-2
    with torch.no_grad():
        values[2] += step
        above = layer(x).square().sum()
        values[2] -= 2 * step
        below = layer(x).square().sum()
        values[2] += step
    assert float((above - below) / (2 * step)) == pytest.approx(float(gradient[2]), rel=2e-2)
    layer.fold_values()
    assert layer.layer().row_factors is not None
    assert layer.layer().column_factors is not None


def test_attention_with_a_trained_codebook_keeps_its_factors() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.MultiheadAttention(48, 4, batch_first=True).eval())
    tersor.compress_(model, tersor.Config(linear=tersor.LayerConfig(codebook_size=63)))
    layer: Any = with_factors(model[0])  # type: ignore[arg-type]
    with torch.no_grad():
        layer.train_values().requires_grad_(False).mul_(1.5)
    reference = nn.MultiheadAttention(48, 4, batch_first=True).eval().requires_grad_(False)
    reference.in_proj_weight.copy_(layer.dense_weight())
    reference.out_proj.weight.copy_(layer.out_proj.dense_weight())
    # The queries' rows and those of keys and values are packed apart.
    x, memory = torch.randn(2, 5, 48), torch.randn(2, 7, 48)
    layer.execution = "compressed"
    with torch.inference_mode():
        found, expected = (each(x, memory, memory)[0] for each in (layer, reference))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
