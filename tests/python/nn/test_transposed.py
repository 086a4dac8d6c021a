"""The transposed linear layer of GPT-2 against the dense one."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from tersor import LayerConfig
from tersor.nn import CompressedTransposedLinear


def _layers(**settings: object) -> tuple[CompressedTransposedLinear, nn.Module]:
    torch.manual_seed(0)
    dense = Conv1D(24, 40)
    nn.init.normal_(dense.bias)
    own = LayerConfig(codebook_size=63, **settings)  # type: ignore[arg-type]
    layer = CompressedTransposedLinear.from_dense(dense, own)
    with torch.no_grad():
        dense.weight.copy_(layer.dense_weight())
    return layer.requires_grad_(False), dense.requires_grad_(False)


@pytest.mark.parametrize("way", ["compressed", "dense"])
@pytest.mark.parametrize("kind", ["shared_fp32", "plain_fp32"])
@pytest.mark.parametrize("density", [None, 0.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_matches_the_dense_layer(
    way: str, kind: str, density: float | None, dtype: torch.dtype
) -> None:
    layer, dense = _layers(kind=kind, density=density)
    layer, dense = layer.to(dtype), dense.to(dtype)
    layer.execution = way
    x = torch.randn(2, 5, 40).to(dtype)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-1
    assert torch.allclose(layer(x), dense(x), atol=tolerance)
    assert layer.weight.shape == dense.weight.shape


def test_gradients_and_graphs() -> None:
    layer, dense = _layers()
    x = torch.randn(3, 40)
    a, b = x.clone().requires_grad_(True), x.clone().requires_grad_(True)
    layer(a).square().sum().backward()
    dense(b).square().sum().backward()
    assert torch.allclose(a.grad, b.grad, atol=1e-3)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    assert torch.allclose(compiled(x), dense(x), atol=1e-5)
    values = layer.train_values()
    layer(x).sum().backward()
    assert values.grad is not None
    values.requires_grad_(False).mul_(2)
    assert torch.allclose(layer(x), x @ layer.dense_weight() + layer.bias, atol=1e-4)
