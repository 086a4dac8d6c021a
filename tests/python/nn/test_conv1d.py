"""One-dimensional convolutions against torch's over their options."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tersor import LayerConfig
from tersor.nn import CompressedConv1d
from tersor.nn.registry import handler_of

OPTIONS: list[dict[str, Any]] = [
    {},
    {"stride": 2, "padding": 3, "bias": False},
    {"padding": "same", "dilation": 2, "kernel_size": 4},
    {"padding": "valid", "groups": 4},
    {"padding": 2, "padding_mode": "reflect"},
    {"padding": "same", "padding_mode": "circular"},
]


def _layers(options: dict[str, Any]) -> tuple[CompressedConv1d, nn.Conv1d]:
    torch.manual_seed(0)
    dense = nn.Conv1d(4, 8, **{"kernel_size": 3, **options})
    layer = CompressedConv1d.from_dense(dense, LayerConfig(codebook_size=63))
    with torch.no_grad():
        dense.weight.copy_(layer.dense_weight())
    return layer.requires_grad_(False), dense.requires_grad_(False)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("way", ["compressed", "dense"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 4, 11), (4, 11)])
def test_conv1d_matches_torch(
    options: dict[str, Any], way: str, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    layer, dense = _layers(options)
    layer, dense = layer.to(dtype), dense.to(dtype)
    layer.execution = way
    x = torch.randn(shape).to(dtype)
    found, expected = layer(x), dense(x)
    assert found.shape == expected.shape
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    assert torch.allclose(found, expected, atol=tolerance)


@pytest.mark.parametrize("way", ["compressed", "dense"])
def test_activations_and_residuals(way: str) -> None:
    layer, dense = _layers({"padding": 1})
    layer.activation, layer.execution = "relu", way
    x, residual = torch.randn(2, 4, 9), torch.randn(2, 8, 9)
    assert torch.allclose(layer(x, residual), (dense(x) + residual).relu(), atol=1e-5)


def test_gradients_and_graphs() -> None:
    layer, dense = _layers({"padding": 2, "stride": 2})
    x = torch.randn(2, 4, 9)
    a, b = x.clone().requires_grad_(True), x.clone().requires_grad_(True)
    layer(a).square().sum().backward()
    dense(b).square().sum().backward()
    assert torch.allclose(a.grad, b.grad, atol=1e-4)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    assert torch.allclose(compiled(x), dense(x), atol=1e-5)
    exported = torch.export.export(layer, (x,)).module()
    assert torch.allclose(exported(x), dense(x), atol=1e-5)


@pytest.mark.parametrize("options", OPTIONS)
def test_samples_are_what_the_rows_are_multiplied_with(options: dict[str, Any]) -> None:
    _, dense = _layers({**options, "bias": False})
    x = torch.randn(2, 4, 11)
    handler = handler_of(dense)
    assert handler is not None
    samples = torch.cat(list(handler.samples(dense, x)), 1)
    rows = dense.weight.flatten(1).unflatten(0, (handler.groups(dense), -1))
    y = torch.einsum("gsc,grc->grs", samples, rows).flatten(0, 1)
    assert torch.allclose(y.unflatten(1, (2, -1)).transpose(0, 1), dense(x), atol=1e-5)


def test_a_wrong_shape_is_named() -> None:
    layer, _ = _layers({})
    with pytest.raises(ValueError, match=r"x has shape \[2, 5, 9\], expected \[n, 4, t\]"):
        layer(torch.randn(2, 5, 9))
