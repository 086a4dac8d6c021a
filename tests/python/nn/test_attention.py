"""Attention from a compressed joint projection against torch's over its options."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import tersor
from tersor import Config, LayerConfig
from tersor.nn import CompressedMultiheadAttention

WIDTH, HEADS = 48, 4
SETTINGS = LayerConfig(codebook_size=63)


def _layers(dtype: torch.dtype = torch.float32, **options: Any) -> tuple[Any, nn.Module]:
    torch.manual_seed(0)
    dense = nn.MultiheadAttention(WIDTH, HEADS, **options).eval().to(dtype)
    model = nn.Sequential(copy.deepcopy(dense))
    tersor.compress_(model, Config(linear=SETTINGS))
    assert isinstance(model[0], CompressedMultiheadAttention)
    with torch.no_grad():
        dense.in_proj_weight.copy_(model[0].dense_weight())
        dense.out_proj.weight.copy_(model[0].out_proj.dense_weight())
    return model[0], dense.requires_grad_(False)


@given(
    first=st.booleans(),
    batched=st.booleans(),
    bias=st.booleans(),
    extra=st.booleans(),
    zero=st.booleans(),
    inputs=st.sampled_from(["self", "cross", "three"]),
    mask=st.sampled_from([None, "bool", "float", "heads"]),
    padding=st.sampled_from([None, "bool", "float"]),
    weights=st.booleans(),
    average=st.booleans(),
    way=st.sampled_from(["compressed", "dense"]),
)
def test_it_matches_torch(
    first: bool,
    batched: bool,
    bias: bool,
    extra: bool,
    zero: bool,
    inputs: str,
    mask: str | None,
    padding: str | None,
    weights: bool,
    average: bool,
    way: str,
) -> None:
    layer, dense = _layers(batch_first=first, bias=bias, add_bias_kv=extra, add_zero_attn=zero)
    layer.execution = way
    n, targets = 2, 5
    sources = targets if inputs == "self" else 7

    def signal(time: int) -> torch.Tensor:
        x = torch.randn(n, time, WIDTH)
        return (x if first else x.transpose(0, 1)) if batched else x[0]

    query = signal(targets)
    key = query if inputs == "self" else signal(sources)
    value = signal(sources) if inputs == "three" else key
    options: dict[str, Any] = {"need_weights": weights, "average_attn_weights": average}
    if mask is not None:
        shape = (n * HEADS if batched else HEADS, targets, sources)
        blocked = torch.rand(shape if mask == "heads" else shape[1:]) < 0.3
        blocked[..., 0] = False
        options["attn_mask"] = blocked if mask != "float" else blocked * -2.0
    if padding is not None:
        absent = torch.zeros(n, sources, dtype=torch.bool)
        absent[:, -2:] = True
        absent = absent if batched else absent[0]
        options["key_padding_mask"] = absent if padding == "bool" else absent * -3.0
    found, found_weights = layer(query, key, value, **options)
    expected, expected_weights = dense(query, key, value, **options)
    assert torch.allclose(found, expected, atol=1e-5)
    assert (found_weights is None) == (expected_weights is None)
    if expected_weights is not None:
        assert found_weights.shape == expected_weights.shape
        assert torch.allclose(found_weights, expected_weights, atol=1e-5)


def test_bfloat16() -> None:
    layer, dense = _layers(torch.bfloat16, batch_first=True)
    x = torch.randn(2, 5, WIDTH).bfloat16()
    assert torch.allclose(layer(x, x, x)[0], dense(x, x, x)[0], atol=3e-2)


@pytest.mark.parametrize("inputs", ["self", "cross"])
def test_gradients(inputs: str) -> None:
    layer, dense = _layers(batch_first=True)
    x = torch.randn(2, 5, WIDTH)
    memory = torch.randn(2, 7, WIDTH)
    found = []
    for each in (layer, dense):
        query = x.clone().requires_grad_(True)
        other = query if inputs == "self" else memory
        each(query, other, other, need_weights=False)[0].square().sum().backward()
        found.append(query.grad)
    assert torch.allclose(*found, atol=1e-4)


def test_training_drops_weights_and_a_trained_codebook_counts() -> None:
    layer, _ = _layers(batch_first=True, dropout=0.5)
    x, memory = torch.randn(2, 5, WIDTH), torch.randn(2, 7, WIDTH)
    assert torch.equal(layer(x, memory, memory)[0], layer(x, memory, memory)[0])
    layer.train()
    assert not torch.equal(layer(x, x, x)[0], layer(x, x, x)[0])
    layer.eval()
    values = layer.train_values()
    layer(x, memory, memory)[0].sum().backward()
    assert values.grad is not None
    values.requires_grad_(False).mul_(1.5)
    reference = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True).eval()
    with torch.no_grad():
        reference.in_proj_weight.copy_(layer.dense_weight())
        reference.out_proj.weight.copy_(layer.out_proj.dense_weight())
    expected = reference.requires_grad_(False)(x, memory, memory)[0]
    assert torch.allclose(layer(x, memory, memory)[0], expected, atol=1e-4)


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_fused_transformer_layers_take_no_wrong_path(
    grad: bool, padded: bool, tmp_path: Path
) -> None:
    def build() -> nn.Module:
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 2 * WIDTH, batch_first=True)
        return nn.TransformerEncoder(layer, 2).eval()

    model = tersor.compress_(build(), Config(linear=SETTINGS))
    dense = tersor.decompress_(copy.deepcopy(model))
    x = torch.randn(2, 6, WIDTH)
    mask = torch.zeros(2, 6, dtype=torch.bool)
    mask[1, 4:] = padded
    options = {"src_key_padding_mask": mask} if padded else {}
    with torch.set_grad_enabled(grad):
        found, expected = model(x, **options), dense(x, **options)
    kept = ~mask
    assert torch.allclose(found[kept], expected[kept], atol=1e-4)
    tersor.save(model, tmp_path / "m.safetensors")
    with torch.device("meta"):
        fresh = build()
    loaded = tersor.load_model(tmp_path / "m.safetensors", fresh)
    assert torch.equal(loaded(x, **options)[kept], found[kept])
    names = set(model.state_dict())
    assert "layers.0.self_attn.in_proj_weight_blob" in names
    assert set(dense.state_dict()) == set(build().state_dict())


def test_causal_needs_its_mask() -> None:
    layer, _ = _layers(batch_first=True)
    x = torch.randn(2, 5, WIDTH)
    with pytest.raises(RuntimeError, match="Need attn_mask"):
        layer(x, x, x, is_causal=True)
