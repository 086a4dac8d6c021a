"""Layers whose weight is decoded, against torch's over their options."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import tersor
from tersor import LayerConfig
from tersor.nn import Compressed
from tersor.nn.registry import handler_of
from tersor.ops.decoded import is_decoded

SETTINGS = LayerConfig(codebook_size=63)

CASES: list[tuple[Any, tuple[int, ...], dict[str, Any]]] = [
    (nn.Conv3d, (2, 4, 5, 6, 7), {}),
    (nn.Conv3d, (4, 5, 6, 7), {"stride": 2, "padding": (1, 2, 0), "groups": 2, "bias": False}),
    (nn.Conv3d, (2, 4, 5, 6, 7), {"padding": "same", "dilation": 2, "padding_mode": "replicate"}),
    (nn.ConvTranspose1d, (2, 4, 9), {}),
    (nn.ConvTranspose1d, (4, 9), {"stride": 3, "output_padding": 1, "groups": 2}),
    (nn.ConvTranspose2d, (2, 4, 5, 6), {"stride": 2, "padding": 1, "dilation": 2}),
    (nn.ConvTranspose2d, (2, 4, 5, 6), {"bias": False, "groups": 4}),
    (nn.ConvTranspose3d, (2, 4, 3, 4, 5), {"stride": (1, 2, 1), "padding": 1}),
]


def _compressed(dense: nn.Module) -> tuple[Compressed, nn.Module]:
    """A compressed layer, and the dense one with the same weight."""
    handler = handler_of(dense)
    assert handler is not None
    layer: Any = handler.empty_like(dense)
    layer = type(layer).from_dense(dense, SETTINGS)
    with torch.no_grad():
        dense.weight.copy_(layer.dense_weight())  # type: ignore[operator]
    return layer.requires_grad_(False), dense.requires_grad_(False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("way", ["auto", "compressed", "dense"])
@pytest.mark.parametrize(("kind", "shape", "options"), CASES)
def test_convolutions_match_torch(
    kind: Any, shape: tuple[int, ...], options: dict[str, Any], way: str, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    layer, dense = _compressed(kind(4, 8, 3, **options).to(dtype))
    layer.execution = way
    x = torch.randn(shape).to(dtype)
    assert torch.equal(layer(x), dense(x))
    assert is_decoded(layer.weight_blob) == (way != "compressed")


def test_the_size_of_a_transposed_convolution_can_be_given() -> None:
    layer, dense = _compressed(nn.ConvTranspose2d(4, 8, 3, stride=2))
    x = torch.randn(1, 4, 5, 5)
    assert torch.equal(layer(x, output_size=[12, 12]), dense(x, output_size=[12, 12]))


def test_bilinear_matches_torch() -> None:
    layer, dense = _compressed(nn.Bilinear(6, 7, 20))
    a, b = torch.randn(3, 6), torch.randn(3, 7)
    assert torch.equal(layer(a, b), dense(a, b))


@pytest.mark.parametrize(("kind", "shape", "options"), CASES[::3])
def test_gradients_flow_to_inputs_and_codebooks(
    kind: Any, shape: tuple[int, ...], options: dict[str, Any]
) -> None:
    layer, dense = _compressed(kind(4, 8, 3, **options))
    values = layer.train_values()
    dense.weight.requires_grad_(True)
    x = torch.randn(shape, requires_grad=True)
    y = torch.randn(shape).copy_(x.detach()).requires_grad_(True)
    layer(x).square().sum().backward()
    dense(y).square().sum().backward()
    assert torch.allclose(x.grad, y.grad, rtol=1e-4, atol=1e-4)
    codes = torch.from_numpy(tersor.codec.csr.decode(layer.layer().csr)).long().flatten()
    gradient = dense.weight.grad.flatten()
    expected = torch.zeros(len(values) + 1).index_add_(0, codes, gradient)
    assert torch.allclose(values.grad, expected[1:], rtol=1e-3, atol=1e-3)


def test_graphs() -> None:
    layer, dense = _compressed(nn.ConvTranspose1d(4, 8, 3))
    x = torch.randn(2, 4, 9)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    assert torch.allclose(compiled(x), dense(x), atol=1e-6)
    exported = torch.export.export(layer, (x,)).module()
    assert torch.allclose(exported(x), dense(x), atol=1e-6)


def test_what_is_kept_is_said() -> None:
    layer, _ = _compressed(nn.Conv3d(4, 8, 3))
    layer.execution = "auto"
    layer(torch.randn(1, 4, 5, 5, 5))
    assert "runs dense (no kernel for this type of layer)" in repr(layer)
